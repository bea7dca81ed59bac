"""A search for the values of a recipe, the same number of trials for every model, as a sweep of cells.

``hydra.sweeper.search`` declares it (conf/experiment/tuning.yaml): the space, the number of trials, and a seed. Each
combination of the sweep's other values has a study of its own, which begins with the values of the recipe as it stands,
where they are in the space, and which Optuna's tree-structured Parzen estimator guides (arXiv 2304.11127). A round asks
every study for one trial and runs these as cells, side by side; the best validation perplexity of each is its study's
answer.

What a study asks next is a function of the seed and of the answers before, and cells that are finished are not run
again. So a search that was stopped, typed again, goes on where it was, and ends as if it had not been.
"""

import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from hrm_bench.config.identity import memory_mode
from hrm_bench.config.schema import RecipeSchema
from hrm_bench.errors import UsageError, no_such_key
from hrm_bench.records import store
from hrm_bench.records.schema import Record
from hrm_bench.report import searches
from hrm_bench.report.searches import Trial
from hrm_bench.report.searches import perplexity as perplexity_of
from hrm_bench.sweeps.sweep import Cell, Result
from hrm_bench.training import stopping

GROUP = "hydra.sweeper.search"
RECIPES = "recipes"  # the folder of the chosen values, a file a model
UNGUIDED = 4  # first trials of a study; a longer search begins like a shorter one, and so goes on with it
DIGITS = 3  # significant ones, of a value that is tried
KEYS = {"low", "high", "log", "choices"}
WHOLE = {each.name: int in (typing.get_args(each.type) or (each.type,)) for each in fields(RecipeSchema)}

Plan = Callable[[Sequence[str]], Cell]  # a cell of overrides; raises UsageError


