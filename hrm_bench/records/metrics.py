"""The figures of a record that a claim can be about."""

import math
from dataclasses import dataclass
from typing import Any

from hrm_bench.records.schema import Record

DEFAULT = "validation_perplexity"


@dataclass(frozen=True)
class Metric:
    """A figure of a record, and how a reader sees it."""

    key: str  # dotted, in the record
    noun: str
    form: str = ".2f"  # of the figure itself, not of a difference
    unit: str = ""
    is_of_plateau: bool = False  # whether runs on the plateau count by themselves
    is_perplexity: bool = False  # whether the sd that a paper assumes is of this figure

    def of(self, record: Record) -> float | None:
        """Return the figure; None if the record has no such number."""
        value: Any = record
        for key in self.key.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value if type(value) in (int, float) and not math.isnan(value) else None


METRICS = {
    "validation_perplexity": Metric(
        "validation.perplexity", "validation perplexity", is_of_plateau=True, is_perplexity=True
    ),
    "test_perplexity": Metric("test.perplexity", "test perplexity", is_of_plateau=True, is_perplexity=True),
    "validation_bits_per_character": Metric(
        "validation.bits_per_character", "validation bits per character", ".3f", is_of_plateau=True
    ),
    "test_bits_per_character": Metric("test.bits_per_character", "test bits per character", ".3f", is_of_plateau=True),
    "validation_accuracy": Metric("answers.validation.all.accuracy", "validation accuracy", ".3f"),
    "test_accuracy": Metric("answers.test.all.accuracy", "test accuracy", ".3f"),
    "train_seconds": Metric("train_seconds", "training time", ".1f", "s"),
    "flops_per_character": Metric("flops_per_character", "FLOPs per character", ",.0f"),
}


def metric(name: str) -> Metric:
    """Return the metric of this name, or of this dotted key of a record."""
    return METRICS.get(name) or Metric(name, name, ".4g")


def is_known(name: str) -> bool:
    """Whether a name is that of a metric, or a dotted key that begins as a key of a record."""
    first, dot, _ = name.partition(".")
    return name in METRICS or (bool(dot) and first in Record.__annotations__)
