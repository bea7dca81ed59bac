"""A model that breaks the contract is refused in one line before anything is trained, and a good one is not."""

import random
from dataclasses import dataclass
from typing import NamedTuple

import numpy
import pytest
import torch
from conftest import MODELS, SMALL, compose, fitting
from torch import Tensor, nn

from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.charlm import CharLM
from hrm_bench.errors import UsageError
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.sweeps import sweep


class Counts(NamedTuple):
    """A memory: the sum of all embeddings of a lane."""

    total: Tensor  # (B, D)


class Good(CharLM):
    """A model with a memory of its own shape."""

    uses_memory = True

    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int

    def __init__(self, config, setting):
        super().__init__(setting, num_segments=1)
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes):
        return Counts(self.head.weight.new_zeros(num_lanes, self.head.in_features))

    def segment(self, tokens, state, memory, index):
        hidden = self.embedding(tokens)
        return self.head(hidden + memory.total[:, None]), state, Counts(hidden.mean(dim=1))


class LogitsOfTheLastCharacter(Good):
    def segment(self, *window):
        logits, state, update = super().segment(*window)
        return logits[:, -1], state, update


class NoHead(Good):
    def __init__(self, config, setting):
        super().__init__(config, setting)
        self.output = self.head
        del self.head

    def initial_memory(self, num_lanes):
        return Counts(self.output.weight.new_zeros(num_lanes, self.output.in_features))


class NoSegment(Good):
    segment = CharLM.segment


class NoUpdate(Good):
    def segment(self, *window):
        return super().segment(*window)[:2]


class PlainTensor(Good):
    def initial_memory(self, num_lanes):
        return super().initial_memory(num_lanes).total


class LaneLast(Good):
    def initial_memory(self, num_lanes):
        return Counts(super().initial_memory(num_lanes).total.T)


class MemoryUndeclared(Good):
    uses_memory = False


class NewMemoryForUpdate(Good):
    def segment(self, tokens, state, memory, index):
        logits, state, update = super().segment(tokens, state, memory, index)
        return logits, state, Counts(memory.total + update.total)


class UpdateOfAnotherShape(Good):
    def segment(self, *window):
        logits, state, update = super().segment(*window)
        return logits, state, Counts(update.total[:, :, None])


class SinglePrecision(Good):
    def segment(self, tokens, state, memory, index):
        logits, state, update = super().segment(tokens, state, memory, index)
        return logits.float(), state, update


class SinglePrecisionInside(Good):
    def segment(self, tokens, state, memory, index):
        hidden = self.embedding(tokens).float()
        return self.head(hidden), state, Counts(hidden.mean(dim=1))


class InPlace(Good):
    def segment(self, tokens, state, memory, index):
        memory.total.add_(1)
        return super().segment(tokens, state, memory, index)


class OverTheBatch(Good):
    def segment(self, *window):
        logits, state, update = super().segment(*window)
        return logits - logits.mean(dim=0), state, update


class BatchNorm(Good):
    def __init__(self, config, setting):
        super().__init__(config, setting)
        self.norm = nn.BatchNorm1d(config.width)


class NotFinite(Good):
    def segment(self, *window):
        logits, state, update = super().segment(*window)
        return logits.log(), state, update


class Noise(Good):
    def segment(self, *window):
        logits, state, update = super().segment(*window)
        return logits + torch.rand(()), state, update


class NoEmbedding(Good):
    def segment(self, tokens, state, memory, index):
        hidden = self.embedding.weight[tokens]
        return self.head(hidden + memory.total[:, None]), state, Counts(hidden.mean(dim=1))


class HiddenWeights(Good):
    def __init__(self, config, setting):
        super().__init__(config, setting)
        self.table = [torch.rand(config.width)]

    def segment(self, tokens, state, memory, index):
        return super().segment(tokens, state, Counts(memory.total + self.table[0].to(memory.total)), index)


class OfTheFirstLengthOnly(Good):
    def segment(self, tokens, state, memory, index):
        logits, state, update = super().segment(tokens, state, memory, index)
        return logits + logits.new_zeros(1, self.window, 1), state, update


class OfTwoLanesOnly(Good):
    def segment(self, tokens, state, memory, index):
        tokens = tokens.view(2, -1)
        return super().segment(tokens, state, memory, index)


class MemoryWithoutAnEnd(Good):
    def commit(self, memory, update):
        return Counts(torch.cat([memory.total, update.total], dim=1))


