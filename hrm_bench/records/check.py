"""What is wrong with the content of a record's file, in words: a key that is missing, or a value of another kind."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from hrm_bench.records.schema import SCHEMA_VERSION, Record

ROUNDING = 1e-6  # relative: of a loss that Lightning's checkpoint compares in single precision
ALWAYS: dict[str, type] = {"schema_version": int, "status": str, "identity": str}  # that no record lacks
BEGUN = ("config", "model", "memory", "seed")  # that no record of today's schema lacks
FINISHED = (
    *(*BEGUN, "code", "history", "best_epoch", "validation", "test", "floors", "leak", "causal", "seconds"),
)  # that no finished record lacks
OTHER = "of another kind"
LARGEST = 1e150  # of any figure: the square of one that is larger is no number
WORDS = ("config", "overrides", "versions", "notes", "gradient_coverage")  # keys without numbers that may be missing


class _Data(TypedDict):
    source: str
    name: NotRequired[str | None]
    path: NotRequired[str | None]
    train_chars: NotRequired[int | None]
    vocabulary: NotRequired[str]


class _Experiment(TypedDict):
    name: str
    baseline: dict[str, Any]


class _Config(TypedDict):
    """The values of a config that a report reads by name."""

    model: dict[str, Any]
    memory: dict[str, Any]
    data: _Data
    recipe: dict[str, Any]
    experiment: _Experiment


@with_config(ConfigDict(strict=True))
class _Checked(Record, total=False):
    config: _Config  # type: ignore[misc]


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(_Checked)


def numbers(value: Any) -> Any:
    """Return a value with NaN in place of null, as it was before it was written; JSON has no NaN."""
    if value is None:
        return float("nan")
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    return [numbers(item) for item in value] if isinstance(value, list) else value


def fault(content: Any) -> str | None:
    """Return what is wrong with the content of a record's file; None if it is a record."""
    if not isinstance(content, dict):
        return "it has no keys"
    for key, kind in ALWAYS.items():
        if type(content.get(key)) is not kind:
            return f"{key} is {'missing' if key not in content else OTHER}"
    if content["schema_version"] != SCHEMA_VERSION:
        return None  # it runs again
    is_finished = content["status"] == "finished"
    for key in FINISHED if is_finished else BEGUN:
        if content.get(key) is None:
            return f"{key} is {OTHER if key in content else 'missing'}"
    values = {key: value if key in WORDS else numbers(value) for key, value in content.items()}
    try:
        _adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))} is {'missing' if first['type'] == 'missing' else OTHER}"
    return next(_faults_of_finished(values), None) if is_finished else None


def _large(value: Any, key: str) -> Iterator[str]:
    """Yield the keys of figures that no run can have."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _large(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _large(item, key)
    elif isinstance(value, int | float) and LARGEST < abs(value) < math.inf:
        yield key


def _faults_of_finished(record: dict[str, Any]) -> Iterator[str]:
    for key in _large({key: value for key, value in record.items() if key not in WORDS}, ""):
        yield f"{key} is larger than any figure"
    validation, test = (record["floors"].get(split, {}) for split in ("validation", "test"))
    for split, baselines in (("validation", validation), ("test", test)):
        if not math.isfinite(baselines.get("unigram", {}).get("full", math.nan)):
            yield f"floors.{split} lacks the unigram model"
    if {name: [*ways] for name, ways in validation.items()} != {name: [*ways] for name, ways in test.items()}:
        yield "floors are of other models on validation than on test"
    if record.get("memory_use") and record["memory_use"].keys() != record["floors"].keys():
        yield "memory_use lacks a split"
    losses = {row["epoch"]: row["validation_nll"] for row in record["history"]}
    if record["best_epoch"] not in losses:
        yield "its history lacks the best epoch"
    elif not losses[record["best_epoch"]] <= min(losses.values()) * (1 + ROUNDING):
        yield f"best_epoch is {record['best_epoch']}, but its history has a lower loss"
