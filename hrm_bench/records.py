"""The result record of a cell: one JSON file, written whole or not at all, complete without its neighbours."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from hrm_bench.errors import UsageError
from hrm_bench.metrics import Score

SCHEMA_VERSION = 2
RECORD_FILE = "record.json"


Floors = dict[str, dict[str, float]]  # floor, way → perplexity a character


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
    status: Literal["finished", "failed", "interrupted"]
    config: dict[str, Any]
    model: str
    memory: str  # none | reset | carry
    seed: int
    parameters: int
    versions: dict[str, str]
    reason: str  # why it is not finished
    log: str
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
    characters_per_second: float  # of training text, each character once an epoch
    peak_memory: int  # bytes: of the process on a CPU, of the allocator on a GPU


def write_json(path: Path, value: Any) -> None:
    """Write so that a reader finds the old file or the new one, never a part of it."""
    text = json.dumps(value, indent=1)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(folder: Path) -> Record | None:
    """The record in a cell's folder, if it has one."""
    path = folder / RECORD_FILE
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path}: not a record ({error}); remove it, and its cell runs again") from error
    return record


def is_finished(record: Record | None) -> bool:
    """Whether a cell need not run again."""
    return record is not None and record["status"] == "finished" and record["schema_version"] == SCHEMA_VERSION


def read_all(sweep: Path) -> Iterator[Record]:
    """Every record in a sweep's folder, in the order of its cells' names."""
    for folder in sorted(path.parent for path in sweep.glob(f"*/{RECORD_FILE}")):
        record = read(folder)
        if record is not None:
            yield record
