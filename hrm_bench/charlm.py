"""CharLM: what every architecture of the bench is, and the order in which windows, segments and memory happen.

Shapes: B lanes, T characters, D width, V vocabulary, W windows of a sample.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric

from hrm_bench.data.distillation import Teacher
from hrm_bench.layers.compressive_memory import Memory, WriteRule
from hrm_bench.layers.dropout import Dropout

if TYPE_CHECKING:
    from hrm_bench.objectives import Objective

State = tuple[Tensor, ...]  # each (B, T, D): what goes from segment to segment of one window
Memories = tuple[Memory, ...]  # one for each memory of the model: what goes from window to window of one lane
Batch = tuple[Tensor, Tensor]  # (B, W·window) characters and their next characters

LEARNED_STD = 0.02  # embeddings and learned states


@dataclass(frozen=True)
class MemoryPolicy:
    """When a lane's memory is emptied, read and written. Every model is given one; those without memory ignore it."""

    mode: Literal["none", "reset", "carry"] = "reset"
    write: Literal["after_window", "every_segment"] = "after_window"
    rule: WriteRule = "linear"
    evaluation: Literal["same", "reset"] = "same"

    @property
    def evaluation_mode(self) -> str:
        """The mode that texts are scored under."""
        return self.mode if self.evaluation == "same" or self.mode == "none" else self.evaluation


class Refinement(NamedTuple):
    """What a window has become after one more segment."""

    logits: Tensor  # (B, T, V)
    state: State  # with the gradient of this segment; the next segment gets it detached
    memory: Memories  # what the next window will read, if this segment is the last


