"""A search for the values of a recipe, with the same number of trials for every model, as a sweep of cells.

``hydra.sweeper.search`` declares it (conf/experiment/tuning.yaml): the space, the number of trials and a seed. Each
combination of the sweep's other values has its own study. A study begins with the recipe's present values, if they are
in the space. Optuna's tree-structured Parzen estimator (arXiv 2304.11127) proposes its later trials. A round takes one
trial of every study and runs these as cells, side by side. The best validation perplexity decides.

A study's next proposal depends only on the seed and on the results so far, and finished cells do not run again. So the
same command continues a search that was stopped, and ends as if it had not been stopped.
"""

import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

import yaml

from hrm_bench import cli
from hrm_bench.cells.cell import Cell
from hrm_bench.config.schema import Recipe
from hrm_bench.errors import UsageError, no_such_key
from hrm_bench.records import schema, store
from hrm_bench.records.schema import Trial
from hrm_bench.sweeps.sweep import Outcomes, Result, job_words
from hrm_bench.training.stopping import StopSignal

GROUP = "hydra.sweeper.search"
VALUES_FILE = "tuned_values.yaml"  # the best values, as conf/tuned_values.yaml has them
UNGUIDED = 4  # first trials of a study; a constant, so that a longer search begins like a shorter one
DIGITS = 3  # significant ones, of a value that is tried
KEYS = {"low", "high", "log", "choices"}
TYPES = typing.get_type_hints(Recipe)
IS_WHOLE = {key: int in (typing.get_args(TYPES[key]) or (TYPES[key],)) for key in Recipe.model_fields}

Space = Mapping[str, Mapping[str, Any]]  # by key of the recipe: low, high and perhaps log; or choices
Plan = Callable[[Sequence[str]], Cell]  # returns the cell of overrides; raises UsageError


@dataclass(frozen=True)
class Search:
    """A search as a config declares it."""

    trials: int  # per study
    seed: int
    space: Space

    @classmethod
    def declared(cls, values: Mapping[str, Any]) -> "Search":
        """Return the search that a config declares. Raises UsageError."""
        names = [item.name for item in fields(cls)]
        faults = [no_such_key(f"{GROUP}.{name}", names) for name in values if name not in names]
        faults += [f"{GROUP}.{name}: missing; give {GROUP}.{name}=VALUE" for name in names if name not in values]
        if faults:
            raise UsageError(*faults)
        return cls(**values)

    def __post_init__(self) -> None:
        """Raise UsageError with one line per fault."""
        faults = [
            f"{GROUP}.{name}={value}: must be a whole number, at least {least}"
            for name, value, least in (("trials", self.trials, 1), ("seed", self.seed, 0))
            if type(value) is not int or value < least
        ]
        if isinstance(self.space, Mapping) and self.space:
            faults += [fault for key, limits in self.space.items() for fault in _limit_faults(key, limits)]
        else:
            faults.append(f"{GROUP}.space={self.space}: must have at least one key of the recipe")
        if faults:
            raise UsageError(*faults)


def _limit_faults(key: str, limits: Any) -> Iterator[str]:
    name = f"{GROUP}.space.{key}"
    given = limits if isinstance(limits, Mapping) else {}
    if key not in IS_WHOLE:
        yield no_such_key(name, IS_WHOLE)
    elif given.keys() - KEYS or ({"low", "high"} <= given.keys()) == ("choices" in given):
        yield f"{name}={limits}: give low and high, and log if it is needed; or choices"
    elif "choices" in given:
        choices = given["choices"]
        if not isinstance(choices, list) or not choices:
            yield f"{name}.choices={choices}: must be a list of values"
    else:
        yield from _range_faults(name, whole=IS_WHOLE[key], **given)


