"""Two audits of a built model: does a logit see the future, and which loss reaches which part?"""

import copy

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM
from hrm_bench.data.vocabulary import CHARACTERS

TOLERANCE = 1e-9  # on logits, in double precision: far above its rounding, far below any leak through real weights


@torch.no_grad()
def future_leak(model: CharLM, *, num_windows: int, seed: int = 0, lanes_at_once: int = 64) -> float:
    """The largest change of any logit before position i when character i changes, for all i of ``num_windows`` windows.

    The logits at position i are those after reading character i, so they may change and no earlier ones may. The model
    is copied, in double precision and evaluation mode; windows follow each other in one lane, with the memory between.
    """
    probe = copy.deepcopy(model).double().eval()
    length = num_windows * model.window
    stream = torch.Generator().manual_seed(seed)
    text = torch.randint(len(CHARACTERS), (length,), generator=stream)
    shift = torch.randint(1, len(CHARACTERS), (length,), generator=stream)
    changed = text.repeat(length, 1)  # lane i differs from the text in character i alone
    changed.diagonal().copy_((text + shift) % len(CHARACTERS))
    text, changed = text.to(model.device), changed.to(model.device)
    reference, _ = probe(text[None])
    leak = 0.0
    for lanes in torch.arange(length, device=model.device).split(lanes_at_once):
        logits, _ = probe(changed[lanes])
        difference = (logits - reference).abs().amax(dim=-1)  # (lanes, length)
        before = torch.arange(length, device=model.device) < lanes[:, None]
        leak = max(leak, float(difference.masked_fill(~before, 0).max()))
    return leak


def windows_to_audit(windows_per_sample: int) -> int:
    """Those of a sample, but two at least, since a leak from window to window needs a second, and four at most."""
    return min(4, max(2, windows_per_sample))


def is_causal(model: CharLM, *, num_windows: int) -> bool:
    """Whether no logit moves when a later character does."""
    return future_leak(model, num_windows=num_windows) <= TOLERANCE


def gradient_coverage(model: CharLM) -> dict[str, list[str]]:
    """Which losses reach each component in training, measured from the gradients of two windows that follow each other.

    A component is a child of the model, a level or a memory. A loss that reaches the head is the task loss; one that
    does not is unsupervised (OACD). A component that neither reaches has an empty list.
    """
    probe = copy.deepcopy(model).train()
    reached: dict[str, set[str]] = {_component(name): set() for name, _ in probe.named_parameters()}
    head = {name for name, _ in probe.head.named_parameters("head")}

    def note(_: CharLM, __: object, loss: Tensor, inputs: list[nn.Parameter] | None = None) -> None:
        wanted = [
            (name, p) for name, p in probe.named_parameters() if inputs is None or any(p is each for each in inputs)
        ]
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
        _, memory = probe.objective.train_window(probe, text[:, :-1][:, window], text[:, 1:][:, window], memory)
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
    leak = future_leak(model, num_windows=windows_to_audit(cfg.data.windows_per_sample))
    causal = leak <= TOLERANCE
    verdict = "causal" if causal else "NOT CAUSAL"
    print(f"{cfg.model.name}: {verdict}: a later character moves a logit by at most {leak:.1e}")
    table = Table("component", "reached by the loss")
    for component, losses in gradient_coverage(model).items():
        table.add_row(component, " and ".join(losses) or "none")
    Console().print(table)
    return 0 if causal else 1


if __name__ == "__main__":
    from hrm_bench.errors import command

    command(main)
