"""The result record of a cell: one JSON file, written whole or not at all, complete without its neighbours."""

import itertools
import json
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hrm_bench.errors import UsageError
from hrm_bench.records.schema import SCHEMA_VERSION, Record

LOCK_FILE = ".lock"  # of a cell's folder, and of a sweep's
RECORD_FILE = "record.json"
CONFIG_FILE = "config.yaml"  # beside it, as soon as the cell has begun


@contextmanager
def replacing(path: Path, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """A file to write in the place of ``path``: a reader finds the old one or the new one, never a part of it.

    Where writing fails, the old one stays. ``lasting`` waits until the new one would outlive a loss of power.
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
    """Write a value so that a reader finds the old file or the new one, never a part of it."""
    text = json.dumps(value, indent=1)
    with replacing(path, lasting=lasting) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """What a file has that lies beside records; None where there is none. Raises UsageError where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error}); remove it, or make it again") from error


def read(folder: Path) -> Record | None:
    """The record in a cell's folder, if it has one. Raises UsageError where the file is not a record."""
    path = folder / RECORD_FILE
    try:
        record: Any = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: not a record ({error}); its sweep, run again, sets it aside") from error
    if not isinstance(record, dict) or not {"schema_version", "status", "identity"} <= record.keys():
        raise UsageError(f"{path}: not a record (it has no status); its sweep, run again, sets it aside")
    return typing.cast(Record, record)


def read_or_set_aside(folder: Path) -> tuple[Record | None, list[str]]:
    """The record in a cell's folder; a damaged one gets another name, and a sentence says so."""
    try:
        return read(folder), []
    except UsageError:
        return None, [set_aside(folder / RECORD_FILE, "not a record")]


def set_aside(path: Path, why: str) -> str:
    """Give a damaged file another name, under which nobody reads it and a person can; a sentence that says so."""
    number = next(n for n in itertools.count(1) if not path.with_name(f"{path.name}.damaged-{n}").exists())
    aside = path.with_name(f"{path.name}.damaged-{number}")
    path.replace(aside)
    return f"{path.name} was damaged ({why}) and is kept as {aside.name}: the cell began again"


def is_set_aside(path: Path) -> bool:
    """Whether a file is one that was damaged."""
    return ".damaged-" in path.name


def is_finished(record: Record | None) -> bool:
    """Whether a cell need not run again."""
    return record is not None and record["status"] == "finished" and record["schema_version"] == SCHEMA_VERSION


def read_whole(sweep: Path) -> Iterator[Record]:
    """Every record in a sweep's folder that can be read."""
    for path in sorted(sweep.glob(f"*/{RECORD_FILE}")):
        with suppress(UsageError):
            record = read(path.parent)
            if record is not None:
                yield record


def read_all(sweep: Path) -> Iterator[Record]:
    """Every record in a sweep's folder, in the order of its cells' names."""
    for folder in sorted(path.parent for path in sweep.glob(f"*/{RECORD_FILE}")):
        record = read(folder)
        if record is not None:
            yield record
