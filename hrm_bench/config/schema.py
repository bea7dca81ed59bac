"""The typed schemas of the config groups that have no class of their own; of one with a ``_target_``, its class is it.

A misspelt key or a value of another type stops at its schema, before any work.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


def choice(*values: str) -> Any:
    """A field that takes one of these words."""
    return field(default=MISSING, metadata={"choices": values})


def number(*, at_least: float, at_most: float = math.inf) -> Any:
    """A numeric field with bounds; one that may be null says so in its type."""
    return field(default=MISSING, metadata={"at_least": at_least, "at_most": at_most})


def option(off: Any, of: Any) -> Any:
    """A field whose value ``off`` leaves everything as it is without it, and so is no part of a cell's identity."""
    return field(default=off, metadata={**of.metadata, "off": off})


def plain_name() -> Any:
    """A field that names folders."""
    return field(default=MISSING, metadata={"plain": True})


@dataclass
class MemorySchema:
    """When a lane's memory is emptied, read and written."""

    mode: str = choice("none", "reset", "carry")
    write: str = choice("after_window", "every_segment")
    rule: str = choice("linear", "delta")
    evaluation: str = choice("same", "reset")


@dataclass
class DataSchema:
    """The text, its windows and their order."""

    source: str = choice("wikitext2", "wikitext103", "sample", "text_file")
    path: str | None = MISSING
    train_chars: int | None = number(at_least=1)
    validation_start: int = option(0, number(at_least=0))
    validation_chars: int | None = number(at_least=1)
    test_chars: int | None = number(at_least=1)
    window: int = number(at_least=1)
    order: str = choice("shuffled", "contiguous")
    windows_per_sample: int = number(at_least=1)


@dataclass
class RecipeSchema:
    """How a model is trained."""

    name: str = plain_name()
    max_epochs: int = number(at_least=1)
    budget: int | None = option(None, number(at_least=1))
    patience: int | None = number(at_least=1)
    batch_size: int = number(at_least=1)
    evaluation_batch_size: int = number(at_least=1)
    learning_rate: float = number(at_least=0)
    warmup: float = option(0, number(at_least=0, at_most=1))
    final_learning_rate: float = option(1, number(at_least=0, at_most=1))
    gate_learning_rate: float | None = option(None, number(at_least=0))
    weight_decay: float = number(at_least=0)
    decayed: str = option("all", choice("all", "matrices"))
    gradient_clip: float = number(at_least=0)
    averaging: float = option(0, number(at_least=0, at_most=0.99999))
    gradient_depth: int | None = option(None, number(at_least=1))
    offsets: str = option("fixed", choice("fixed", "random"))
    embedding_dropout: float = option(0, number(at_least=0, at_most=0.99))
    attention_dropout: float = option(0, number(at_least=0, at_most=0.99))
    feed_forward_dropout: float = option(0, number(at_least=0, at_most=0.99))
    head_dropout: float = option(0, number(at_least=0, at_most=0.99))
    distillation: float = option(0, number(at_least=0))
    character_dropout: float = option(0, number(at_least=0, at_most=0.99))


@dataclass
class TrainerSchema:
    """What a cell runs on."""

    accelerator: str = choice("cpu", "gpu")
    devices: int = number(at_least=1)
    precision: str = choice("32-true", "bf16-mixed")
    micro_batches: int = number(at_least=1)
    compile: str = choice("auto", "never", "always")
    num_threads: int = number(at_least=1)
    snapshot_seconds: float = number(at_least=0)


@dataclass
class LoggerSchema:
    """The mirror in W&B."""

    project: str = MISSING
    mode: str = choice("offline", "online", "disabled")


@dataclass
class ExperimentSchema:
    """What a sweep is called, and what its differences are taken to: values of model, memory or settings."""

    name: str = plain_name()
    baseline: dict[str, Any] = MISSING


@dataclass
class Schema:
    """A cell, wholly."""

    model: Any = MISSING
    memory: MemorySchema = field(default_factory=MemorySchema)
    data: DataSchema = field(default_factory=DataSchema)
    recipe: RecipeSchema = field(default_factory=RecipeSchema)
    trainer: TrainerSchema = field(default_factory=TrainerSchema)
    logger: LoggerSchema = field(default_factory=LoggerSchema)
    experiment: ExperimentSchema = field(default_factory=ExperimentSchema)
    seed: int = number(at_least=0, at_most=2**32 - 1)
    scale: int = option(1, number(at_least=1))
    force: bool = False
    fail_fast: bool = False
    plan: bool = False


def _itself(store: ConfigStore, _: dict[int, Any]) -> ConfigStore:
    return store


# Hydra copies its store of schemas, 20 ms, for every cell that it composes and 96 times for --help. The store is one a
# process, and what is loaded from it is copied anyway.
ConfigStore.__deepcopy__ = _itself  # type: ignore[attr-defined]
ConfigStore.instance().store(name="schema", node=Schema)
