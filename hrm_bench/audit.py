"""Two audits of a built model: does a logit see the future, and which loss reaches which part?"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hrm_bench.charlm import CharLM
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.layers.compressive_memory import Memory
from hrm_bench.records.schema import Leak

TOLERANCE = 1e-9  # on logits, in double precision: far above its rounding, far below any leak through real weights


def leak(model: CharLM, *, num_windows: int, seed: int = 0) -> Leak:
    """How much any logit of ``num_windows`` windows shows of a character after its own, by two audits.

    The logits at position i are those after reading character i. *Perturbation*: the largest change of any logit before
    position i when character i changes. *Gradient*: the largest gradient of a random sum of the logits at position i in
    the embedding of any character after i in its window, with every path open: detached states, steps without gradient
    and the written memory included, and each segment's own reading of the text.

    Every position of all windows is tried. The model is copied, in evaluation mode (in double precision for the first,
    since what a closed path gives to the second is 0 in any); windows follow each other in one lane, with the memory
    between. Raises ValueError where it reads characters by other means than an ``nn.Embedding``, since a gradient then
    has nowhere to end.
    """
    single = copy.deepcopy(model).float().eval()
    double = copy.deepcopy(single).double()
    length = num_windows * model.window
    stream = torch.Generator().manual_seed(seed)
    text = torch.randint(len(CHARACTERS), (length,), generator=stream)
    shift = torch.randint(1, len(CHARACTERS), (length,), generator=stream)
    weights = torch.randn(len(CHARACTERS), generator=stream).to(model.device)
    changed = ((text + shift) % len(CHARACTERS)).to(model.device)
    text = text.to(model.device)
    windows = torch.arange(length, device=model.device).split(model.window)
    return Leak(
        perturbation=_largest([_perturbation(double, text, changed, window) for window in windows]),
        gradient=_largest([_gradient(single, text, weights, window) for window in windows]),
    )


@torch.no_grad()
def _perturbation(probe: CharLM, text: Tensor, changed: Tensor, window: Tensor) -> Tensor:
    """A lane for each place of a window reads the text up to the window's end, its character changed: what that does to
    the logits before it, which are all in what it reads.
    """
    position = torch.arange(int(window[-1]) + 1, device=text.device)
    read = torch.where(position == window[:, None], changed[position], text[position])  # (lanes, characters)
    logits, _ = probe(read)
    reference, _ = probe(text[None, position])
    difference = (logits - reference).abs().amax(dim=-1)
    return difference.masked_fill(position >= window[:, None], 0)


@torch.enable_grad()
def _gradient(probe: CharLM, text: Tensor, weights: Tensor, window: Tensor) -> Tensor:
    """A lane for each place of a window asks for the logits there: gradients in the embeddings after it.

    The windows before are all past: what they leave in the memory is the same for all lanes.
    """
    lanes = torch.arange(len(window), device=text.device)
    memory = probe.initial_memory(1)
    if window[0]:
        _, memory = probe(text[None, : window[0]], memory)
    memory = tuple(Memory(*(part.detach().expand(len(lanes), *part.shape[1:]) for part in memory)) for memory in memory)
    with _AllPathsOpen() as paths:
        logits, _ = probe(text[window].expand(len(lanes), -1), memory)
    if not paths.embedded:
        raise ValueError(
            f"{type(probe).__name__} reads no nn.Embedding: the audit by gradient cannot see what it reads"
        )
    asked = (logits[lanes, lanes] @ weights).sum()
    gradients = torch.autograd.grad(asked, paths.embedded, allow_unused=True)
    found = [gradient.abs().amax(dim=-1) for gradient in gradients if gradient is not None]  # (lanes, characters)
    if not found:
        raise ValueError(f"{type(probe).__name__}: no gradient of its logits reaches what it has read")
    return torch.stack(found).masked_fill(lanes <= lanes[:, None], 0)


class _AllPathsOpen(TorchFunctionMode):
    """While it lasts nothing is detached, no step is without gradient, and what is embedded is a leaf of its own."""

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
        found = func(*args, **(kwargs or {}))
        if func in (functional.embedding, torch.embedding):
            found = found.detach().requires_grad_()
            self.embedded.append(found)
        return found


def _largest(found: list[Tensor]) -> float:
    """Of all entries; NaN where one is."""
    return float(torch.stack([each.max() for each in found]).max())


def windows_to_audit(windows_per_sample: int) -> int:
    """Those of a sample, but two at least, since a leak from window to window needs a second, and four at most."""
    return min(4, max(2, windows_per_sample))


def is_causal(*leaks: Leak) -> bool:
    """Whether all that was found is but rounding."""
    return all(found[way] <= TOLERANCE for found in leaks for way in ("perturbation", "gradient"))


def gradient_coverage(model: CharLM) -> dict[str, list[str]]:
    """Which losses reach each component in training, measured from the gradients of two windows that follow each other.

    A component is a child of the model, a level or a memory. A loss that reaches the head is the task loss; one that
    does not is unsupervised (OACD). A component that neither reaches has an empty list.
    """
    probe = copy.deepcopy(model).train()
    reached: dict[str, set[str]] = {_component(name): set() for name, _ in probe.named_parameters()}
    head = {name for name, _ in probe.head.named_parameters("head")}

    def note(_: CharLM, __: object, losses: Iterable[Tensor], ___: int = 1) -> None:
        wanted = list(probe.named_parameters())
        for loss in losses:
            gradients = torch.autograd.grad(loss, [p for _, p in wanted], retain_graph=True, allow_unused=True)
            touched = {
                name
                for (name, _), gradient in zip(wanted, gradients, strict=True)
                if gradient is not None and gradient.any()
            }
            kind = "task" if head & touched else "OACD"
            for name in touched:
                reached[_component(name)].add(kind)

    num_optimizers = len(probe.objective.optimizers(probe))
    probe.optimizers = lambda *_, **__: [None] * num_optimizers  # type: ignore[method-assign, assignment]
    probe.objective.descend = note  # type: ignore[method-assign, assignment]
    stream = torch.Generator().manual_seed(0)
    text = torch.randint(len(CHARACTERS), (2, 2 * model.window + 1), generator=stream).to(model.device)
    memory = probe.initial_memory(2)
    for start in (0, model.window):
        window = slice(start, start + model.window)
        _, memory = probe.objective.train_window(
            probe, text[:, :-1][:, window], text[:, 1:][:, window], memory, share=1
        )
    return {component: sorted(kinds, reverse=True) for component, kinds in reached.items()}


def _component(parameter: str) -> str:
    """levels.0.0.attention.qkv.weight → levels.0; embedding.weight → embedding."""
    first, *rest = parameter.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def main(words: list[str]) -> int:
    """``python -m hrm_bench.audit model=…``: both audits of any config's untrained model; 1 if it is not causal."""
    from rich.console import Console
    from rich.table import Table

    from hrm_bench import build, compose

    cfg = compose(*words)
    model = build(cfg)
    found = leak(model, num_windows=windows_to_audit(cfg.data.windows_per_sample))
    causal = is_causal(found)
    verdict = "causal" if causal else "NOT CAUSAL"
    print(
        f"{cfg.model.name}: {verdict}: a later character moves a logit by at most {found['perturbation']:.1e}, "
        f"and a logit's gradient in it is at most {found['gradient']:.1e}"
    )
    table = Table("component", "reached by the loss")
    for component, losses in gradient_coverage(model).items():
        table.add_row(component, " and ".join(losses) or "none")
    Console().print(table)
    return 0 if causal else 1


if __name__ == "__main__":
    from hrm_bench.errors import command

    command(main)