@dataclass(frozen=True)
class Search:
    """What is declared."""

    trials: int
    seed: int
    space: Mapping[str, Mapping[str, Any]]  # by key of the recipe: low, high and, if it is so, log; or choices

    @classmethod
    def declared(cls, values: Mapping[str, Any]) -> "Search":
        """From a config. Raises UsageError."""
        names = [each.name for each in fields(cls)]
        faults = [no_such_key(f"{GROUP}.{name}", names) for name in values if name not in names]
        faults += [f"{GROUP}.{name}: missing; give {GROUP}.{name}=VALUE" for name in names if name not in values]
        if faults:
            raise UsageError(*faults)
        return cls(**values)

    def __post_init__(self) -> None:
        """Raise UsageError, a line a fault."""
        if faults := [*self._faults()]:
            raise UsageError(*faults)

    def _faults(self) -> Iterator[str]:
        for name, value, least in (("trials", self.trials, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < least:
                yield f"{GROUP}.{name}={value}: must be a whole number, at least {least}"
        if not isinstance(self.space, Mapping) or not self.space:
            yield f"{GROUP}.space={self.space}: must have a key of the recipe at least"
            return
        for key, each in self.space.items():
            yield from _range_faults(key, each)


def _range_faults(key: str, each: Any) -> Iterator[str]:
    name = f"{GROUP}.space.{key}"
    if key not in WHOLE:
        yield no_such_key(name, WHOLE)
    elif not isinstance(each, Mapping) or each.keys() - KEYS or ({"low", "high"} <= each.keys()) == ("choices" in each):
        yield f"{name}={each}: give low and high, and log if need be; or choices"
    elif "choices" in each:
        if not isinstance(each["choices"], Sequence) or not each["choices"] or isinstance(each["choices"], str):
            yield f"{name}.choices={each['choices']}: must be a list of values"
    else:
        low, high, is_log = each["low"], each["high"], each.get("log", False)
        kinds, kind = ((int,), "a whole number") if WHOLE[key] else ((int, float), "a number")
        faults = [f"{name}.{n}={v}: must be {kind}" for n, v in (("low", low), ("high", high)) if type(v) not in kinds]
        yield from faults
        if type(is_log) is not bool:
            yield f"{name}.log={is_log}: must be true or false"
        elif not faults and not low < high:
            yield f"{name}: low={low} must be below high={high}"
        elif not faults and is_log and low <= 0:
            yield f"{name}.low={low}: must be above 0, for log=true"


@dataclass
class Study:
    """The trials of one combination of the sweep's other values."""

    name: str  # model, memory, seed, and what else the combinations differ in
    cell: Cell  # as it is without what is searched for
    optimiser: Any  # optuna.Study
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The one with the lowest perplexity, the first of equals; None where all have failed."""
        return min((each for each in self.trials if each["perplexity"] is not None), key=perplexity_of, default=None)


def studies_of(search: Search, combinations: Sequence[Cell], plan: Plan) -> list[Study]:
    """A study, not yet begun, for each of the cells, as composed without what is searched for.

    Raises UsageError where a cell would choose on what results are of, or where an end of the space is no cell.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"{GROUP}: takes Optuna; pip install 'hrm_bench[tuning]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if any(cell.cfg.data.validation_start == 0 for cell in combinations):
        raise UsageError(
            "data.validation_start=0: a search would choose on the validation characters that results are of; "
            "try data.validation_start=5000"
        )
    made = []
    for name, cell in zip(_names(combinations), combinations, strict=True):
        for values in _ends(search.space):
            plan([*cell.overrides, *_words(values)])
        sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=UNGUIDED)
        study = Study(name, cell, optuna.create_study(sampler=sampler))
        if all(_is_in(each, cell.cfg.recipe[key]) for key, each in search.space.items()):
            study.optimiser.enqueue_trial({key: cell.cfg.recipe[key] for key in search.space})
        made.append(study)
    return made


def run(search: Search, studies: Sequence[Study], plan: Plan, execute: Callable[[Sequence[Cell]], Result]) -> Result:
    """Search; the studies have their trials, and what became of all their cells is given back.

    ``execute`` runs cells. It ends early where it is asked to stop.
    """
    from optuna.trial import TrialState

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
            if record["status"] not in ("finished", "failed"):
                continue
            perplexity = record["validation"]["perplexity"] if record["status"] == "finished" else None
            study.trials.append(Trial(values=each, perplexity=perplexity, cell=cell.folder.name))
            study.optimiser.tell(trial, perplexity, state=TrialState.FAIL if perplexity is None else None)
        if stopping.requested() is not None or result.request.reason is not None:
            break
    return Result(list(cells.values()), outcomes, result.request, has_run)


def _names(cells: Sequence[Cell]) -> list[str]:
    """What tells the cells of a search apart."""
    shared = set.intersection(*(set(cell.overrides) for cell in cells))
    made = []
    for cell in cells:
        cfg = cell.cfg
        told = {f"model={cfg.model.name}", f"memory={memory_mode(cfg)}", f"seed={cfg.seed}"}
        made.append(" ".join([cell.label, *(word for word in cell.overrides if word not in shared | told)]))
    return made


def _ends(space: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Values in which each end of each range, and each choice, is there once at least."""
    ends = {key: each["choices"] if "choices" in each else (each["low"], each["high"]) for key, each in space.items()}
    for index in range(max(map(len, ends.values()))):
        yield {key: values[min(index, len(values) - 1)] for key, values in ends.items()}


def _is_in(space: Mapping[str, Any], value: Any) -> bool:
    if "choices" in space:
        return value in space["choices"]
    return value is not None and bool(space["low"] <= value <= space["high"])


def _values(trial: Any, space: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What Optuna suggests, in the digits that are told."""
    found: dict[str, Any] = {}
    for key, each in space.items():
        if "choices" in each:
            found[key] = trial.suggest_categorical(key, list(each["choices"]))
            continue
        suggest = trial.suggest_int if WHOLE[key] else trial.suggest_float
        value = suggest(key, each["low"], each["high"], log=each.get("log", False))
        found[key] = value if WHOLE[key] else float(f"{value:.{DIGITS}g}")
    return found


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"recipe.{key}={'null' if value is None else value}" for key, value in values.items()]


def write(studies: Sequence[Study], search: Search, root: Path) -> list[Path]:
    """All trials as one file, and of each model the best one's values as a file for conf/recipe/tuned/; the paths."""
    told = [
        {
            "study": study.name,
            "validation_start": study.cell.cfg.data.validation_start,
            "validation_chars": study.cell.cfg.data.validation_chars,
            "trials": study.trials,
        }
        for study in studies
    ]
    space = {key: dict(each) for key, each in search.space.items()}
    store.write_json(root / searches.FILE, {"seed": search.seed, "space": space, "studies": told})
    written = [root / searches.FILE]
    for study, name in zip(studies, _file_names(studies), strict=True):
        if study.best is not None:
            path = root / RECIPES / f"{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            heading = (
                f"# The best of {len(study.trials)} trials: validation perplexity {study.best['perplexity']:.2f}.\n"
            )
            with store.replacing(path) as file:
                file.write((heading + yaml.safe_dump(study.best["values"], sort_keys=False)).encode())
            written.append(path)
    return written


def _file_names(studies: Sequence[Study]) -> list[str]:
    """The model of each; where it has several studies, all that tells them apart."""
    models = [str(study.cell.cfg.model.name) for study in studies]
    return [
        name if models.count(name) == 1 else re.sub(r"[^\w.=]+", "-", study.name)
        for study, name in zip(studies, models, strict=True)
    ]


def show(studies: Sequence[Study], search: Search) -> None:
    """Print the best trial of each study."""
    from hrm_bench.report.tables import print_grid

    headings = ["study", "trials", "validation perplexity", *search.space]
    lines = []
    for study in studies:
        best = study.best
        values = [] if best is None else [f"{best['perplexity']:.2f}", *map(str, best["values"].values())]
        lines.append([study.name, str(len(study.trials)), *values, *[""] * (len(headings) - 2 - len(values))])
    data = studies[0].cell.cfg.data
    note = f"The best trial of each study, {searches.where(data.validation_start, data.validation_chars)}."
    print_grid("search", headings, lines, words={"study"}, note=note)
