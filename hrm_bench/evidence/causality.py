"""Does a logit see the future? Two audits of a built model.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hrm_bench.causal.changes import changed_texts, difference, early
from hrm_bench.charlm import CharLM
from hrm_bench.layers import carried
from hrm_bench.layers.carried import Memory
from hrm_bench.records.schema import Leak

TOLERANCE = 1e-9  # on logits, in double precision: far above its rounding, far below any leak through real weights


def leak(model: CharLM, *, num_windows: int, seed: int = 0) -> Leak:
    """Measure how much any logit of ``num_windows`` windows shows of a character after its own.

    The logits at position i are those after reading character i. *Perturbation*: the largest change of any logit before
    position i when character i changes. *Gradient*: the largest gradient of a random sum of the logits at position i in
    the embedding of any character after i in its window. Every path is open to that gradient: detached states, steps
    without gradient and the written memory included, and each segment's own reading of the text.

    Every position of all windows is tried. The model is copied, in evaluation mode. The first audit runs in double
    precision; the second need not, since a closed path gives it 0 in any precision. Windows follow each other in one
    lane, with the memory between; what the windows before have left in the memory is read once.

    Raises:
        ValueError: the model reads characters by other means than an ``nn.Embedding``, where a gradient could end.
    """
    single = copy.deepcopy(model).float().eval()
    double = copy.deepcopy(single).double()
    length, vocabulary_size = num_windows * model.window, model.vocabulary_size
    stream = torch.Generator().manual_seed(seed)
    text = torch.randint(vocabulary_size, (length,), generator=stream)
    shift = torch.randint(1, vocabulary_size, (length,), generator=stream)
    weights = torch.randn(vocabulary_size, generator=stream).to(model.device)
    changed = ((text + shift) % vocabulary_size).to(model.device).split(model.window)
    windows = text.to(model.device).split(model.window)
    perturbations = map(_perturbation, itertools.repeat(double), windows, changed, _memories(double, windows))
    gradients = map(_gradient, itertools.repeat(single), windows, itertools.repeat(weights), _memories(single, windows))
    return Leak(perturbation=_largest([*perturbations]), gradient=_largest([*gradients]))


def windows_to_audit(model: CharLM, windows_per_sample: int) -> int:
    """Return the windows of a sample, but at least two and at most four; one for a model that has no memory.

    A leak from window to window needs a second window.
    """
    if not model.uses_memory or model.memory_policy.mode == "none":
        return 1
    return min(4, max(2, windows_per_sample))


def is_causal(*leaks: Leak) -> bool:
    """Return whether all leaks are no larger than rounding."""
    return all(leak[audit] <= TOLERANCE for leak in leaks for audit in ("perturbation", "gradient"))


@torch.no_grad()
def _memories(probe: CharLM, windows: Sequence[Tensor]) -> list[Memory]:
    """Return the memory of one lane before each of these consecutive windows."""
    memories = [probe.initial_memory(1)]
    for window in windows[:-1]:
        memories.append(probe(window[None], memories[-1])[1])
    return memories


@torch.no_grad()
def _perturbation(probe: CharLM, text: Tensor, changed: Tensor, memory: Memory) -> Tensor:
    """Return how far changing each character of a window moves the logits before it, (lanes, characters).

    There is one lane per character of the window.
    """
    starts = torch.arange(len(text), device=text.device)
    logits, _ = probe(changed_texts(text, changed, starts), carried.expand(memory, len(text)))
    reference, _ = probe(text[None], memory)
    return difference(logits, reference).masked_fill(~early(starts, len(text)), 0)


@torch.enable_grad()
def _gradient(probe: CharLM, text: Tensor, weights: Tensor, memory: Memory) -> Tensor:
    """Return the gradient of the logits at each character of a window in the embeddings after it, (lanes, characters).

    There is one lane per character of the window.
    """
    lanes = torch.arange(len(text), device=text.device)
    memory = carried.expand(memory, len(text))
    with _AllPathsOpen() as paths:
        logits, _ = probe(text.expand(len(lanes), -1), memory)
    if not paths.embedded:
        raise ValueError(
            f"{type(probe).__name__} reads no nn.Embedding: the audit by gradient cannot see what it reads"
        )
    weighted = (logits[lanes, lanes] @ weights).sum()
    gradients = torch.autograd.grad(weighted, paths.embedded, allow_unused=True)
    sizes = [gradient.abs().amax(dim=-1) for gradient in gradients if gradient is not None]  # (lanes, characters)
    if not sizes:
        raise ValueError(f"{type(probe).__name__}: no gradient of its logits reaches what it has read")
    return torch.stack(sizes).masked_fill(lanes <= lanes[:, None], 0)


class _AllPathsOpen(TorchFunctionMode):
    """A context in which nothing is detached, no step is without gradient, and each embedding is a leaf of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded: list[Tensor] = []  # (B, T, D), one for each reading of the characters

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func is Tensor.detach:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func in (functional.embedding, torch.embedding):
            result = result.detach().requires_grad_()
            self.embedded.append(result)
        return result


def _largest(values: list[Tensor]) -> float:
    """Return the largest entry of all tensors, NaN if one is NaN."""
    return float(torch.stack([value.max() for value in values]).max())
