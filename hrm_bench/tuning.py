"""A search for the values of a recipe, the same number of trials for every model, as a sweep of cells.

``hydra.sweeper.search`` declares it (conf/experiment/tuning.yaml): the space, the number of trials, and a seed. Each
combination of the sweep's other values has a study of its own, which begins with the values of the recipe as it stands,
where they are in the space, and which Optuna's tree-structured Parzen estimator guides (arXiv 2304.11127). A round asks
every study for one trial and runs these as cells, side by side; the best validation perplexity of each is its study's
answer.

What a study asks next is a function of the seed and of the answers before, and cells that are finished are not run
again. So a search that was stopped, typed again, goes on where it was, and ends as if it had not been.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from hrm_bench import records, stopping
from hrm_bench.errors import UsageError, no_such_key
from hrm_bench.records import Record
from hrm_bench.report import searches
from hrm_bench.report.searches import Trial
from hrm_bench.report.searches import perplexity as perplexity_of
from hrm_bench.schemas import RecipeSchema
from hrm_bench.sweep import Cell, Result

RECIPES = "recipes"  # the folder of the chosen values, a file a model
UNGUIDED = 4  # first trials of a study; a longer search begins like a shorter one, and so goes on with it
DIGITS = 3  # significant ones, of a value that is tried
KEYS = {"low", "high", "log", "choices"}
RECIPE_KEYS = [each.name for each in fields(RecipeSchema)]


@dataclass(frozen=True)
class Search:
    """What is declared."""

    trials: int
    seed: int
    space: Mapping[str, Mapping[str, Any]]  # by key of the recipe: low, high and, if it is so, log; or choices

    def __post_init__(self) -> None:
        """Raise UsageError, a line a fault."""
        faults = [f"hydra.sweeper.search.{n}={v}: must be at least 1" for n, v in self._numbers() if v < 1]
        for key, each in self.space.items():
            name = f"hydra.sweeper.search.space.{key}"
            if key not in RECIPE_KEYS:
                faults.append(no_such_key(name, RECIPE_KEYS))
            elif each.keys() - KEYS or not ({"low", "high"} <= each.keys() or "choices" in each):
                faults.append(f"{name}={dict(each)}: give low and high, and log if need be; or choices")
            elif "low" in each and not each["low"] < each["high"]:
                faults.append(f"{name}: low={each['low']} must be below high={each['high']}")
        if faults:
            raise UsageError(*faults)

    def _numbers(self) -> list[tuple[str, int]]:
        return [("trials", self.trials), ("space", len(self.space))]


@dataclass
class Study:
    """The trials of one combination of the sweep's other values."""

    cell: Cell  # as it is without what is searched for
    optimiser: Any  # optuna.Study
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The one with the lowest perplexity, the first of equals; None where all have failed."""
        return min((each for each in self.trials if each["perplexity"] is not None), key=perplexity_of, default=None)


def run(
    search: Search,
    combinations: Sequence[Cell],
    plan: Callable[[Sequence[str]], Cell],
    execute: Callable[[Sequence[Cell]], Result],
) -> tuple[list[Study], Result]:
    """Search for each of the cells, as composed without; the studies, and what became of all their cells.

    ``plan`` makes a cell of overrides, and ``execute`` runs cells. It ends early where it is asked to stop.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError("hydra.sweeper.search: takes Optuna; pip install 'hrm_bench[tuning]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = []
    for cell in combinations:
        sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=UNGUIDED)
        study = Study(cell, optuna.create_study(sampler=sampler))
        if all(_is_in(each, cell.cfg.recipe[key]) for key, each in search.space.items()):
            study.optimiser.enqueue_trial({key: cell.cfg.recipe[key] for key in search.space})
        studies.append(study)
    cells: dict[Path, Cell] = {}
    outcomes: dict[Path, Record] = {}
    has_run = False
    for _ in range(search.trials):
        asked = [(study, study.optimiser.ask()) for study in studies]
        values = [_values(trial, search.space) for _, trial in asked]
        tried = [plan([*study.cell.overrides, *_words(each)]) for (study, _), each in zip(asked, values, strict=True)]
        result = execute(list({cell.folder: cell for cell in tried}.values()))
        cells |= {cell.folder: cell for cell in result.cells}
        outcomes |= result.outcomes
        has_run |= result.has_run
        for (study, trial), each, cell in zip(asked, values, tried, strict=True):
            record = outcomes[cell.folder]
            finished = record["status"] == "finished"
            perplexity = record["validation"]["perplexity"] if finished else None
            study.trials.append(Trial(values=each, perplexity=perplexity, cell=cell.folder.name))
            study.optimiser.tell(trial, perplexity, state=None if finished else optuna.trial.TrialState.FAIL)
        if stopping.requested() is not None or result.request.reason is not None:
            break
    return studies, Result(list(cells.values()), outcomes, result.request, has_run)


def _is_in(space: Mapping[str, Any], value: Any) -> bool:
    return value in space["choices"] if "choices" in space else bool(space["low"] <= value <= space["high"])


def _values(trial: Any, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What Optuna suggests, in the digits that are told."""
    found: dict[str, Any] = {}
    for key, each in space.items():
        if "choices" in each:
            found[key] = trial.suggest_categorical(key, list(each["choices"]))
        else:
            value = trial.suggest_float(key, each["low"], each["high"], log=bool(each.get("log", False)))
            found[key] = float(f"{value:.{DIGITS}g}")
    return found


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"recipe.{key}={'null' if value is None else value}" for key, value in values.items()]


def write(studies: Sequence[Study], search: Search, root: Path) -> list[Path]:
    """All trials as one file, and of each model the best one's values as a file for conf/recipe/tuned/; the paths."""
    told = [
        {
            "study": study.cell.label,
            "overrides": [*study.cell.overrides],
            "trials": study.trials,
        }
        for study in studies
    ]
    space = {key: dict(each) for key, each in search.space.items()}
    records.write_json(root / searches.FILE, {"seed": search.seed, "space": space, "studies": told})
    written = [root / searches.FILE]
    for study, name in zip(studies, _names(studies), strict=True):
        if study.best is not None:
            path = root / RECIPES / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            heading = (
                f"# The best of {len(study.trials)} trials: validation perplexity {study.best['perplexity']:.2f}.\n"
            )
            path.write_text(heading + yaml.safe_dump(study.best["values"], sort_keys=False), encoding="utf-8")
            written.append(path)
    return written


def _names(studies: Sequence[Study]) -> list[str]:
    """The model of each; where it has several studies, also what else is swept over."""
    models = [str(study.cell.cfg.model.name) for study in studies]
    return [
        name if models.count(name) == 1 else "-".join(study.cell.label.split())
        for study, name in zip(studies, models, strict=True)
    ]


def show(studies: Sequence[Study], search: Search) -> None:
    """Print the best trial of each study."""
    from hrm_bench.report.tables import print_grid

    headings = ["study", "trials", "validation perplexity", *search.space]
    lines = []
    for study, name in zip(studies, _names(studies), strict=True):
        best = study.best
        values = [] if best is None else [f"{best['perplexity']:.2f}", *map(str, best["values"].values())]
        lines.append([name, str(len(study.trials)), *values, *[""] * (len(headings) - 2 - len(values))])
    note = "The best trial of each study, on the validation characters that the search has to itself."
    print_grid("search", headings, lines, words={"study"}, note=note)
