"""CharLM: what every architecture of the bench is, and the order in which windows, segments and memory happen.

Shapes: B lanes, T characters, D width, V vocabulary, W windows of a sample.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from hrm_bench.layers import carried
from hrm_bench.layers.carried import Memory
from hrm_bench.layers.compressive_memory import Association
from hrm_bench.layers.dropout import Dropout
from hrm_bench.layers.gate import Gated, GateMeans
from hrm_bench.layers.initialisation import initialise, stream_seed
from hrm_bench.layers.mean import Mean
from hrm_bench.steps import Objective, Step, follow, num_scored, take

State = tuple[Tensor, ...]  # each (B, T, D): what goes from segment to segment of one window
MOST_COMPILED = 128
Batch = tuple[Tensor, Tensor]  # (B, W·window) characters and their next characters
Transform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # of the (B, W·window) characters and targets of a batch


@dataclass(frozen=True)
class MemoryPolicy(Association):
    """When a lane's memory is emptied, read and written, and how. Every model is given one."""

    mode: Literal["none", "reset", "carry"] = "reset"
    write: Literal["after_window", "every_segment"] = "after_window"
    evaluation: Literal["same", "reset"] = "same"
    unroll: int | None = None  # windows whose losses share an optimizer step, where an objective has such steps

    @property
    def evaluation_mode(self) -> str:
        """Return the mode in which texts are scored."""
        return self.mode if self.evaluation == "same" or self.mode == "none" else self.evaluation


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The values that every model is built with, besides the config of its own architecture."""

    vocabulary_size: int
    window: int
    memory: MemoryPolicy
    seed: int
    windows_per_sample: int = 1


class Refinement(NamedTuple):
    """The result of one segment of a window."""

    logits: Tensor  # (B, T, V)
    state: State  # with the gradient of this segment; the next segment gets it without
    memory: Memory  # what the next window will read, if this segment is the last; with a graph if the policy says so
    read_by_head: Tensor | None  # (B, T, D), without gradient; None if the head reads no part of the state


class Scored(NamedTuple):
    """The result of scoring a batch of W windows per lane."""

    tokens: Tensor  # (B, W·window)
    targets: Tensor
    logits: Tensor  # (B, W·window, V)
    memories: list[Memory]  # W memories of B lanes: what each window has read


class CharLM(lightning.LightningModule):
    """A character language model that refines each window over segments, with a memory from window to window.

    A subclass defines ``segment`` and has an output layer called ``head``. Where it needs them it defines
    ``initial_state``, ``read_by_head``, ``initial_memory`` (with ``uses_memory``), ``commit`` and ``memory_norm``. It
    is an ordinary module: ``logits, memory = model(tokens)`` needs no Trainer, and no ``objective``.
    """

    uses_memory: bool = False  # of the class, if it does in every mode that writes one

    head: nn.Linear
    objective: Objective  # set by what trains the model

    def __init__(self, setting: Setting, *, num_segments: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.vocabulary_size = setting.vocabulary_size
        self.window = setting.window
        self.memory_policy = setting.memory
        self.seed = setting.seed
        self.num_segments = num_segments
        self.transforms: list[Transform] = []  # of each training batch, in order; they may append lanes
        self.notes: list[str] = []  # what was asked of the model and left out, one sentence each
        self.nll = Mean()  # every rank scores all of a text
        self.train_nll = Mean(of_ranks=True)
        self.last_memory: Memory = ()  # of the lanes of the last batch, after it
        self.gate_means = GateMeans()  # while a Trainer scores a text
        self._compiled: Callable[[Tensor, State, Memory, int], tuple[Tensor, State, Memory]] | None = None
        self._compiled_shape: tuple[int, int] | None = None

    # What an architecture provides

    @classmethod
    def reads_memory(cls, mode: str, windows_per_sample: int) -> bool:
        """Return whether a cell of this model has a memory, whose settings are then a part of its identity."""
        return cls.uses_memory

    def segment(self, tokens: Tensor, state: State, memory: Memory, index: int) -> tuple[Tensor, State, Memory]:
        """Run refinement pass number ``index``, from 0, over one window of (B, T) tokens.

        Returns logits (B, T, V), the new state, and the update that ``commit`` writes into the memory.
        """
        raise NotImplementedError

    def initial_state(self, num_lanes: int, length: int) -> State:
        """Return the state from which the first segment of ``length`` ≤ window characters starts."""
        return ()

    def read_by_head(self, state: State) -> Tensor | None:
        """Return the part of a state that ``head`` has read to give the segment's logits; by default the last."""
        return state[-1] if state else None

    def initial_memory(self, num_lanes: int) -> Memory:
        """Return empty memories for new lanes: any tuple of tensors with the lane first, see ``layers.carried``."""
        return ()

    def commit(self, memory: Memory, update: Memory) -> Memory:
        """Return the memory after an update; by default their sum."""
        return carried.added(memory, update)

    def memory_norm(self, memory: Memory) -> Tensor:
        """Return how large a memory is, one number; by default the mean over lanes of the norm of all its numbers."""
        return carried.norm(memory)

    # What every architecture has

    def initialise(self, *, width: int) -> None:
        """Draw the parameters from the model's seed; a constructor calls it last, see ``layers.initialisation``."""
        initialise(self, seed=self.seed, width=width)

    @property
    def gates(self) -> list[nn.Parameter]:
        """Return the parameters that decide how much of a memory is let through, of all layers that declare one."""
        return [module.gate for module in self.modules() if isinstance(module, Gated)]

    @property
    def matrices(self) -> list[nn.Parameter]:
        """Return the weights of all linear layers but the head, which some optimizers treat by themselves."""
        linear = [module for module in self.modules() if isinstance(module, nn.Linear) and module is not self.head]
        return [weight for module in linear for weight in [module.weight] if isinstance(weight, nn.Parameter)]

    def memory_course(self) -> dict[str, float]:
        """Return what a Trainer's last scoring of a text says of the memory.

        ``memory_share`` is what the gates let through, mean over the text, heads and layers, if there are gates;
        ``memory_norm`` is the norm of the memory at the text's end.
        """
        gate_mean = self.gate_means.mean()
        gates = {} if gate_mean is None else {"memory_share": gate_mean}
        return {**gates, "memory_norm": float(self.memory_norm(self.last_memory))}

    def regularise(self, rates: Mapping[str, float]) -> list[str]:
        """Set the dropout rate of each site, from here on; return the sites with a rate that the model lacks."""
        dropouts = [module for module in self.modules() if isinstance(module, Dropout)]
        for dropout in dropouts:
            dropout.rate = rates.get(dropout.site, dropout.rate)
        present = {dropout.site for dropout in dropouts}
        return [site for site, rate in rates.items() if rate and site not in present]

    def compile_training(self, num_lanes: int | None) -> None:
        """Compile training on whole windows of ``num_lanes`` lanes; None: compile nothing, as a copy of a model must.

        Other shapes, such as the last, smaller batch, are not worth the time that compiling takes. Random draws are
        those of training that is not compiled. Models of one architecture share their compiled code; PyTorch keeps that
        of ``MOST_COMPILED`` architectures and segments per process.
        """
        self._compiled, self._compiled_shape = None, None
        if num_lanes is not None:
            options: dict[str, Any] = {"fallback_random": True}
            limit: dict[str, Any] = {"recompile_limit": MOST_COMPILED}  # which PyTorch's own types do not know
            self._compiled = torch.compile(self.segment, dynamic=False, options=options, **limit)
            self._compiled_shape = (num_lanes, self.window)

    # The order of windows, segments and memory

    def refine(self, tokens: Tensor, memory: Memory, num_segments: int | None = None) -> Iterator[Refinement]:
        """Run the segments of one window, (B, T) with T ≤ window, and yield what each of them has made of it.

        Every segment reads the memory as it stood before the window; it is written once, after the last. Only
        ``write=every_segment`` lets a segment read what an earlier one wrote of the same window, its future included.
        """
        num_segments = self.num_segments if num_segments is None else num_segments
        state = self.initial_state(*tokens.shape)
        compiled = self._compiled if self.training and tokens.shape == self._compiled_shape else None
        for index in range(num_segments):
            logits, state, update = (compiled or self.segment)(tokens, state, memory, index)
            writes = self.memory_policy.write == "every_segment" or index + 1 == num_segments
            if writes and self.memory_policy.mode != "none":
                memory = self.commit(memory, update)
                if self.memory_policy.gradient == "none":
                    memory = carried.detach(memory)
            values = tuple(level.detach() for level in state)
            yield Refinement(logits, state, memory, self.read_by_head(values))
            state = values

    def forward(
        self, tokens: Tensor, memory: Memory | None = None, *, num_segments: int | None = None
    ) -> tuple[Tensor, Memory]:
        """Return the logits (B, T, V) of (B, T) tokens, any T ≥ 1, and the memory after them.

        The tokens are taken in windows from the left (the last may be shorter); each window's logits are those of its
        last segment. ``memory`` is what an earlier call has returned for the same lanes; by default it is empty.
        """
        memory = self.initial_memory(tokens.shape[0]) if memory is None else memory
        logits, memories = zip(*self._read(tokens, memory, num_segments), strict=True)
        return torch.cat(logits, dim=1), memories[-1]

    def _read(self, tokens: Tensor, memory: Memory, num_segments: int | None = None) -> Iterator[tuple[Tensor, Memory]]:
        """Yield the logits of each window of (B, T) tokens, and the memory after it."""
        for window in tokens.split(self.window, dim=1):
            for refinement in self.refine(window, memory, num_segments):
                last = refinement
            memory = last.memory
            yield last.logits, memory

    # Training and evaluation under a Trainer

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return self.objective.optimizers(self)

    def on_train_epoch_start(self) -> None:
        self.last_memory = ()
        self.train_nll.reset()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Train on every window of a batch and return the last one's loss. Of R ranks, each takes every R-th lane.

        What the batch draws at random is a function of the seed, the epoch, the batch and the rank alone.
        """
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        self._draw_from(stream_seed(self.seed, self.current_epoch, batch_index, rank))
        tokens, targets = (part[rank::ranks] for part in batch)
        num_lanes = len(tokens)
        weight = num_lanes * ranks / len(batch[0])  # ranks average their gradients
        memory = self._incoming(num_lanes, self.memory_policy.mode)
        for transform in self.transforms:
            tokens, targets = transform(tokens, targets)
        if len(tokens) > num_lanes:
            memory = carried.join([memory, self.initial_memory(len(tokens) - num_lanes)])
        windows = [*zip(tokens.split(self.window, dim=1), targets.split(self.window, dim=1), strict=True)]
        self.objective.schedule(self.trainer.optimizers, self._progress(batch_index))
        trained = follow(self.objective.steps(self, windows, memory, weight=weight), self._take)
        for loss, (_, expected) in zip(trained.losses, windows, strict=True):
            self.train_nll.update(loss, weight=num_scored(expected))
        self.last_memory = carried.lanes(trained.memory, 0, num_lanes)
        return trained.losses[-1]

    def _draw_from(self, seed: int) -> None:
        """Seed the generators of the devices in use; ``torch.manual_seed`` takes 2 ms to note it for all others."""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _take(self, step: Step) -> None:
        optimizers: Any = self.optimizers()  # Lightning unpacks a single one
        wrapped = self.trainer.strategy.model

        def backward(loss: Tensor, is_last: bool) -> None:
            # Ranks average their gradients at the last loss of a step.
            with wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) and not is_last else nullcontext():
                self.manual_backward(loss)

        optimizer = optimizers[step.optimizer] if isinstance(optimizers, list) else optimizers
        take(step, optimizer, gradient_clip=self.objective.gradient_clip, backward=backward)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an epoch has gathered so far, of every rank; not to a file of weights alone."""
        if "optimizer_states" not in checkpoint:
            return
        own = (self.train_nll.sums, carried.tensors(self.last_memory))
        gathered: list[Any] = [own]
        if self.trainer.world_size > 1:
            gathered = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, own)
        checkpoint["epoch_so_far"] = gathered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        sums, values = checkpoint["epoch_so_far"][self.trainer.global_rank]
        self.train_nll.sums = sums.to(self.device)
        values = [value.to(self.device) for value in values]
        self.last_memory = carried.rebuilt(self.initial_memory(1), values) if values else ()

    def on_validation_epoch_start(self) -> None:
        self.last_memory = ()
        self.nll.reset()
        self.gate_means.switch_on()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.score(batch)

    def score(self, batch: Batch) -> Scored:
        """Score samples in the text's order; ``carry`` reads them as the one stream that they are."""
        tokens, targets = batch
        mode = self.memory_policy.evaluation_mode
        if mode == "carry" and self.uses_memory:
            tokens, targets = tokens.reshape(1, -1), targets.reshape(1, -1)
        first = self._incoming(tokens.shape[0], mode)
        windows, memories = zip(*self._read(tokens, first), strict=True)
        self.last_memory = memories[-1]
        logits = torch.cat(windows, dim=1)
        self.nll.update(functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), weight=num_scored(targets))
        return Scored(tokens, targets, logits, [first, *memories[:-1]])

    def on_validation_epoch_end(self) -> None:
        self.gate_means.is_on = False
        self.log("validation/nll", self.nll.compute(), sync_dist=True)  # equal in every rank

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self.gate_means.is_on = False
        self.log("test/nll", self.nll.compute())

    def _progress(self, batch_index: int) -> float:
        """Return the fraction of training that is completed after this batch of the epoch."""
        epochs, batches = self.trainer.max_epochs, self.trainer.num_training_batches
        return (self.current_epoch + (batch_index + 1) / batches) / epochs if epochs else 0.0

    def _incoming(self, num_lanes: int, mode: str) -> Memory:
        """Return what a batch's lanes read first: in mode ``carry`` what the batch before has left, else nothing."""
        if mode == "carry" and (carried.num_lanes(self.last_memory) or 0) >= num_lanes:
            return carried.lanes(self.last_memory, 0, num_lanes)
        return self.initial_memory(num_lanes)
