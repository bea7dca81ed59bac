"""What else is measured of a trained model on a scored text: where in its windows it errs, and what its memory is for.

Shapes: B lanes, T characters, W windows of a lane.
"""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hrm_bench.charlm import Batch, CharLM, Memories
from hrm_bench.data.windows import Samples
from hrm_bench.records import MemoryUse

MOST_LANES = 256  # that are read at once

Reading = Sequence[Memories]  # of a batch of lanes: what each of its W windows reads


@torch.no_grad()
def bits_by_position(model: CharLM, samples: Samples) -> list[float]:
    """Bits a character at each place in the window, mean over all windows of the text, read as in scoring."""
    total = torch.zeros(model.window, dtype=torch.float64)
    for tokens, targets in _lanes(model, samples):
        nll = _nll(model, tokens, targets, own_memories(model, tokens))
        total += nll.reshape(-1, model.window).sum(dim=0)
    return (total / samples.num_windows / math.log(2)).tolist()


@torch.no_grad()
def memory_use(model: CharLM, samples: Samples, others: Samples) -> MemoryUse:
    """How well a text is read with the model's own memory, with an empty one, and with that of another lane.

    The other lane reads ``others``: at each window its memory has taken in as many windows as the own one has, of
    another text. Where ``others`` is the shorter, its last memory stands in for those that it has not.
    """
    readings = [own_memories(model, tokens) for tokens, _ in _lanes(model, others)]
    totals = MemoryUse(own=0.0, zeroed=0.0, another_lane=0.0)
    for tokens, targets in _lanes(model, samples):
        own = own_memories(model, tokens)
        empty = [model.initial_memory(len(tokens))] * len(own)
        foreign = _resized(readings[0], len(tokens), len(own))
        totals["own"] += float(_nll(model, tokens, targets, own).sum())
        totals["zeroed"] += float(_nll(model, tokens, targets, empty).sum())
        totals["another_lane"] += float(_nll(model, tokens, targets, foreign).sum())
    perplexity = {way: math.exp(total / samples.num_characters) for way, total in totals.items()}  # type: ignore[operator]
    return MemoryUse(**perplexity)  # type: ignore[typeddict-item]


@torch.no_grad()
def own_memories(model: CharLM, tokens: Tensor) -> Reading:
    """The memory that each window of (B, W·window) tokens reads, in order, starting from an empty one."""
    memory = model.initial_memory(len(tokens))
    read = []
    for window in tokens.split(model.window, dim=1):
        read.append(memory)
        _, memory = model(window, memory)
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


def _nll(model: CharLM, tokens: Tensor, targets: Tensor, memories: Reading) -> Tensor:
    """Nats of each character, (B, W·window), in double precision on the CPU."""
    found = []
    windows = zip(tokens.split(model.window, dim=1), targets.split(model.window, dim=1), memories, strict=True)
    for window, target, memory in windows:
        logits, _ = model(window, memory)
        found.append(functional.cross_entropy(logits.transpose(1, 2), target, reduction="none"))
    return torch.cat(found, dim=1).double().cpu()


def _resized(reading: Reading, num_lanes: int, num_windows: int) -> Reading:
    """A reading's memories for so many lanes and windows; where it has fewer, lanes and its last window repeat."""
    available = len(reading[0][0].matrix)
    lanes = torch.arange(num_lanes) % available
    windows = [reading[min(index, len(reading) - 1)] for index in range(num_windows)]
    return [tuple(type(each)(each.matrix[lanes], each.normalizer[lanes]) for each in memories) for memories in windows]
