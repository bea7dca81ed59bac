"""The ways to train a model: the two of the reports, one optimizer step after each segment, and a control of the first.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM, Memories


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (arXiv 1711.05101) and the clipping before each of its steps."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float  # largest norm of all gradients together


class Objective(ABC):
    """Decides what a step minimises and which parameters it may touch."""

    def __init__(self, *, optimizer: OptimizerSettings) -> None:
        self.settings = optimizer

    @abstractmethod
    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        """Fresh optimizers for the parameters that this objective trains."""

    @abstractmethod
    def train_window(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories) -> tuple[Tensor, Memories]:
        """Train on one window of (B, T) tokens: the last segment's task loss (nats a character), the memory after."""

    def adamw(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=self.settings.weight_decay, fused=True)

    def descend(self, model: CharLM, optimizer: LightningOptimizer, loss: Tensor) -> None:
        """One clipped step. Parameters that the loss does not reach keep no gradient, so AdamW leaves them alone."""
        optimizer.zero_grad(set_to_none=True)
        model.manual_backward(loss)
        reached = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(reached, self.settings.gradient_clip)
        optimizer.step()


def optimizers_of(model: CharLM) -> list[LightningOptimizer]:
    """The optimizers that a Trainer has made of the objective's own; Lightning unpacks a single one."""
    made = model.optimizers()
    return made if isinstance(made, list) else [made]


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (B, T, V) logits against (B, T) targets, in nats a character."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class DeepSupervision(Objective):
    """The task loss after every segment, against the same targets, a step each (HRM, arXiv 2506.21734, section 2)."""

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        return [self.adamw(model.parameters(), self.settings.learning_rate)]

    def train_window(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories) -> tuple[Tensor, Memories]:
        (optimizer,) = optimizers_of(model)
        for refinement in model.refine(tokens, memory):
            loss = task_loss(refinement.logits, targets)
            self.descend(model, optimizer, loss)
        return loss.detach(), refinement.memory


class LastSegmentSupervision(Objective):
    """The task loss after the last segment alone, one step a window: deep supervision's control.

    States are detached between segments, so what only an earlier segment reads (learned initial states) stays as it is.
    """

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        return [self.adamw(model.parameters(), self.settings.learning_rate)]

    def train_window(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories) -> tuple[Tensor, Memories]:
        (optimizer,) = optimizers_of(model)
        *_, last = model.refine(tokens, memory)
        loss = task_loss(last.logits, targets)
        self.descend(model, optimizer, loss)
        return loss.detach(), last.memory


def dispersion_loss(hidden: Tensor, anchor_weight: float) -> Tensor:
    """−‖z − c‖_F / n + λ·‖c‖² of the n = B·T hidden vectors z and their centroid c: spread out, around the origin."""
    vectors = hidden.flatten(0, -2)  # (n, D)
    centroid = vectors.mean(dim=0)
    return anchor_weight * centroid.square().sum() - torch.linalg.norm(vectors - centroid) / len(vectors)


class OriginAnchoredDispersion(Objective):
    """Two phases a batch: OACD, unsupervised, on the body after every segment; then the task loss on the head alone.

    Phase 1 sums the loss over the states that the segment has just computed; phase 2 takes ``head_steps`` steps (1 as
    published) on the last states, through which no gradient goes back. The loss that it gives back is the first one's.
    """

    def __init__(
        self,
        *,
        optimizer: OptimizerSettings,
        body_learning_rate: float,
        head_learning_rate: float,
        head_steps: int,
        anchor_weight: float,
    ) -> None:
        super().__init__(optimizer=optimizer)
        self.body_learning_rate = body_learning_rate
        self.head_learning_rate = head_learning_rate
        self.head_steps = head_steps
        self.anchor_weight = anchor_weight

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        head = set(model.head.parameters())
        body = [parameter for parameter in model.parameters() if parameter not in head]
        return [
            self.adamw(body, self.body_learning_rate),
            self.adamw(model.head.parameters(), self.head_learning_rate),
        ]

    def train_window(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories) -> tuple[Tensor, Memories]:
        body, head = optimizers_of(model)
        read_by_head: list[Tensor] = []
        with model.head.register_forward_pre_hook(lambda _, inputs: read_by_head.append(inputs[0].detach())):
            for refinement in model.refine(tokens, memory):
                computed = [level for level in refinement.state if level.requires_grad]
                self.descend(
                    model, body, torch.stack([dispersion_loss(level, self.anchor_weight) for level in computed]).sum()
                )
        losses = []
        for _ in range(self.head_steps):
            losses.append(task_loss(model.head(read_by_head[-1]), targets))
            self.descend(model, head, losses[-1])
        return losses[0].detach(), refinement.memory
