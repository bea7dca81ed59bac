"""All evidence of a trained model, as its record keeps it: one line of ``MEASURES`` per key of the record.

A new measure is a function of ``Trained``, here or in a module of its own, and a line in ``MEASURES``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Samples
from hrm_bench.evidence import answers, articles, causality, probes
from hrm_bench.evidence.articles import Held
from hrm_bench.evidence.coverage import gradient_coverage
from hrm_bench.evidence.probes import Reading
from hrm_bench.records.schema import Answers, Article, Floors, Leak, MemoryUse, Record, Score, score

SCORED = ("validation", "test")
MOST_KEPT = 100_000  # characters of a split whose nats are kept one by one
OTHER = {"validation": "test", "test": "validation"}


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and what its evidence is computed from."""

    model: CharLM  # with the best epoch's weights, in evaluation mode
    samples: Mapping[str, Samples]  # of the three splits
    nll: Mapping[str, float]  # per scored split: mean nats per character
    readings: Mapping[str, Sequence[Reading]]  # each scored split, as it was read for that
    leak_before: Leak  # of the architecture, untrained
    floors: Mapping[str, Floors]  # per scored split: n-gram baselines of the text
    has_memory: bool  # whether it has a memory that is ever written
    precision: str  # in which it was scored
    held_out: Mapping[str, Sequence[Held]]  # texts besides, by split

    def split_nats(self, split: str) -> Tensor:
        """Return the nats of each character of a scored split, (T,), in the text's order."""
        return torch.cat([reading.nats.flatten() for reading in self.readings[split]])

    @cached_property
    def article_nats(self) -> dict[str, list[Tensor]]:
        """The nats of each character of the held-out texts, by split."""
        return {
            split: articles.read(self.model, some, precision=self.precision) for split, some in self.held_out.items()
        }

    @cached_property
    def leak(self) -> dict[str, Leak]:
        """The dependence of logits on later characters, before training and with the best weights."""
        samples = self.samples["train"]
        num_windows = causality.windows_to_audit(self.model, samples.length // samples.window)
        return {"before_training": self.leak_before, "best": causality.leak(self.model, num_windows=num_windows)}


def _scores(trained: Trained, split: str) -> Score:
    samples = trained.samples[split]
    num_bytes = samples.num_characters if samples.has_bytes else None
    nll = trained.nll[split] * samples.symbols_per_character
    return score(nll, characters=samples.num_decoded, words=samples.num_words, num_bytes=num_bytes)


def _bits_by_position(trained: Trained) -> dict[str, list[float]]:
    window = trained.model.window
    return {
        split: [bits * trained.samples[split].symbols_per_character for bits in probes.bits_by_position(text, window)]
        for split, text in trained.readings.items()
    }


def _memory_use(trained: Trained) -> dict[str, MemoryUse]:
    if not trained.has_memory:
        return {}
    model, texts, precision = trained.model, trained.readings, trained.precision
    uses = {}
    for split in SCORED:
        power = trained.samples[split].symbols_per_character
        uses[split] = probes.memory_use(model, texts[split], texts[OTHER[split]], power=power, precision=precision)
    return uses


def _answers(trained: Trained) -> dict[str, dict[str, Answers]] | None:
    if trained.samples["train"].targets is None:
        return None
    return {split: answers.by_slice(text, trained.samples[split]) for split, text in trained.readings.items()}


def _windows(trained: Trained) -> dict[str, list[float]] | None:
    if trained.samples["train"].targets is not None:
        return None
    return {split: articles.by_window(trained.split_nats(split), trained.model.window) for split in SCORED}


def _articles(trained: Trained) -> dict[str, list[Article]] | None:
    if not any(trained.held_out.values()):
        return None
    return {split: articles.scores(some, trained.article_nats[split]) for split, some in trained.held_out.items()}


MEASURES: dict[str, Callable[[Trained], Any]] = {
    "parameters": lambda trained: sum(parameter.numel() for parameter in trained.model.parameters()),
    "validation": lambda trained: _scores(trained, "validation"),
    "test": lambda trained: _scores(trained, "test"),
    "gradient_coverage": lambda trained: gradient_coverage(trained.model),
    "leak": lambda trained: trained.leak,
    "causal": lambda trained: causality.is_causal(*trained.leak.values()),
    "answers": _answers,
    "windows": _windows,
    "articles": _articles,
    "bits_by_position": _bits_by_position,
    "memory_use": _memory_use,
    "state_size": lambda trained: probes.state_size(trained.model) if trained.has_memory else 0,
    "flops_per_character": lambda trained: probes.flops_per_character(trained.model),
    "unknown_characters": lambda trained: {name: s.unknown_characters for name, s in trained.samples.items()},
    "unknown_fractions": lambda trained: {name: s.unknown_fraction for name, s in trained.samples.items()},
    "floors": lambda trained: dict(trained.floors),
}


def nats_of_characters(trained: Trained) -> dict[str, NDArray[numpy.float32]]:
    """Return the nats of each character that was scored, (T,), by split and by number of the held-out text."""
    nats = {split: trained.split_nats(split)[:MOST_KEPT] for split in SCORED}
    for split, some in trained.article_nats.items():
        nats |= {f"{split}_article_{number}": values for number, values in enumerate(some)}
    return {name: values.numpy().astype(numpy.float32) for name, values in nats.items()}


def measure(trained: Trained) -> tuple[Record, dict[str, Exception]]:
    """Compute every measure of a trained model, under its key in the record; return also what failed, by key."""
    measured, failures = dict[str, Any](), dict[str, Exception]()
    for key, function in MEASURES.items():
        try:
            value = function(trained)
            if value is not None:  # it is a measure of a task, and the cell has none
                measured[key] = value
        except Exception as error:  # a model's own method, in the first place
            failures[key] = error
    return Record(**measured), failures  # type: ignore[typeddict-item]
