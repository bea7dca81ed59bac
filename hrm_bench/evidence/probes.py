"""Measurements of a trained model on a scored text: where in its windows it errs, and how much its memory helps.

Shapes: B lanes, T characters, W windows of a lane.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrm_bench.charlm import Batch, CharLM, Scored
from hrm_bench.layers import carried
from hrm_bench.layers.carried import Memory
from hrm_bench.records.schema import MemoryUse
from hrm_bench.steps import UNSCORED

MAX_LANES = 256  # lanes that are read at once


class Reading(NamedTuple):
    """Lanes of a text as they are scored, with the memory that each of their windows reads."""

    tokens: Tensor  # (B, W·window)
    targets: Tensor
    predicted: Tensor  # (B, W·window): the most probable character, on the CPU
    nats: Tensor  # (B, W·window): minus the log-probability of each target, in double precision on the CPU
    memories: Sequence[Memory]  # W memories of B lanes each


@torch.no_grad()
def read(model: CharLM, batches: Iterable[Batch], *, precision: str = "32-true") -> tuple[float, list[Reading]]:
    """Score a text as training validates it; return its mean nats per character, and the text as it was read.

    Lanes of equal length are one reading: all samples, or the whole text if memory is carried, and a last, shorter
    sample.

    Args:
        model: on the device that is to read; it is put in evaluation mode.
        batches: of the text, in its order.
        precision: of Lightning's Trainer.
    """
    model.eval()
    model.on_validation_epoch_start()
    by_length = dict[int, list[Scored]]()
    is_stream = model.uses_memory and model.memory_policy.evaluation_mode == "carry"
    with in_precision(model, precision):
        for tokens, targets in batches:
            scored = model.score((tokens.to(model.device), targets.to(model.device)))
            by_length.setdefault(0 if is_stream else scored.tokens.shape[1], []).append(scored)
    model.gate_means.is_on = False
    join = _in_turn if is_stream else _side_by_side
    return float(model.nll.compute()), [join([_reading(part) for part in parts]) for parts in by_length.values()]


def in_precision(model: CharLM, precision: str) -> torch.autocast:
    """Return a context in which a model reads as Lightning's Trainer of this precision has it read."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def _reading(scored: Scored) -> Reading:
    losses = functional.cross_entropy(scored.logits.transpose(1, 2), scored.targets, reduction="none")
    predicted = scored.logits.argmax(dim=-1).cpu()
    return Reading(scored.tokens, scored.targets, predicted, losses.double().cpu(), scored.memories)


def _in_turn(parts: Sequence[Reading]) -> Reading:
    """Join parts of one lane that follow each other."""
    tokens, targets, predicted, nats = (torch.cat(some, dim=1) for some in list(zip(*parts, strict=True))[:4])
    return Reading(tokens, targets, predicted, nats, [memory for part in parts for memory in part.memories])


def _side_by_side(parts: Sequence[Reading]) -> Reading:
    """Join the lanes of parts of equal length."""
    tokens, targets, predicted, nats = (torch.cat(some) for some in list(zip(*parts, strict=True))[:4])
    memories = zip(*(part.memories for part in parts), strict=True)
    return Reading(tokens, targets, predicted, nats, [carried.join(lanes) for lanes in memories])


def bits_by_position(text: Sequence[Reading], window: int) -> list[float]:
    """Return the bits per character at each position of a window, mean over the windows of the text as scored.

    It is NaN at a position that is scored in no window.
    """
    nats = torch.cat([reading.nats.reshape(-1, window) for reading in text])
    are_scored = torch.cat([are_asked(reading).reshape(-1, window) for reading in text])
    if not are_scored.all():
        return (torch.where(are_scored, nats, 0).sum(dim=0) / are_scored.sum(dim=0) / math.log(2)).tolist()
    return (nats.mean(dim=0) / math.log(2)).tolist()


def are_asked(reading: Reading) -> Tensor:
    """Return which characters of a reading are scored: (B, W·window), on the CPU."""
    return reading.targets.cpu() != UNSCORED


def memory_use(
    model: CharLM,
    text: Sequence[Reading],
    others: Sequence[Reading],
    *,
    precision: str = "32-true",
    power: float = 1.0,
) -> MemoryUse:
    """Return the perplexity of a text with the model's own memory, an empty one, and that of another text.

    The other text is ``others``. At each window its memory has taken in as many windows as the model's own has. If the
    other text has fewer windows, its last memory serves for the rest. Perplexities are raised to ``power``, the symbols
    per character.
    """

    def perplexity(losses: Iterable[Tensor]) -> float:
        return math.exp(float(torch.cat([nats.flatten() for nats in losses]).mean()) * power)

    def empty(reading: Reading) -> Sequence[Memory]:
        return [model.initial_memory(len(reading.tokens))] * len(reading.memories)

    def of_others(reading: Reading) -> Sequence[Memory]:
        return _resized(others[0].memories, len(reading.tokens), len(reading.memories))

    with in_precision(model, precision):
        zeroed, other = (
            [_nll(model, reading, memories(reading)) for reading in text] for memories in (empty, of_others)
        )
    return MemoryUse(
        own=perplexity(reading.nats[are_asked(reading)] for reading in text),
        zeroed=perplexity(zeroed),
        another_lane=perplexity(other),
    )


def state_size(model: CharLM) -> int:
    """Return how many numbers a lane carries from window to window."""
    return carried.numel(model.initial_memory(1))


def flops_per_character(model: CharLM) -> float:
    """Return the floating-point operations per character of reading a window: two per multiply-add of a product."""
    probe = copy.deepcopy(model).eval().to("meta")  # which needs shapes only
    text = torch.zeros(1, model.window, dtype=torch.long, device="meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        probe(text)
    return counter.get_total_flops() / model.window


@torch.no_grad()
def _nll(model: CharLM, reading: Reading, memories: Sequence[Memory]) -> Tensor:
    """Return the nats of each scored character, (N,), in double precision on the CPU.

    The memory that a window reads is given, so windows need not wait for each other: many are read at once.
    """
    tokens, targets = (torch.cat(part.split(model.window, dim=1)) for part in (reading.tokens, reading.targets))
    memory = carried.join(memories)
    losses = []
    for start in range(0, len(tokens), MAX_LANES):
        lanes = slice(start, start + MAX_LANES)
        logits, _ = model(tokens[lanes], carried.lanes(memory, start, start + MAX_LANES))
        losses.append(functional.cross_entropy(logits.transpose(1, 2), targets[lanes], reduction="none"))
    return torch.cat(losses)[targets != UNSCORED].double().cpu()


def _resized(memories: Sequence[Memory], num_lanes: int, num_windows: int) -> list[Memory]:
    """Return the memories of a reading for other numbers of lanes and windows.

    If there are too few, the lanes repeat from the first one on, and so does the memory of the last window.
    """
    available = carried.num_lanes(memories[0])
    if available is None:
        return [memories[0]] * num_windows
    lanes = torch.arange(num_lanes) % available
    return [carried.select(memories[min(index, len(memories) - 1)], lanes) for index in range(num_windows)]
