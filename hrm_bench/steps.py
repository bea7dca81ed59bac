"""What goes between an objective and what trains by it: the optimizer steps of a sample, one at a time.

Shapes: B lanes, T characters, V vocabulary.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hrm_bench.layers.carried import Memory

if TYPE_CHECKING:
    from hrm_bench.charlm import CharLM

Window = tuple[Tensor, Tensor]  # (B, T) characters, and (B, T) next characters or (B, T, V) distributions of them
UNSCORED = -100  # the target at a character of a task after which nothing is asked; PyTorch's cross-entropy skips it


def num_scored(targets: Tensor) -> Tensor:
    """Return the number of (B, T) targets that are scored; all of (B, T, V) distributions are."""
    return (targets if targets.ndim == 2 else targets[..., 0]).ne(UNSCORED).sum()


class Step(NamedTuple):
    """One optimizer step: which optimizer takes it, and the losses whose gradients it sums, computed one at a time."""

    optimizer: int
    losses: Iterable[Tensor]
    num_losses: int = 1
    name: str = "task"


class Trained(NamedTuple):
    """The result of training on a sample."""

    losses: list[Tensor]  # the task loss of each window in nats per character, without gradient
    memory: Memory  # after the last window


Steps = Generator[Step, None, Trained]


class Objective(Protocol):
    """The methods that a model needs of its objective; see ``objectives.Objective``."""

    gradient_clip: float | None  # largest norm of a step's gradients together; None: any

    def optimizers(self, model: "CharLM") -> list[torch.optim.Optimizer]: ...

    def schedule(self, optimizers: Sequence[torch.optim.Optimizer], progress: float) -> None: ...

    def steps(self, model: "CharLM", windows: Sequence[Window], memory: Memory, *, weight: float) -> Steps: ...


def follow(steps: Steps, take: Callable[[Step], None]) -> Trained:
    """Call ``take`` with each step of an objective, one at a time, and return what the objective returns."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        take(step)


def take(step: Step, optimizer: Any, *, gradient_clip: float | None, backward: Callable[[Tensor, bool], None]) -> None:
    """Take one clipped optimizer step on the sum of its losses, with one graph at a time.

    Parameters that no loss reaches keep no gradient, so AdamW leaves them alone.

    Args:
        step: the losses.
        optimizer: that of the step.
        gradient_clip: largest norm of the gradients together; None: any.
        backward: adds a loss's gradients; it is told whether the loss is the step's last.
    """
    optimizer.zero_grad(set_to_none=True)
    for number, loss in enumerate(step.losses, start=1):
        backward(loss, number == step.num_losses)
    if gradient_clip is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, gradient_clip)
    optimizer.step()
