"""What else is measured of a trained model on a scored text: where in its windows it errs, and what its memory is for.

Shapes: B lanes, T characters, W windows of a lane.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrm_bench.charlm import Batch, CharLM, Memories
from hrm_bench.data.windows import Samples
from hrm_bench.layers.compressive_memory import Memory
from hrm_bench.records.schema import MemoryUse

MOST_LANES = 256  # that are read at once


class Reading(NamedTuple):
    """A batch of lanes of a text, and the memory that each of its windows reads as the text is scored."""

    tokens: Tensor  # (B, W·window)
    targets: Tensor
    memories: Sequence[Memories]  # W, of B lanes each


@torch.no_grad()
def readings(model: CharLM, samples: Samples) -> list[Reading]:
    """The whole text as it is scored: one lane where memory is carried, else a lane a sample."""
    return [Reading(*batch, own_memories(model, batch[0])) for batch in _lanes(model, samples)]


def bits_by_position(model: CharLM, text: Sequence[Reading]) -> list[float]:
    """Bits a character at each place in the window, mean over all windows of the text, read as in scoring."""
    found = torch.cat([_nll(model, each, each.memories) for each in text])
    return (found.mean(dim=0) / math.log(2)).tolist()


def memory_use(model: CharLM, text: Sequence[Reading], others: Sequence[Reading]) -> MemoryUse:
    """How well a text is read with the model's own memory, with an empty one, and with that of another lane.

    The other lane reads ``others``: at each window its memory has taken in as many windows as the own one has, of
    another text. Where ``others`` is the shorter, its last memory stands in for those that it has not.
    """

    def perplexity(memories: Callable[[Reading], Sequence[Memories]]) -> float:
        return math.exp(float(torch.cat([_nll(model, each, memories(each)) for each in text]).mean()))

    return MemoryUse(
        own=perplexity(lambda each: each.memories),
        zeroed=perplexity(lambda each: [model.initial_memory(len(each.tokens))] * len(each.memories)),
        another_lane=perplexity(lambda each: _resized(others[0].memories, len(each.tokens), len(each.memories))),
    )


@torch.no_grad()
def own_memories(model: CharLM, tokens: Tensor) -> list[Memories]:
    """The memory that each window of (B, W·window) tokens reads, in order, starting from an empty one."""
    windows = tokens.split(model.window, dim=1)
    read = [model.initial_memory(len(tokens))]
    if not model.uses_memory or model.memory_policy.mode == "none":
        return read * len(windows)
    for window in windows[:-1]:
        read.append(model(window, read[-1])[1])
    return read


def state_size(model: CharLM) -> int:
    """How many numbers a lane carries from window to window."""
    return sum(memory.matrix.numel() + memory.normalizer.numel() for memory in model.initial_memory(1))


def flops_per_character(model: CharLM) -> float:
    """Floating-point operations of reading one window, a character: two for each multiply-add of a matrix product."""
    probe = copy.deepcopy(model).train().to("meta")  # shapes are all that it takes; training keeps no metrics
    text = torch.zeros(1, model.window, dtype=torch.long, device="meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        probe(text)
    return counter.get_total_flops() / model.window


def memory_course(model: CharLM) -> dict[str, float]:
    """Where a model with a memory stands after scoring a text.

    ``memory_share``: what its gates gave to the memory, mean over the text, heads and layers; ``memory_norm``: the
    Frobenius norm of its matrices at the text's end, mean over lanes, heads and layers.
    """
    shares = [share.compute() for name, share in model.named_modules() if name.endswith("memory_share")]
    norms = [torch.linalg.matrix_norm(memory.matrix).mean() for memory in model.last_memory]
    return {"memory_share": float(torch.stack(shares).mean()), "memory_norm": float(torch.stack(norms).mean())}


def _lanes(model: CharLM, samples: Samples) -> Iterator[Batch]:
    """The text as it is scored: one lane where memory is carried, else a lane a sample, the last, shorter one alone."""
    batches = [samples[chosen.tolist()] for chosen in torch.arange(samples.num_whole).split(MOST_LANES) if len(chosen)]
    if len(samples) > samples.num_whole:
        batches.append(samples[[samples.num_whole]])
    if model.uses_memory and model.memory_policy.evaluation_mode == "carry":
        tokens, targets = (torch.cat([part.flatten() for part in parts])[None] for parts in zip(*batches, strict=True))
        batches = [(tokens, targets)]
    return ((tokens.to(model.device), targets.to(model.device)) for tokens, targets in batches)


@torch.no_grad()
def _nll(model: CharLM, reading: Reading, memories: Sequence[Memories]) -> Tensor:
    """Nats of each character, (W·B, window), in double precision on the CPU.

    What a window reads is given, so windows wait for no other: they are read side by side.
    """
    tokens, targets = (torch.cat(part.split(model.window, dim=1)) for part in (reading.tokens, reading.targets))
    memory = [Memory.joined(each) for each in zip(*memories, strict=True)]
    found = []
    for start in range(0, len(tokens), MOST_LANES):
        lanes = slice(start, start + MOST_LANES)
        logits, _ = model(tokens[lanes], tuple(each.lanes(start, start + MOST_LANES) for each in memory))
        found.append(functional.cross_entropy(logits.transpose(1, 2), targets[lanes], reduction="none"))
    return torch.cat(found).double().cpu()


def _resized(reading: Sequence[Memories], num_lanes: int, num_windows: int) -> list[Memories]:
    """A reading's memories for so many lanes and windows; where it has fewer, lanes and its last window repeat."""
    available = len(reading[0][0].matrix)
    lanes = torch.arange(num_lanes) % available
    windows = [reading[min(index, len(reading) - 1)] for index in range(num_windows)]
    return [tuple(type(each)(each.matrix[lanes], each.normalizer[lanes]) for each in memories) for memories in windows]
