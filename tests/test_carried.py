"""What a lane carries may have any shape: the operations on it, and two models with memories of their own."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from conftest import quick, random_batch, train, trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from hrm_bench.charlm import CharLM, MemoryPolicy, Setting
from hrm_bench.data.text import PRINTABLE_ASCII
from hrm_bench.evidence import causality, probes
from hrm_bench.evidence.coverage import gradient_coverage
from hrm_bench.evidence.generation import generate
from hrm_bench.layers import carried
from hrm_bench.layers.dropout import Embedding, Head
from hrm_bench.objectives import DeepSupervision
from hrm_bench.optimizers import OptimizerSettings
from hrm_bench.training.build import load_windows


class Pair(NamedTuple):
    one: Tensor
    other: Tensor


def tree(num_lanes=3, start=0.0):
    """A memory of four tensors at three depths."""

    def counting(*shape):
        return start + torch.arange(num_lanes * torch.Size(shape).numel(), dtype=torch.float).view(num_lanes, *shape)

    return (Pair(counting(2), counting(2, 2)), (counting(), Pair(counting(1), counting(3))))


def assert_equal(one, other):
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert len(one) == len(other)
        for part, counterpart in zip(one, other, strict=True):
            assert_equal(part, counterpart)


def test_lanes_are_cut_and_joined_at_every_depth():
    memory = tree(3)
    parts = [carried.lanes(memory, 0, 1), carried.lanes(memory, 1, 3)]
    assert [carried.num_lanes(part) for part in parts] == [1, 2]
    assert_equal(carried.join(parts), memory)
    assert_equal(carried.select(memory, torch.tensor([2, 0, 2])), carried.join([
        carried.lanes(memory, 2, 3), carried.lanes(memory, 0, 1), carried.lanes(memory, 2, 3)
    ]))  # fmt: skip


def test_lanes_are_chosen_by_a_mask_and_one_lane_stands_for_all():
    old, new = tree(3), tree(1, start=100.0)
    mask = torch.tensor([True, False, True])
    lane = carried.lanes(old, 1, 2)
    assert_equal(carried.where(mask, new, old), carried.join([new, lane, new]))
    assert_equal(carried.expand(new, 2), carried.join([new, new]))


def test_a_memory_is_counted_added_and_rebuilt():
    memory = tree(2)
    assert carried.numel(memory) == 2 * (2 + 4 + 1 + 1 + 3)
    doubled = [2 * tensor for tensor in carried.tensors(memory)]
    assert_equal(carried.added(memory, memory), carried.rebuilt(tree(1), doubled))
    with pytest.raises(ValueError, match="more tensors than the memory has"):
        carried.rebuilt(memory, [*carried.tensors(memory), torch.zeros(2)])
    squares = sum(tensor.reshape(2, -1).square().sum(dim=1) for tensor in carried.tensors(memory))
    assert float(carried.norm(memory)) == pytest.approx(float(squares.sqrt().mean()))
    assert carried.num_lanes(()) is None
    assert carried.join([(), ()]) == ()


class HC(NamedTuple):
    """The memory of an LSTM."""

    h: Tensor  # (B, D)
    c: Tensor  # (B, D)


@dataclass(frozen=True, kw_only=True)
class Width:
    width: int


class CarryingLSTM(CharLM):
    """An LSTM whose (h, c) goes from window to window: a memory that is replaced, not added to."""

    uses_memory = True
    Config = Width

    def __init__(self, config, setting):
        super().__init__(setting, num_segments=1)
        self.width = config.width
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.recurrent = nn.LSTM(config.width, config.width, batch_first=True)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes):
        zeros = self.head.weight.new_zeros(num_lanes, self.width)
        return HC(zeros, zeros)

    def segment(self, tokens, state, memory, index):
        hidden, (h, c) = self.recurrent(self.embedding(tokens), (memory.h[None].contiguous(), memory.c[None]))
        return self.head(hidden), (), HC(h[0], c[0])

    def commit(self, memory, update):
        return update


class Written(NamedTuple):
    """What a window writes into fast weights."""

    keys: Tensor  # (B, T, D)
    values: Tensor  # (B, T, D)


class DeltaRule(CharLM):
    """Fast weights that every character corrects, W ← W + β(v − W·k)kᵀ: writing is not addition."""

    uses_memory = True
    Config = Width
    beta = 0.5

    def __init__(self, config, setting):
        super().__init__(setting, num_segments=2)
        self.width = config.width
        self.embedding = Embedding(setting.vocabulary_size, config.width)
        self.project = nn.Linear(config.width, 3 * config.width, bias=False)
        self.head = Head(config.width, setting.vocabulary_size)
        self.initialise(width=config.width)

    def initial_memory(self, num_lanes):
        return (self.head.weight.new_zeros(num_lanes, self.width, self.width),)

    def segment(self, tokens, state, memory, index):
        x = self.embedding(tokens)
        queries, keys, values = self.project(x).chunk(3, dim=-1)
        answers = queries @ memory[0].transpose(1, 2)
        return self.head(x + answers), (x + answers,), Written(functional.normalize(keys, dim=-1), values)

    def commit(self, memory, update):
        (weights,) = memory
        for key, value in zip(update.keys.unbind(dim=1), update.values.unbind(dim=1), strict=True):
            error = value - (weights @ key[..., None])[..., 0]
            weights = weights + self.beta * error[..., None] * key[:, None]
        return (weights,)


MODELS = [CarryingLSTM, DeltaRule]


def new(model_class, mode="carry", **policy):
    torch.manual_seed(0)
    setting = Setting(vocabulary_size=97, window=8, memory=MemoryPolicy(mode=mode, **policy), seed=3)
    model = model_class(Width(width=12), setting)
    settings = OptimizerSettings(learning_rate=0.01, weight_decay=0.01, gradient_clip=1.0, micro_batches=2)
    model.objective = DeepSupervision(DeepSupervision.Config(), settings)
    return model


def reference_lstm(model, text):
    """One lane's (T,) characters through the LSTM at once."""
    hidden, _ = model.recurrent(model.embedding(text[None]))
    return model.head(hidden)[0]