def _range_faults(name: str, low: Any, high: Any, log: Any = False, *, whole: bool) -> Iterator[str]:
    allowed, kind = ((int,), "a whole number") if whole else ((int, float), "a number")
    wrong = {end: value for end, value in (("low", low), ("high", high)) if type(value) not in allowed}
    yield from (f"{name}.{end}={value}: must be {kind}" for end, value in wrong.items())
    if type(log) is not bool:
        yield f"{name}.log={log}: must be true or false"
    elif not wrong and not low < high:
        yield f"{name}: low={low} must be below high={high}"
    elif not wrong and log and low <= 0:
        yield f"{name}.low={low}: must be above 0, for log=true"


@dataclass
class Study:
    """The trials of one combination of the sweep's other values."""

    name: str  # model, memory, seed, and the other values in which the combinations differ
    cell: Cell  # with the recipe's own values
    optimizer: Any  # optuna.Study
    trials: list[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest perplexity, the first of equals; None if all failed."""
        finished = [trial for trial in self.trials if trial["perplexity"] is not None]
        return min(finished, key=lambda trial: trial["perplexity"] or inf, default=None)


def studies_of(search: Search, combinations: Sequence[Cell], plan: Plan) -> list[Study]:
    """Return one study, not yet begun, for each of these cells, which have the recipe's own values.

    Raises UsageError if results are scored on what a cell would choose on, or if an end of the space is not allowed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(f"{GROUP}: needs Optuna; pip install 'hrm_bench[tuning]'") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if any(cell.config.data.validation_start == 0 for cell in combinations):
        raise UsageError(
            "data.validation_start=0: a search would choose on the validation characters that results are scored on; "
            "try data.validation_start=5000"
        )
    studies = []
    for name, cell in zip(_names(combinations), combinations, strict=True):
        for values in _ends(search.space):
            plan([*job_words(cell), *_overrides(values)])
        sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=UNGUIDED)
        study = Study(name, cell, optuna.create_study(sampler=sampler))
        if all(_is_inside(limits, cell.config.recipe[key]) for key, limits in search.space.items()):
            study.optimizer.enqueue_trial({key: cell.config.recipe[key] for key in search.space})
        studies.append(study)
    return studies


def run(
    search: Search,
    studies: Sequence[Study],
    plan: Plan,
    execute: Callable[[Sequence[Cell]], Result],
    stop: StopSignal,
) -> Result:
    """Run the search, add the trials to the studies, and return the outcomes of all cells.

    ``execute`` runs the cells of a round. The search ends early if ``stop`` has a reason.
    """
    from optuna.trial import TrialState

    cells: dict[Path, Cell] = {}
    outcomes = Outcomes()
    has_run = False
    for _ in range(search.trials):
        proposals = [study.optimizer.ask() for study in studies]
        values = [_proposed_values(proposal, search.space) for proposal in proposals]
        tried = [plan([*job_words(study.cell), *_overrides(v)]) for study, v in zip(studies, values, strict=True)]
        cells.update({cell.folder: cell for cell in tried})
        result = execute(list({cell.folder: cell for cell in tried}.values()))
        outcomes.update(result.outcomes)
        has_run = has_run or result.has_run
        for study, proposal, given, cell in zip(studies, proposals, values, tried, strict=True):
            record = outcomes[cell.folder]
            if record["status"] not in ("finished", "failed"):
                continue
            perplexity = record["validation"]["perplexity"] if record["status"] == "finished" else None
            study.trials.append(Trial(values=given, perplexity=perplexity, cell=cell.folder.name))
            study.optimizer.tell(proposal, perplexity, state=TrialState.FAIL if perplexity is None else None)
        if stop.requested():
            break
    return Result(list(cells.values()), outcomes, has_run)


