"""The ways to train a model: the two of the reports, one optimizer step after each segment, and a control of the first.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from hrm_bench.charlm import CharLM, Memories, Refinement
from hrm_bench.layers.compressive_memory import Memory


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (arXiv 1711.05101), the course of its learning rate, and the clipping before each of its steps."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float  # largest norm of all gradients together
    gate_learning_rate: float | None = None  # of a memory's gates, which then have no weight decay
    decayed: Literal["all", "matrices"] = "all"  # matrices: what has fewer than two axes has no weight decay
    warmup: float = 0.0  # share of training over which the rate rises in a line, from 0
    final_learning_rate: float = 1.0  # share of the rate at the end, to which it falls by half a cosine
    micro_batches: int = 1  # that a batch is taken in, one after another, for a step of them all

    def share(self, place: float) -> float:
        """Of the learning rate, at a place between training's start, 0, and its end, 1."""
        if place < self.warmup:
            return place / self.warmup
        fallen = (place - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 0.0
        cosine = (1 + math.cos(math.pi * min(1.0, fallen))) / 2
        return self.final_learning_rate + (1 - self.final_learning_rate) * cosine


class Objective(ABC):
    """Decides what a step minimises and which parameters it may touch."""

    separable: ClassVar[bool] = True  # whether a batch's loss is the mean of its lanes', so that they can be shared out

    def __init__(self, *, optimizer: OptimizerSettings) -> None:
        self.settings = optimizer

    @abstractmethod
    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        """Fresh optimizers for the parameters that this objective trains."""

    @abstractmethod
    def train_window(
        self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories, *, share: float
    ) -> tuple[Tensor, Memories]:
        """Train on one window of (B, T) tokens: the last segment's task loss (nats a character), the memory after.

        ``share`` is what the gradient is scaled by: 1, or what these lanes are of a batch that several ranks share.
        """

    def adamw(
        self, parameters: Iterable[nn.Parameter], learning_rate: float, gates: Collection[nn.Parameter] = ()
    ) -> torch.optim.AdamW:
        """An optimizer of these, those with another weight decay or rate in a group of their own.

        ``gates``, those of them that give a memory its share, may have a rate of their own.
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        gates_rate = self.settings.gate_learning_rate
        apart = set(gates) if gates_rate is not None else set()
        for each in parameters:
            spared = each in apart or (self.settings.decayed == "matrices" and each.ndim < 2)
            decay = 0.0 if spared else self.settings.weight_decay
            rate = gates_rate if gates_rate is not None and each in apart else learning_rate
            groups.setdefault((decay, rate), []).append(each)
        made = [
            {"params": g, "weight_decay": decay, "lr": rate, "initial_lr": rate} for (decay, rate), g in groups.items()
        ]
        return torch.optim.AdamW(made, lr=learning_rate, fused=True)

    def schedule(self, optimizers: Iterable[torch.optim.Optimizer], place: float) -> None:
        """Give the optimizers the learning rates of a place between training's start, 0, and its end, 1."""
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self.settings.share(place) * group["initial_lr"]

    def descend(
        self, model: CharLM, optimizer: LightningOptimizer, losses: Iterable[Tensor], num_losses: int = 1
    ) -> None:
        """One clipped step on the sum of the losses, asked for one by one, so that one graph is held at a time.

        Parameters that no loss reaches keep no gradient, so AdamW leaves them alone.
        """
        optimizer.zero_grad(set_to_none=True)
        for index, loss in enumerate(losses, start=1):
            with nullcontext() if index == num_losses else _unsynchronised(model):
                model.manual_backward(loss)
        reached = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(reached, self.settings.gradient_clip)
        optimizer.step()

    def split(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories) -> list["MicroBatch"]:
        """The lanes of a window in as many parts as the settings ask for, or as there are lanes."""
        size = -(-len(tokens) // self.settings.micro_batches)
        return [
            MicroBatch(
                segments=model.refine(part, tuple(each.lanes(start, start + size) for each in memory)),
                targets=targets[start : start + size],
                share=len(part) / len(tokens),
            )
            for start, part in zip(range(0, len(tokens), size), tokens.split(size), strict=True)
        ]


@dataclass
class MicroBatch:
    """Some lanes of a window on their way through its segments, in step with the other lanes."""

    segments: Iterator[Refinement]
    targets: Tensor  # (B, T), or (B, T, V) distributions
    share: float  # of the lanes
    last: Refinement = field(init=False)  # what its last segment made of it
    loss: Tensor = field(init=False)  # and the task loss of that, without its graph

    def advance(self, num_segments: int = 1) -> Tensor:
        """The task loss after so many more segments, mean over these lanes."""
        *_, self.last = itertools.islice(self.segments, num_segments)
        loss = task_loss(self.last.logits, self.targets)
        self.loss = loss.detach()
        return loss


def _together(parts: Sequence[MicroBatch]) -> tuple[Tensor, Memories]:
    """The loss of all lanes, and their memory."""
    loss = torch.stack([part.share * part.loss for part in parts]).sum()
    memories = zip(*(part.last.memory for part in parts), strict=True)
    return loss, tuple(map(Memory.joined, memories))


def _unsynchronised(model: CharLM) -> AbstractContextManager[None]:
    """While it lasts, gradients stay with their rank."""
    wrapped = model.trainer.strategy.model
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()


def optimizers_of(model: CharLM) -> list[LightningOptimizer]:
    """The optimizers that a Trainer has made of the objective's own; Lightning unpacks a single one."""
    made = model.optimizers()
    return made if isinstance(made, list) else [made]


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of (B, T, V) logits, nats a character: against (B, T) characters, or their distributions."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


class DeepSupervision(Objective):
    """The task loss after every segment, against the same targets, a step each (HRM, arXiv 2506.21734, section 2)."""

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        return [self.adamw(model.parameters(), self.settings.learning_rate, model.gates)]

    def train_window(
        self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories, *, share: float
    ) -> tuple[Tensor, Memories]:
        (optimizer,) = optimizers_of(model)
        parts = self.split(model, tokens, targets, memory)
        for _ in range(model.num_segments):
            self.descend(model, optimizer, (share * part.share * part.advance() for part in parts), len(parts))
        return _together(parts)


class LastSegmentSupervision(Objective):
    """The task loss after the last segment alone, one step a window: deep supervision's control.

    States are detached between segments, so what only an earlier segment reads (learned initial states) stays as it is.
    """

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        return [self.adamw(model.parameters(), self.settings.learning_rate, model.gates)]

    def train_window(
        self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories, *, share: float
    ) -> tuple[Tensor, Memories]:
        (optimizer,) = optimizers_of(model)
        parts = self.split(model, tokens, targets, memory)
        losses = (share * part.share * part.advance(model.num_segments) for part in parts)
        self.descend(model, optimizer, losses, len(parts))
        return _together(parts)


def dispersion_loss(hidden: Tensor, anchor_weight: float) -> Tensor:
    """−‖z − c‖_F / n + λ·‖c‖² of the n = B·T hidden vectors z and their centroid c: spread out, around the origin."""
    vectors = hidden.flatten(0, -2)  # (n, D)
    centroid = vectors.mean(dim=0)
    return anchor_weight * centroid.square().sum() - torch.linalg.norm(vectors - centroid) / len(vectors)


class OriginAnchoredDispersion(Objective):
    """Two phases a batch: OACD, unsupervised, on the body after every segment; then the task loss on the head alone.

    The centroid is that of a whole batch, which therefore stays on one device and in one piece.
    Phase 1 sums the loss over the states that the segment has just computed; phase 2 takes ``head_steps`` steps (1 as
    published) on the last states, through which no gradient goes back. The loss that it gives back is the first one's.
    """

    separable = False

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
            self.adamw(body, self.body_learning_rate, model.gates),
            self.adamw(model.head.parameters(), self.head_learning_rate),
        ]

    def train_window(
        self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memories, *, share: float
    ) -> tuple[Tensor, Memories]:
        body, head = optimizers_of(model)
        read_by_head: list[Tensor] = []
        with model.head.register_forward_pre_hook(lambda _, inputs: read_by_head.append(inputs[0].detach())):
            for refinement in model.refine(tokens, memory):
                computed = [level for level in refinement.state if level.requires_grad]
                loss = torch.stack([dispersion_loss(level, self.anchor_weight) for level in computed]).sum()
                self.descend(model, body, [loss])
        losses = []
        for _ in range(self.head_steps):
            losses.append(task_loss(model.head(read_by_head[-1]), targets))
            self.descend(model, head, losses[-1:])
        return losses[0].detach(), refinement.memory
