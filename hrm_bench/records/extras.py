"""Files beside the records of a sweep, in its folder or in its archive: other scores, and a search."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import (
    ADAPTATION_FILE,
    MANIFEST_FILE,
    RESCORING_FILE,
    SEARCH_FILE,
    Adaptation,
    Rescoring,
    Search,
    Study,
    Trial,
)


def sweep_name(path: Path) -> str:
    """Return the name of a sweep's folder or archive."""
    return path.resolve().name.removesuffix(store.ARCHIVE_SUFFIX)


def read_rescoring(path: Path) -> list[Rescoring]:
    """Read what ``evaluate`` has scored of a sweep; empty if nothing."""
    content = _read(path, RESCORING_FILE) or {"answers": []}
    rescoring: list[Rescoring] = content["answers"]
    return rescoring


def read_adaptation(path: Path) -> list[Adaptation]:
    """Read what ``evaluate adapt=...`` has scored of a sweep; empty if nothing."""
    content = _read(path, ADAPTATION_FILE) or {"answers": []}
    adaptation: list[Adaptation] = content["answers"]
    return adaptation


def read_search(path: Path) -> Search | None:
    """Read the search of a sweep, if it was one."""
    search: Search | None = _read(path, SEARCH_FILE)
    return search


def read_baselines(path: Path) -> dict[str, dict[str, Any]]:
    """Read what the last command of each experiment in a sweep's folder compared with; an archive has none."""
    content = None
    with suppress(UsageError):  # a damaged one is written again by the next command
        content = _read(path, MANIFEST_FILE)
    baselines = content.get("baselines") if isinstance(content, dict) else None
    whole = isinstance(baselines, dict) and all(isinstance(values, dict) for values in baselines.values())
    return baselines if whole else {}  # type: ignore[return-value]


def _read(path: Path, file: str) -> Any:
    return _archived(path).get(file) if path.suffix == store.ARCHIVE_SUFFIX else store.read_json(path / file)


def _archived(path: Path) -> dict[str, Any]:
    try:
        return {line["path"]: line["content"] for line in map(json.loads, path.read_bytes().splitlines())}
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path}: not an archive ({error}); give one that `archive pack` has written") from error


def perplexity_of(trial: Trial) -> float:
    """Return what trials are compared by; infinite for a trial that failed."""
    return math.inf if trial["perplexity"] is None else trial["perplexity"]


def chosen_on(study: Study) -> str:
    """Return in words which validation characters a search chooses on."""
    start, number = study["validation_start"], study["validation_chars"]
    return f"on validation characters {start + 1:,} to {'its end' if number is None else f'{start + number:,}'}"


def gains(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """Return by number of trials: how far the best so far is below the first finished one, in percent of that."""
    best = [*enumerate(accumulate(map(perplexity_of, trials), min), start=1)]
    finished = [(number, value) for number, value in best if value < math.inf]
    return [(number, 100 * (1 - value / finished[0][1])) for number, value in finished]