def reference_delta(model, text):
    """One lane's (T,) characters through the fast weights, which change between windows only."""
    weights, logits = torch.zeros(12, 12, dtype=torch.float64), []
    for window in text.split(8):
        written = []
        for x in model.embedding(window):
            query, key, value = model.project(x).chunk(3)
            logits.append(model.head.weight @ (x + weights @ query))
            written.append((key / key.norm(), value))
        for key, value in written:
            weights = weights + 0.5 * torch.outer(value - weights @ key, key)
    return torch.stack(logits)


@pytest.mark.parametrize(("model_class", "reference"), [(CarryingLSTM, reference_lstm), (DeltaRule, reference_delta)])
def test_a_memory_of_its_own_shape_is_carried_as_the_plain_loop_does(model_class, reference):
    model = new(model_class).double().eval()
    tokens, _ = random_batch(3, 24)
    logits, _ = model(tokens)
    for lane, expected in zip(tokens, logits, strict=True):
        torch.testing.assert_close(expected, reference(model, lane), atol=1e-9, rtol=0)
    first, memory = model(tokens[:, :8])
    second, _ = model(tokens[:, 8:], memory)
    torch.testing.assert_close(torch.cat((first, second), dim=1), logits, atol=1e-12, rtol=0)
    unread, _ = model(tokens[:, 8:])
    assert (second - unread).abs().max() > 1e-4


@pytest.mark.parametrize("model_class", MODELS)
def test_it_goes_from_batch_to_batch_of_training_and_is_empty_at_each_epoch(model_class):
    model, started = new(model_class), []
    refine = model.refine

    def noting(tokens, memory):
        started.append(memory)
        return refine(tokens, memory)

    model.refine = noting
    train(model, [random_batch(4, 8, seed) for seed in range(3)], epochs=2)
    empty = [not any(part.any() for part in carried.tensors(memory)) for memory in started]
    assert empty == [True, True, False, False, False, False] * 2  # two micro-batches per batch


@pytest.mark.parametrize("model_class", MODELS)
def test_a_snapshot_keeps_it_as_flat_tensors(model_class):
    model = train(new(model_class), [random_batch(4, 8)])
    checkpoint = {"optimizer_states": []}
    model.on_save_checkpoint(checkpoint)
    (_, values) = checkpoint["epoch_so_far"][0]
    assert all(type(value) is Tensor for value in values)
    again = new(model_class)
    again._trainer = model.trainer
    again.on_load_checkpoint(checkpoint)
    assert_equal(again.last_memory, model.last_memory)
    assert float(again.train_nll.compute()) == float(model.train_nll.compute())


@pytest.mark.parametrize("model_class", MODELS)
def test_the_audits_see_it(model_class):
    model = train(new(model_class), [random_batch(4, 16)])
    assert causality.is_causal(causality.leak(model, num_windows=3))
    with causality._AllPathsOpen() as paths:
        text = torch.arange(16)[None]
        _, memory = model.eval()(text[:, :8])
        logits, _ = model(text[:, 8:], memory)
    (gradient,) = torch.autograd.grad(logits[0, 4].sum(), paths.embedded[model.num_segments - 1])
    assert gradient.abs().sum() > 0
    coverage = gradient_coverage(model)
    assert coverage["embedding"] == coverage["head"] == ["task"]


def test_the_audit_catches_fast_weights_that_are_written_in_every_segment():
    assert not causality.is_causal(causality.leak(new(DeltaRule, write="every_segment"), num_windows=1))


@pytest.mark.parametrize("model_class", MODELS)
def test_it_is_probed_and_scored(model_class):
    model, data = new(model_class), load_windows(quick())
    train(model, [data.train[[0, 1, 2, 3]]])
    trainer().validate(model, DataLoader([data.validation[[0, 1, 2, 3]]], batch_size=None), verbose=False)
    assert model.memory_course() == {"memory_norm": pytest.approx(float(carried.norm(model.last_memory)))}
    assert probes.state_size(model) == {CarryingLSTM: 2 * 12, DeltaRule: 12 * 12}[model_class]
    text, other = (probes.read(model, batches)[1] for batches in (data.val_dataloader(), data.test_dataloader()))
    use = probes.memory_use(model, text, other)
    assert len({round(value, 6) for value in use.values()}) == 3
    assert len(probes.bits_by_position(text, 8)) == 8
    assert probes.flops_per_character(model) > 2 * model.head.weight.numel()


@pytest.mark.parametrize("model_class", MODELS)
def test_a_text_is_continued_with_it(model_class):
    model = new(model_class)
    prompts = ["The river", "A much longer prompt of several windows", "x"]
    texts = generate(model, prompts, length=20, temperature=0, seed=1)
    probe = model.double().eval()
    for prompt, text in zip(prompts, texts, strict=True):
        tokens = PRINTABLE_ASCII.encode(prompt)[0]
        for _ in range(20):
            logits, _ = probe(tokens[None])
            tokens = torch.cat((tokens, logits[0, -1].argmax()[None]))
        assert PRINTABLE_ASCII.decode(tokens) == prompt + text