def write(studies: Sequence[Study], search: Search, root: Path) -> list[Path]:
    """Write all trials into one file, and the best values as lines for conf/tuned_values.yaml; return the paths."""
    content = schema.Search(
        seed=search.seed,
        space={key: dict(limits) for key, limits in search.space.items()},
        studies=[
            schema.Study(
                study=study.name,
                validation_start=study.cell.config.data.validation_start,
                validation_chars=study.cell.config.data.validation_chars,
                trials=study.trials,
            )
            for study in studies
        ],
    )
    written = [root / schema.SEARCH_FILE]
    store.write_json(written[0], content)
    lines = [_line(name, study) for name, study in zip(_row_names(studies), studies, strict=True) if study.best]
    if lines:
        written.append(root / VALUES_FILE)
        with store.replacing(written[-1]) as file:
            file.write("\n".join(["tuned:", *lines, ""]).encode())
    return written


def _line(name: str, study: Study) -> str:
    """Return the line of conf/tuned_values.yaml with the best values of a study."""
    assert study.best is not None
    values = yaml.safe_dump(study.best["values"], default_flow_style=True, sort_keys=False, width=inf).strip()
    return f"  {name}: {values} # {study.best['perplexity']:.2f}, the best of {len(study.trials)} trials"


def print_best(studies: Sequence[Study], search: Search) -> None:
    """Print the best trial of each study."""
    rows = []
    for study in studies:
        values: list[Any] = [""] * (1 + len(search.space))
        if study.best is not None:
            values = [f"{study.best['perplexity']:.2f}", *study.best["values"].values()]
        rows.append([study.name, len(study.trials), *values])
    data = studies[0].cell.config.data
    end = "the end" if data.validation_chars is None else f"{data.validation_start + data.validation_chars:,}"
    cli.print_table(
        "search",
        ["study", "trials", "validation perplexity", *search.space],
        rows,
        text_columns={"study"},
        caption=f"The best trial of each study, on validation characters {data.validation_start + 1:,} to {end}.",
    )


def _names(cells: Sequence[Cell]) -> list[str]:
    """Return what distinguishes each of these cells from the others."""
    shared = set.intersection(*(set(cell.overrides) for cell in cells))
    names = []
    for cell in cells:
        cfg = cell.config
        known = shared | {f"model={cfg.model.name}", f"memory={cell.memory}", f"seed={cfg.seed}"}
        names.append(" ".join([cell.label, *(word for word in cell.overrides if word not in known)]))
    return names


def _row_names(studies: Sequence[Study]) -> list[str]:
    """Return the name of each study's model, or of the study if its model has several."""
    models = [str(study.cell.config.model.name) for study in studies]
    return [
        model if models.count(model) == 1 else re.sub(r"[^\w.=]+", "-", study.name)
        for study, model in zip(studies, models, strict=True)
    ]


def _ends(space: Space) -> Iterator[dict[str, Any]]:
    """Yield values that contain each end of each range, and each choice, at least once."""
    ends = {key: limits.get("choices") or (limits["low"], limits["high"]) for key, limits in space.items()}
    for index in range(max(map(len, ends.values()))):
        yield {key: values[min(index, len(values) - 1)] for key, values in ends.items()}


def _is_inside(limits: Mapping[str, Any], value: Any) -> bool:
    if "choices" in limits:
        return value in limits["choices"]
    return value is not None and bool(limits["low"] <= value <= limits["high"])


def _proposed_values(proposal: Any, space: Space) -> dict[str, Any]:
    """Return the values of an Optuna trial, rounded to ``DIGITS``."""
    values: dict[str, Any] = {}
    for key, limits in space.items():
        if "choices" in limits:
            values[key] = proposal.suggest_categorical(key, list(limits["choices"]))
        elif IS_WHOLE[key]:
            values[key] = proposal.suggest_int(key, limits["low"], limits["high"], log=limits.get("log", False))
        else:
            value = proposal.suggest_float(key, limits["low"], limits["high"], log=limits.get("log", False))
            values[key] = float(f"{value:.{DIGITS}g}")
    return values


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"recipe.{key}={'null' if value is None else value}" for key, value in values.items()]
