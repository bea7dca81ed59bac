"""The result record of a cell: one JSON file, written whole or not at all, complete without its neighbours."""

import itertools
import json
import os
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NotRequired, TypedDict

from hrm_bench.errors import UsageError
from hrm_bench.metrics import Score

SCHEMA_VERSION = 3
LOCK_FILE = ".lock"  # of a cell's folder, and of a sweep's
RECORD_FILE = "record.json"
CONFIG_FILE = "config.yaml"  # beside it, as soon as the cell has begun


Floors = dict[str, dict[str, float]]  # floor, way → perplexity a character


# Busy (in another process) and waiting (it has not begun) are said of a cell, and never written.
Status = Literal["finished", "failed", "interrupted", "busy", "waiting"]


class Epoch(TypedDict):
    """One row of a cell's history."""

    epoch: int  # from 1
    train_nll: float  # mean over the epoch, last segment of each window, nats a character
    validation_nll: float
    validation_perplexity: float
    seconds: float  # of training, since the cell's first epoch began
    memory_share: NotRequired[float]  # of a model with a memory: what its gates give to it, mean over validation text
    memory_norm: NotRequired[float]  # and the norm of a memory's matrix at the end of that text, mean over its heads


class Leak(TypedDict):
    """How much of the future any logit shows, by both audits; 0 but for rounding where a model is causal."""

    perturbation: float  # the largest change of a logit when a later character changes
    gradient: float  # the largest gradient of a logit in a later character's embedding


class MemoryUse(TypedDict):
    """Perplexity a character of one text, read with the model's own memory and with others in its place."""

    own: float
    zeroed: float  # an empty one before each window
    another_lane: float  # at each window, that of a lane which has read as much of the other scored text


class Record(TypedDict, total=False):
    """What a cell leaves behind; an unfinished one ends at ``wandb``, a finished one has no reason."""

    schema_version: int
    identity: str
    status: Status
    code: str  # a hash of the source that its figures follow from, and of PyTorch's version
    config: dict[str, Any]
    text: str  # twelve hexadecimal digits of a hash of the characters that are used; older records lack it
    model: str
    memory: str  # none | reset | carry
    seed: int
    parameters: int
    versions: dict[str, str]
    reason: str  # why it is not finished
    log: str
    notes: list[str]  # what else is to be known of how it ran; most have none
    wandb: str  # offline | online | disabled, as it came to be
    history: list[Epoch]
    best_epoch: int  # chosen on validation
    validation: Score
    test: Score
    gradient_coverage: dict[str, list[str]]  # which losses reach each component
    leak: dict[str, Leak]  # before_training and best: of the best checkpoint
    causal: bool  # whether all of these are but rounding
    bits_by_position: dict[str, list[float]]  # of each scored split: bits a character, by place in the window
    memory_use: dict[str, MemoryUse]  # of each scored split; empty without a memory that is ever written
    state_size: int  # numbers that a lane carries from window to window
    flops_per_character: float  # of reading, without training: twice the multiply-adds of all matrix products
    unknown_characters: dict[str, int]  # of each split, read as the vocabulary's first symbol
    floors: dict[str, Floors]  # perplexity of counting models on each scored split: floor, way
    seconds: float  # the whole cell
    train_seconds: float
    characters_per_second: float  # that training reads, the text of a teacher among them
    peak_memory: int  # bytes: of the process on a CPU, of the allocator on a GPU


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