class CharLM(lightning.LightningModule):
    """A character language model that refines each window over segments, with a memory from window to window.

    A subclass gives ``initial_state``, ``segment`` and, if it has a memory, ``uses_memory`` and ``initial_memory``; its
    output head is called ``head``. It is an ordinary module: ``logits, memory = model(tokens)`` needs no Trainer.
    """

    uses_memory: ClassVar[bool] = False

    head: nn.Linear

    def __init__(
        self, *, window: int, num_segments: int, memory: MemoryPolicy, objective: "Objective", seed: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.window = window
        self.num_segments = num_segments
        self.memory_policy = memory
        self.objective = objective
        self.seed = seed
        self.character_dropout = 0.0
        self.teacher: Teacher | None = None
        self.taught = 0.0  # lanes of the teacher's text for each lane of a batch
        self.nll = MeanMetric(sync_on_compute=False).set_dtype(torch.float64)  # every rank scores all of a text
        self.train_nll = MeanMetric().set_dtype(torch.float64)
        self.last_memory: Memories = ()  # after the last batch, of its lanes
        self._compiled: Callable[[Tensor, State, Memories], tuple[Tensor, State, Memories]] | None = None
        self._compiled_shape: tuple[int, int] | None = None

    # What an architecture provides

    def initial_state(self, num_lanes: int, length: int) -> State:
        """The state that the first segment of a window of ``length`` ≤ window characters starts from."""
        raise NotImplementedError

    def initial_memory(self, num_lanes: int) -> Memories:
        """Empty memories, one for each that the model has."""
        return ()

    def segment(self, tokens: Tensor, state: State, memory: Memories) -> tuple[Tensor, State, Memories]:
        """One refinement pass over one window of (B, T) tokens: logits (B, T, V), new state, what to add to memory."""
        raise NotImplementedError

    def initialise(self, *, width: int) -> None:
        """Draw every parameter anew, each from a stream of its own that (seed, name) decides.

        So models of one seed agree wherever they have a parameter of the same name and shape. Linear weights have
        std 1/√width, embeddings and learned states 0.02, all from a normal that is truncated at ±2 (not ±2 std: far out
        in its tails); all else (norms at 1, gates at 0) keeps the value it was built with.
        """
        for prefix, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = width**-0.5
            elif isinstance(module, (nn.Embedding, nn.ParameterList)):
                std = LEARNED_STD
            else:
                continue
            for name, parameter in module.named_parameters(prefix, recurse=False):
                digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
                stream = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
                nn.init.trunc_normal_(parameter, std=std, a=-2.0, b=2.0, generator=stream)

    @property
    def gates(self) -> list[nn.Parameter]:
        """The parameters that decide what share a memory is given: in a layer with a memory, those called ``gate``."""
        return [parameter for name, parameter in self.named_parameters() if name.endswith(".gate")]

    def regularise(self, *, character_dropout: float, **rates: float) -> None:
        """Train with dropout, at a rate a place; from here on.

        Raises ValueError where the model has no such place.
        """
        self.character_dropout = character_dropout
        dropouts = [module for module in self.modules() if isinstance(module, Dropout)]
        for place, rate in rates.items():
            at_place = [dropout for dropout in dropouts if dropout.place == place]
            if rate and not at_place:
                raise ValueError(place)
            for dropout in at_place:
                dropout.rate = rate

    def compile_training(self, num_lanes: int) -> None:
        """Train on whole windows of so many lanes by compiled code, from here on; all else goes on as it is.

        One shape alone, since each takes its own compiling: the last, smaller batch and evaluation are not worth it.
        """
        self._compiled = torch.compile(self.segment, dynamic=False)
        self._compiled_shape = (num_lanes, self.window)

    # The order of things

    def refine(self, tokens: Tensor, memory: Memories) -> Iterator[Refinement]:
        """Run the segments of one window, (B, T) with T ≤ window, and give what each of them made of it.

        Every segment reads the memory as it stood before the window; it is written once, after the last. Only
        ``write=every_segment`` lets a segment read what an earlier one wrote of the same window, its future included.
        """
        state = self.initial_state(*tokens.shape)
        compiled = self._compiled if self.training and tokens.shape == self._compiled_shape else None
        for index in range(self.num_segments):
            logits, state, update = (compiled or self.segment)(tokens, state, memory)
            written = self.memory_policy.write == "every_segment" or index + 1 == self.num_segments
            if written and self.memory_policy.mode != "none":
                memory = tuple((old + new).detach() for old, new in zip(memory, update, strict=True))
            yield Refinement(logits, state, memory)
            state = tuple(level.detach() for level in state)

    def forward(self, tokens: Tensor, memory: Memories | None = None) -> tuple[Tensor, Memories]:
        """Logits (B, T, V) of (B, T) tokens, any T ≥ 1, and the memory after them.

        The tokens are taken in windows from the left (the last may be shorter); each window's logits are those of its
        last segment. ``memory`` is what an earlier call gave back, for the same lanes; by default it starts empty.
        """
        memory = self.initial_memory(tokens.shape[0]) if memory is None else memory
        logits = []
        for window in tokens.split(self.window, dim=1):
            *_, last = self.refine(window, memory)
            logits.append(last.logits)
            memory = last.memory
        return torch.cat(logits, dim=1), memory

    # Training and evaluation under a Trainer

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return self.objective.optimizers(self)

    def on_train_epoch_start(self) -> None:
        self.last_memory = ()
        self.train_nll.reset()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Train on every window of a batch; the last one's loss. Of several ranks, each takes every so many-th lane.

        What the batch draws at random is a function of the seed, the epoch, the batch and the rank alone.
        """
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        torch.manual_seed(_stream_seed(self.seed, self.current_epoch, batch_index, rank))
        tokens, targets = (part[rank::ranks] for part in batch)
        self.objective.schedule(self.trainer.optimizers, self._place(batch_index))
        share = len(tokens) * ranks / len(batch[0])  # of the batch's loss, which is the mean over ranks
        memory = self._incoming(len(tokens), self.memory_policy.mode)
        num_lanes = len(tokens)
        if self.teacher is not None:
            tokens, targets = self._taught(tokens, targets, self.teacher)
            memory = tuple(map(Memory.joined, zip(memory, self.initial_memory(len(tokens) - num_lanes), strict=True)))
        tokens = self._noised(tokens)
        for window, target in zip(tokens.split(self.window, dim=1), targets.split(self.window, dim=1), strict=True):
            loss, memory = self.objective.train_window(self, window, target, memory, share=share)
            self.train_nll.update(loss, weight=window.numel())
        self.last_memory = tuple(each.lanes(0, num_lanes) for each in memory)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an epoch has gathered so far, of every rank; not to a file of weights alone."""
        if "optimizer_states" not in checkpoint:
            return
        # The metric's own name for the sum is mean_value.
        ours = (self.train_nll.mean_value, self.train_nll.weight, [tuple(memory) for memory in self.last_memory])
        gathered: list[Any] = [ours]
        if self.trainer.world_size > 1:
            gathered = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, ours)
        checkpoint["epoch_so_far"] = gathered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        total, weight, memories = checkpoint["epoch_so_far"][self.trainer.global_rank]
        self.train_nll.mean_value, self.train_nll.weight = total.to(self.device), weight.to(self.device)
        self.train_nll._update_count = 1  # or it would warn that it was never updated
        self.last_memory = tuple(Memory(*(part.to(self.device) for part in memory)) for memory in memories)

    def on_validation_epoch_start(self) -> None:
        self.last_memory = ()
        for module in self.modules():
            if isinstance(module, MeanMetric) and module is not self.train_nll:
                module.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Score samples in the text's order; ``carry`` reads them as the one stream that they are."""
        tokens, targets = batch
        mode = self.memory_policy.evaluation_mode
        if mode == "carry" and self.uses_memory:
            tokens, targets = tokens.reshape(1, -1), targets.reshape(1, -1)
        logits, self.last_memory = self(tokens, self._incoming(tokens.shape[0], mode))
        self.nll.update(functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), weight=targets.numel())

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self.log("validation/nll", self.nll.compute(), sync_dist=True)  # the same in every rank

    def on_test_epoch_end(self) -> None:
        self.log("test/nll", self.nll.compute())

    def _place(self, batch_index: int) -> float:
        """Of the end of a batch of this epoch, between training's start, 0, and its end, 1."""
        epochs, batches = self.trainer.max_epochs, self.trainer.num_training_batches
        return (self.current_epoch + (batch_index + 1) / batches) / epochs if epochs else 0.0

    def _taught(self, tokens: Tensor, targets: Tensor, teacher: Teacher) -> Batch:
        """The lanes of a batch, and after them those of the teacher's text; all targets are distributions."""
        read, expected = teacher.lanes(round(self.taught * len(tokens)), tokens.shape[1], tokens.device)
        certain = functional.one_hot(targets, self.head.out_features).to(expected.dtype)
        return torch.cat((tokens, read)), torch.cat((certain, expected))

    def _noised(self, tokens: Tensor) -> Tensor:
        """The characters that are read in training: a share of them is replaced by others, any as likely."""
        if not self.character_dropout:
            return tokens
        replaced = torch.rand(tokens.shape, device=tokens.device) < self.character_dropout
        return torch.where(replaced, torch.randint_like(tokens, self.head.out_features), tokens)

    def _incoming(self, num_lanes: int, mode: str) -> Memories:
        """What the lanes of a batch read first: nothing, or, in mode ``carry``, what the batch before left in them."""
        if mode == "carry" and self.last_memory and self.last_memory[0].matrix.shape[0] >= num_lanes:
            return tuple(memory.lanes(0, num_lanes) for memory in self.last_memory)
        return self.initial_memory(num_lanes)


def _stream_seed(*place: int) -> int:
    """A seed for each place; PyTorch uses its last 32 bits, so the numbers must not only stand side by side."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, place)).encode()).digest()[:8], "big") >> 1