class ConstructorRaises(Good):
    def __init__(self, config, setting):
        raise RuntimeError("no such table")


BREACHES = {
    LogitsOfTheLastCharacter: "LogitsOfTheLastCharacter.segment gave logits of shape (3, 97); expected the shape (3, 8",
    NoHead: "no output layer named head",
    NoSegment: "NoSegment.segment is not defined",
    NoUpdate: "NoUpdate.segment gave a tuple of 2; expected a tuple of logits, state and update",
    PlainTensor: "PlainTensor.initial_memory gave a Tensor; expected a tuple of tensors with the lane first",
    LaneLast: "LaneLast.initial_memory gave a tensor of shape (126, 3) for 3 lanes; expected the lane first",
    MemoryUndeclared: "initial_memory gives tensors, but uses_memory is False",
    NewMemoryForUpdate: "NewMemoryForUpdate.segment must return what is added to the memory, not the new memory",
    UpdateOfAnotherShape: "gave an update of shapes (3, 126, 1); expected the memory's, (3, 126)",
    SinglePrecision: "gave torch.float32; expected the parameters' torch.float64",
    SinglePrecisionInside: "SinglePrecisionInside.segment (line",
    InPlace: "InPlace.segment changed its state or memory in place",
    OverTheBatch: "OverTheBatch.segment gave a lane other logits beside other lanes than alone",
    BatchNorm: "norm normalises over the lanes of a batch",
    NotFinite: "gave logits that are not finite before any training",
    Noise: "Noise.segment gave other logits for the same characters in evaluation mode",
    NoEmbedding: "NoEmbedding reads no nn.Embedding",
    HiddenWeights: "keeps weights outside of its parameters and buffers",
    OfTheFirstLengthOnly: "OfTheFirstLengthOnly.segment",
    OfTwoLanesOnly: "OfTwoLanesOnly.segment (line",
    MemoryWithoutAnEnd: "MemoryWithoutAnEnd.commit gave a memory of other shapes or types than initial_memory",
    ConstructorRaises: "ConstructorRaises.__init__ (line",
}


def cell(model, folder, *words):
    cfg = compose("model=lstm", "data=sample", "data.window=8", "memory=carry", *words)
    cfg.model._target_ = f"{__name__}.{model.__name__}"
    return Cell.of(cfg, folder)


@pytest.mark.parametrize("model", BREACHES, ids=lambda model: model.__name__)
def test_a_breach_of_the_contract_is_one_line_that_names_the_method(model, tmp_path):
    with pytest.raises(UsageError) as refusal:
        preflight.check(cell(model, tmp_path))
    (line,) = refusal.value.faults
    assert line.startswith("model=lstm: ")
    assert line.endswith("see the contract in docs/extending.md")
    assert BREACHES[model] in line


def test_a_model_that_keeps_the_contract_passes(tmp_path):
    preflight.check(cell(Good, tmp_path))


@pytest.mark.parametrize("objective", ["deep_supervision", "last_segment", "oacd"])
def test_an_objective_that_a_model_cannot_have_is_refused_before_training(objective, tmp_path):
    planned = Cell.of(compose("model=lstm", f"objective={objective}", "data=sample", "data.window=8"), tmp_path)
    if objective != "oacd":
        preflight.check(planned)
        return
    with pytest.raises(UsageError, match=r"objective=oacd: trains the states between segments, and LSTM has none"):
        preflight.check(planned)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_passes_in_every_memory_mode(name, tmp_path):
    for memory in ("none", "carry"):
        preflight.check(Cell.of(compose(*fitting(*SMALL, f"model={name}", f"memory={memory}")), tmp_path))


def test_the_preflight_moves_no_random_stream(tmp_path):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()

    before = states()
    preflight.check(cell(Good, tmp_path))
    assert states() == before


def test_a_sweep_tries_each_model_once_and_trains_nothing_if_one_is_refused(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(
        preflight, "check", lambda planned, check=preflight.check: (tried.append(planned), check(planned))
    )
    good = [cell(Good, tmp_path, f"seed={seed}") for seed in (1, 2)]
    sweep.check_models(good, tmp_path, remembers=True)
    assert len(tried) == 1
    sweep.check_models(good, tmp_path)  # as the same command, typed again
    assert len(tried) == 1
    with pytest.raises(UsageError, match="NoUpdate"):
        sweep.execute([*good, cell(NoUpdate, tmp_path)], tmp_path, pytest.fail, None)
    assert not [*tmp_path.glob("*/record.json")]
