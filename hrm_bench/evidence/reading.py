"""A text as a trained model reads it, window after window; and dynamic evaluation, which goes on training meanwhile.

Dynamic evaluation (Krause et al., arXiv 1709.07432): each window is scored, and only then the parameters θ take one
step on its loss L, the mean nats per character, summed over the window's segments as in deep supervision:

    θ ← θ − η · ∇L            sgd
    θ ← θ − η · Adam(∇L)      adam

The gradient's norm is clipped at 1. Each text begins with the trained weights.

# differs from the paper: no mean squared gradients of the training text, no decay towards the trained weights.

Shapes: B lanes, T characters, D width of what the head reads, V vocabulary.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Samples
from hrm_bench.errors import UsageError
from hrm_bench.evidence.probes import in_precision
from hrm_bench.layers import carried

CLIP = 1.0  # largest norm of the gradient of a window


class Rule(NamedTuple):
    """The step that dynamic evaluation takes after each window."""

    optimizer: Literal["sgd", "adam"]
    rate: float  # η

    def __str__(self) -> str:
        return f"{self.optimizer} {self.rate:g}"

    def start(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer of a model's parameters."""
        make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[self.optimizer]
        return make(model.parameters(), lr=self.rate)


class Reading(NamedTuple):
    """What a model has made of a text of whole windows, in double precision on the CPU."""

    targets: Tensor  # (T,) the characters that it predicted
    probabilities: Tensor  # (T,) that it gave them
    states: Tensor  # (T, D) what its head read to predict them
    window: int


def read(model: CharLM, samples: Samples, rule: Rule | None = None, *, precision: str = "32-true") -> Reading:
    """Read a text as it is scored, one window at a time; with a rule, take a step after each window.

    The model is left as it is. Raises UsageError if its head does not read one state per character.
    """
    model = copy.deepcopy(model).eval()
    optimizer = None if rule is None else rule.start(model)
    carries = model.uses_memory and model.memory_policy.evaluation_mode == "carry"
    parts, memory = [], model.initial_memory(1)
    with _inputs_of_head(model) as inputs:
        for start in range(0, samples.num_characters, samples.window):
            if not carries and start % samples.length == 0:
                memory = model.initial_memory(1)
            tokens, targets = (part.to(model.device) for part in samples.read([start], samples.window))
            with torch.set_grad_enabled(rule is not None), in_precision(model, precision):
                refinements = [*model.refine(tokens, memory)]
            logits, memory = refinements[-1].logits.detach(), carried.detach(refinements[-1].memory)
            if inputs[-1].shape[:2] != tokens.shape:
                raise UsageError(
                    f"{type(model).__name__}: its head does not read one state per character of a window in one call, "
                    "so no cache can be made of its states"
                )
            given = logits[0].double().softmax(dim=-1).gather(1, targets[0, :, None])[:, 0]
            parts.append((targets[0].cpu(), given.cpu(), inputs[-1][0].detach().double().cpu()))
            inputs.clear()
            if optimizer is not None:
                losses = [functional.cross_entropy(r.logits.flatten(0, 1), targets.flatten()) for r in refinements]
                _step(optimizer, torch.stack(losses).sum(), model)
    targets, given, states = (torch.cat(some) for some in zip(*parts, strict=True))
    return Reading(targets, given, states, samples.window)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, model: nn.Module) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()


@contextmanager
def _inputs_of_head(model: CharLM) -> Iterator[list[Tensor]]:
    """Give a list that what the head reads is appended to."""
    inputs = list[Tensor]()
    hook = model.head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()
