"""How records are written and read: one JSON file per cell, written whole or not at all, upgraded when read."""

import copy
import itertools
import json
import logging
import math
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hrm_bench.errors import UsageError
from hrm_bench.records.check import WORDS, fault, numbers
from hrm_bench.records.schema import SCHEMA_VERSION, Record, score

log = logging.getLogger("hrm_bench")

LOCK_FILE = ".lock"  # in the folder of a cell and of a sweep
RECORD_FILE = "record.json"
CONFIG_FILE = "config.yaml"  # beside the record, as soon as the cell has begun
ARCHIVE_SUFFIX = ".jsonl"  # of a file that holds the records of a sweep, one per line

# Keys that older records lack, and their value there.
RENAMED = {"printable_ascii": "ascii97"}  # vocabularies in older records

DEFAULTS: dict[str, Any] = {
    "overrides": [],
    "text": "",
    "notes": [],
    "versions": {},
    "history": [],
    "gradient_coverage": {},
    "leak": {},
    "memory_use": {},
    "unknown_characters": {},
    "unknown_fractions": {},
}


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that replaces ``path`` when it is complete; a reader finds the old file or the new one.

    If writing fails, the old file stays. ``lasting`` waits until the new one would survive a loss of power.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Write a value as JSON, atomically; a number that JSON does not have (NaN, Infinity) is written as null."""
    text = json.dumps(_finite(value), indent=1, allow_nan=False)
    with replacing(path, lasting=lasting) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Read a file that lies beside records; None if there is none. Raises UsageError if it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); remove it, or create it again") from error


def read(folder: Path) -> Record | None:
    """Read the record in a cell's folder; None if there is none. Raises UsageError if the file is not a record."""
    path = folder / RECORD_FILE
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: not a record ({error}); its sweep, run again, sets it aside") from error
    if wrong := fault(content):
        raise UsageError(f"{path}: not a record ({wrong}); its sweep, run again, sets it aside")
    return upgrade(content)


def upgrade(record: Record) -> Record:
    """Return a record with the keys that versions before this one did not write, and with NaN in place of null."""
    values = copy.deepcopy(DEFAULTS)
    values.update(record)
    with suppress(AttributeError, TypeError):  # what another schema has there, or nothing
        data = values.get("config", {}).get("data", {})
        if data.get("vocabulary") in RENAMED:
            data["vocabulary"] = RENAMED[data["vocabulary"]]
    if record["schema_version"] != SCHEMA_VERSION:
        return typing.cast(Record, values)
    values = {key: value if key in WORDS else numbers(value) for key, value in values.items()}
    for split in ("validation", "test"):
        figures = values.get(split, {})
        if any(map(math.isnan, figures.values())) and not math.isnan(figures["nll"]):
            values[split] = score(figures["nll"], characters=figures["characters"], words=figures["words"])
    return typing.cast(Record, values)


def read_or_set_aside(folder: Path) -> tuple[Record | None, list[str]]:
    """Read the record in a cell's folder; rename a damaged one, and return a note that says so."""
    try:
        return read(folder), []
    except UsageError:
        return None, [set_aside(folder / RECORD_FILE, "not a record")]


def set_aside(path: Path, why: str) -> str:
    """Rename a damaged file, so that no program reads it and a person can; return a note that says so."""
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    path.replace(aside)
    return f"{path.name} was damaged ({why}) and is kept as {aside.name}: the cell began again"


def is_finished(record: Record | None) -> bool:
    """Whether a cell need not run again."""
    return record is not None and record["status"] == "finished" and record["schema_version"] == SCHEMA_VERSION


def read_all(path: Path) -> Iterator[Record]:
    """Yield every record in a sweep's folder, ordered by folder name, or in an archive (``.jsonl``), in its order.

    A record counts only in the folder of its identity: a copy that has another name is left out, and a warning is
    logged. Raises UsageError if a file cannot be read or is not a record.
    """
    if path.suffix == ARCHIVE_SUFFIX and not path.is_dir():
        yield from _read_archive(path)
        return
    for folder in _cell_folders(path):
        record = read(folder)
        if record is not None and _is_in_place(record, folder):
            yield record


def read_whole(sweep: Path) -> Iterator[Record]:
    """Yield every record in a sweep's folder, except those that are damaged."""
    for folder in _cell_folders(sweep):
        with suppress(UsageError):
            record = read(folder)
            if record is not None and _is_in_place(record, folder):
                yield record


def _cell_folders(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob(f"*/{RECORD_FILE}"))


def _read_archive(file: Path) -> Iterator[Record]:
    try:
        entries = [json.loads(line) for line in file.read_bytes().splitlines()]
        records = [entry["content"] for entry in entries if PurePosixPath(entry["path"]).name == RECORD_FILE]
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a sweep's folder or an archive") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{file}: not an archive ({error}); give one that `archive pack` has written") from error
    for record in records:
        if wrong := fault(record):
            raise UsageError(
                f"{file}: has a line that is no record ({wrong}); give one that `archive pack` has written"
            )
        yield upgrade(record)


def _is_in_place(record: Record, folder: Path) -> bool:
    """Whether a record is in the folder of its identity; if not, log a warning that names it."""
    is_in_place = folder.name.endswith(record["identity"])
    if not is_in_place:
        log.warning("%s: left out: its record is of the cell %s; remove this copy", folder, record["identity"])
    return is_in_place


def _finite(value: Any) -> Any:
    """Replace every float that is NaN or infinite by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
