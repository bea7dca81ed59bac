"""The ways to train a model: the two of the reports, a control of the first, and one step for several windows.

An objective is a generator of optimizer steps over the windows of a sample. It decides what a step minimises and which
parameters the step may touch; ``CharLM.training_step`` takes the steps.

Shapes: B lanes, T characters, D width, V vocabulary.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hrm_bench.charlm import CharLM, Refinement
from hrm_bench.errors import UsageError
from hrm_bench.layers import carried
from hrm_bench.layers.carried import Memory
from hrm_bench.optimizers import OptimizerSettings, optimizer, set_learning_rates
from hrm_bench.steps import Step as Step
from hrm_bench.steps import Steps, Window, num_scored
from hrm_bench.steps import Trained as Trained


class Objective(ABC):
    """A way to train a model: which optimizers it has, and the steps that each of them takes."""

    through_memory: ClassVar[bool] = False  # a step's gradient may go back through what earlier windows wrote
    separable: ClassVar[bool] = True  # a batch's loss is the mean of its lanes' losses, so that lanes can be shared out

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The values of an objective's own; by default it has none."""

    def __init__(self, config: Config, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.is_of_task = False  # whether there may be windows without a scored character, which give no step
        self.gradient_clip = settings.gradient_clip

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        """Return fresh optimizers of the parameters that this objective trains; by default one of all."""
        return [optimizer(self.settings, model.parameters(), gates=model.gates, matrices=model.matrices)]

    def schedule(self, optimizers: Sequence[torch.optim.Optimizer], progress: float) -> None:
        """Give the optimizers the learning rates of this fraction of training."""
        set_learning_rates(self.settings, optimizers, progress)

    def is_scored(self, targets: Tensor) -> bool:
        """Return whether a window has a scored character."""
        return not self.is_of_task or bool(num_scored(targets))

    @abstractmethod
    def steps(self, model: CharLM, windows: Sequence[Window], memory: Memory, *, weight: float) -> Steps:
        """Yield the optimizer steps of a sample, and return the losses and the memory after it.

        Args:
            model: in training mode; the caller takes each step before it asks for the next.
            windows: (B, T) tokens and their targets for each window of the sample, in order.
            memory: what the first window reads.
            weight: factor of each loss: 1, or the fraction of a batch that these lanes are, times the ranks.
        """


@dataclass
class MicroBatch:
    """Some lanes of a window on their way through its segments, in step with the other lanes."""

    segments: Iterator[Refinement]
    targets: Tensor  # (B, T), or (B, T, V) distributions
    weight: float  # fraction of the window's lanes
    last: Refinement = field(init=False)  # what the last segment so far has given
    loss: Tensor = field(init=False)  # the task loss of that, without its graph

    def advance(self, num_segments: int = 1) -> Tensor:
        """Return the task loss after ``num_segments`` more segments, mean over these lanes."""
        for refinement in itertools.islice(self.segments, num_segments):
            self.last = refinement
        loss = task_loss(self.last.logits, self.targets)
        self.loss = loss.detach()
        return loss

    @torch.no_grad()
    def pass_over(self) -> None:
        """Run all segments of a window without a scored character, whose loss is 0."""
        for refinement in self.segments:
            self.last = refinement
        self.loss = self.last.logits.new_zeros(())


class TaskSupervision(Objective):
    """An objective whose steps all minimise the task loss, each after some more segments of a window."""

    def steps(self, model: CharLM, windows: Sequence[Window], memory: Memory, *, weight: float) -> Steps:
        losses = []
        for tokens, targets in windows:
            parts = self._split(model, tokens, targets, memory)
            if not self.is_scored(targets):
                for part in parts:
                    part.pass_over()
            for num_segments in self.segments_per_step(model) if self.is_scored(targets) else []:
                weighted = (weight * part.weight * part.advance(num_segments) for part in parts)
                yield Step(0, weighted, len(parts))
            losses.append(torch.stack([part.weight * part.loss for part in parts]).sum())
            memory = carried.join([part.last.memory for part in parts])
        return Trained(losses, memory)

    @abstractmethod
    def segments_per_step(self, model: CharLM) -> list[int]:
        """Return how many segments of a window precede each of its optimizer steps."""

    def _split(self, model: CharLM, tokens: Tensor, targets: Tensor, memory: Memory) -> list[MicroBatch]:
        """Return the lanes of a window in as many parts as the settings ask for, or as there are lanes."""
        size = math.ceil(len(tokens) / self.settings.micro_batches)
        return [
            MicroBatch(
                segments=model.refine(part, carried.lanes(memory, start, start + size)),
                targets=targets[start : start + size],
                weight=len(part) / len(tokens),
            )
            for start, part in zip(range(0, len(tokens), size), tokens.split(size), strict=True)
        ]


class DeepSupervision(TaskSupervision):
    """The task loss after every segment, one optimizer step each (HRM, arXiv 2506.21734, section 2)."""

    def segments_per_step(self, model: CharLM) -> list[int]:
        return [1] * model.num_segments


class LastSegmentSupervision(TaskSupervision):
    """The task loss after the last segment only, one optimizer step per window: the control of deep supervision.

    States are detached between segments. So a parameter that only an earlier segment reads, such as a learned initial
    state, is never trained.
    """

    def segments_per_step(self, model: CharLM) -> list[int]:
        return [model.num_segments]


@dataclass
class Unrolled:
    """Some lanes of consecutive windows, which share an optimizer step with the other lanes."""

    windows: list[Window]
    are_scored: list[bool]
    memory: Memory  # before the windows, and without its graph after them
    weight: float  # fraction of the lanes
    losses: Tensor = field(init=False)  # (W,) task losses of the last segments, without their graph

    def loss(self, model: CharLM) -> Tensor:
        """Return the mean task loss of all segments of the windows, each of which reads what those before it wrote.

        Windows without a scored character have none.
        """
        memory, of_segments, of_windows = self.memory, [], []
        for (tokens, targets), is_scored in zip(self.windows, self.are_scored, strict=True):
            for refinement in model.refine(tokens, memory):
                if is_scored:
                    of_segments.append(task_loss(refinement.logits, targets))
            memory = refinement.memory
            of_windows.append(of_segments[-1].detach() if is_scored else refinement.logits.new_zeros(()))
        self.losses, self.memory = torch.stack(of_windows), carried.detach(memory)
        return torch.stack(of_segments).mean() if of_segments else self.losses.sum()


class ThroughTime(Objective):
    """The mean task loss of all segments of ``memory.unroll`` windows, one optimizer step for all of them.

    Without a number of windows, those of a sample share a step. With ``memory.gradient=through`` this is truncated
    backpropagation through time: the gradient goes back through what earlier windows of the step wrote. Without it,
    it is the control that takes the same steps.
    """

    through_memory = True

    def steps(self, model: CharLM, windows: Sequence[Window], memory: Memory, *, weight: float) -> Steps:
        losses: list[Tensor] = []
        unroll = model.memory_policy.unroll or len(windows)
        for start in range(0, len(windows), unroll):
            parts = self._split(windows[start : start + unroll], memory)
            if any(parts[0].are_scored):
                yield Step(0, (weight * part.weight * part.loss(model) for part in parts), len(parts))
            else:
                with torch.no_grad():
                    for part in parts:
                        part.loss(model)
            losses += torch.stack([part.weight * part.losses for part in parts]).sum(dim=0)
            memory = carried.join([part.memory for part in parts])
        return Trained(losses, memory)

    def _split(self, windows: Sequence[Window], memory: Memory) -> list[Unrolled]:
        """Return the lanes of windows in as many parts as the settings ask for, or as there are lanes."""
        num_lanes = len(windows[0][0])
        size = math.ceil(num_lanes / self.settings.micro_batches)
        are_scored = [self.is_scored(targets) for _, targets in windows]
        cuts = [(start, min(start + size, num_lanes)) for start in range(0, num_lanes, size)]
        return [
            Unrolled(
                windows=[(tokens[start:stop], targets[start:stop]) for tokens, targets in windows],
                are_scored=are_scored,
                memory=carried.lanes(memory, start, stop),
                weight=(stop - start) / num_lanes,
            )
            for start, stop in cuts
        ]


class OriginAnchoredDispersion(Objective):
    """Two phases per window: OACD, unsupervised, trains the body; then the task loss trains the head.

    Phase 1 takes a step after every segment, on the sum of OACD over the states that the segment has computed. Phase 2
    takes ``head_steps`` steps (published: 1) on what the head has read in the last segment, as values without gradient.
    The reported loss is that of the first head step. The centroid is that of a whole batch, which therefore stays on
    one device and in one piece.
    """

    separable = False

    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        """The values of LCT+OACD's training."""

        body_learning_rate: float
        head_learning_rate: float
        head_steps: int  # steps of the head per window
        anchor_weight: float  # λ

    def __init__(self, config: Config, settings: OptimizerSettings) -> None:
        super().__init__(config, settings)
        self.config = config

    def optimizers(self, model: CharLM) -> list[torch.optim.Optimizer]:
        head = set(model.head.parameters())
        body = [parameter for parameter in model.parameters() if parameter not in head]
        return [
            optimizer(
                self.settings,
                body,
                learning_rate=self.config.body_learning_rate,
                gates=model.gates,
                matrices=model.matrices,
            ),
            optimizer(self.settings, model.head.parameters(), learning_rate=self.config.head_learning_rate),
        ]

    def steps(self, model: CharLM, windows: Sequence[Window], memory: Memory, *, weight: float) -> Steps:
        losses = []
        for tokens, targets in windows:
            for refinement in model.refine(tokens, memory):
                if refinement.read_by_head is None:
                    raise UsageError(
                        f"objective=oacd: trains the states between segments, and {type(model).__name__} has none; try "
                        "objective=deep_supervision"
                    )
                computed = [level for level in refinement.state if level.requires_grad]
                dispersions = [dispersion_loss(level, self.config.anchor_weight) for level in computed]
                yield Step(0, [torch.stack(dispersions).sum()], name="OACD")
            head_losses = [] if self.is_scored(targets) else [targets.new_zeros((), dtype=torch.float32)]
            for _ in range(self.config.head_steps if self.is_scored(targets) else 0):
                head_losses.append(task_loss(model.head(refinement.read_by_head), targets))
                yield Step(1, head_losses[-1:])
            losses.append(head_losses[0].detach())
            memory = refinement.memory
        return Trained(losses, memory)


def task_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of (B, T, V) logits in nats per character.

    ``targets`` are (B, T) characters or (B, T, V) distributions of them.
    """
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


def dispersion_loss(hidden: Tensor, anchor_weight: float) -> Tensor:
    """Return −‖z − c‖_F / n + λ·‖c‖² of n = B·T hidden vectors z with centroid c.

    Its minimum spreads the vectors out, around the origin.
    """
    vectors = hidden.flatten(0, -2)  # (n, D)
    centroid = vectors.mean(dim=0)
    return anchor_weight * centroid.square().sum() - torch.linalg.norm(vectors - centroid) / len(vectors)
