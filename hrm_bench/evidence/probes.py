"""Measurements of a trained model on a scored text: where in its windows it errs, and how much its memory helps.

Shapes: B lanes, T characters, W windows of a lane.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Batch, Samples
from hrm_bench.layers import carried
from hrm_bench.layers.carried import Memory
from hrm_bench.records.schema import MemoryUse

MAX_LANES = 256  # lanes that are read at once


class Reading(NamedTuple):
    """A batch of lanes of a text, and the memory that each of its windows reads as the text is scored."""

    tokens: Tensor  # (B, W·window)
    targets: Tensor
    memories: Sequence[Memory]  # W memories of B lanes each


@torch.no_grad()
def readings(model: CharLM, samples: Samples) -> list[Reading]:
    """Return the whole text as it is scored: one lane if memory is carried, otherwise one lane per sample."""
    return [Reading(*batch, own_memories(model, batch[0])) for batch in _batches(model, samples)]


def bits_by_position(model: CharLM, text: Sequence[Reading]) -> list[float]:
    """Return the bits per character at each position of a window, mean over the windows of the text as scored."""
    losses = torch.cat([_nll(model, reading, reading.memories) for reading in text])
    return (losses.mean(dim=0) / math.log(2)).tolist()


def memory_use(model: CharLM, text: Sequence[Reading], others: Sequence[Reading]) -> MemoryUse:
    """Return the perplexity of a text with the model's own memory, an empty one, and that of another text.

    The other text is ``others``. At each window its memory has taken in as many windows as the model's own has. If the
    other text has fewer windows, its last memory serves for the rest.
    """

    def perplexity(memories: Callable[[Reading], Sequence[Memory]]) -> float:
        losses = [_nll(model, reading, memories(reading)) for reading in text]
        return math.exp(float(torch.cat(losses).mean()))

    def empty(reading: Reading) -> Sequence[Memory]:
        return [model.initial_memory(len(reading.tokens))] * len(reading.memories)

    def of_others(reading: Reading) -> Sequence[Memory]:
        return _resized(others[0].memories, len(reading.tokens), len(reading.memories))

    return MemoryUse(
        own=perplexity(lambda reading: reading.memories),
        zeroed=perplexity(empty),
        another_lane=perplexity(of_others),
    )


@torch.no_grad()
def own_memories(model: CharLM, tokens: Tensor) -> list[Memory]:
    """Return the memory that each window of (B, W·window) tokens reads, from an empty one on."""
    windows = tokens.split(model.window, dim=1)
    memories = [model.initial_memory(len(tokens))]
    if not model.uses_memory or model.memory_policy.mode == "none":
        return memories * len(windows)
    for window in windows[:-1]:
        memories.append(model(window, memories[-1])[1])
    return memories


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


def _batches(model: CharLM, samples: Samples) -> list[Batch]:
    """Return the text in lanes as it is scored; a last, shorter sample is a batch of its own."""
    wanted = [indices for indices in torch.arange(samples.num_whole).split(MAX_LANES) if len(indices)]
    batches = [samples[indices.tolist()] for indices in wanted]
    if len(samples) > samples.num_whole:
        batches.append(samples[[samples.num_whole]])
    if model.uses_memory and model.memory_policy.evaluation_mode == "carry":
        tokens, targets = (torch.cat([part.flatten() for part in parts])[None] for parts in zip(*batches, strict=True))
        batches = [(tokens, targets)]
    return [(tokens.to(model.device), targets.to(model.device)) for tokens, targets in batches]


@torch.no_grad()
def _nll(model: CharLM, reading: Reading, memories: Sequence[Memory]) -> Tensor:
    """Return the nats of each character, (W·B, window), in double precision on the CPU.

    The memory that a window reads is given, so windows need not wait for each other: many are read at once.
    """
    tokens, targets = (torch.cat(part.split(model.window, dim=1)) for part in (reading.tokens, reading.targets))
    memory = carried.join(memories)
    losses = []
    for start in range(0, len(tokens), MAX_LANES):
        lanes = slice(start, start + MAX_LANES)
        logits, _ = model(tokens[lanes], carried.lanes(memory, start, start + MAX_LANES))
        losses.append(functional.cross_entropy(logits.transpose(1, 2), targets[lanes], reduction="none"))
    return torch.cat(losses).double().cpu()


def _resized(memories: Sequence[Memory], num_lanes: int, num_windows: int) -> list[Memory]:
    """Return the memories of a reading for other numbers of lanes and windows.

    If there are too few, the lanes repeat from the first one on, and so does the memory of the last window.
    """
    available = carried.num_lanes(memories[0])
    if available is None:
        return [memories[0]] * num_windows
    lanes = torch.arange(num_lanes) % available
    return [carried.select(memories[min(index, len(memories) - 1)], lanes) for index in range(num_windows)]
