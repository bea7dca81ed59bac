"""The audit looks at every window, in both ways, before and after training: leaks planted in one place are seen."""

import itertools

import pytest
import torch
from conftest import SMALL, compose, small
from torch import nn

import hrm_bench
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.run import run_cell
from hrm_bench.data.corpora import Library
from hrm_bench.evidence.causality import is_causal, leak, windows_to_audit
from hrm_bench.models.hrm import HRM
from hrm_bench.models.infini_hrm import InfiniHRM

TOLERANCE = 1e-9
CELL = [
    *(*SMALL, "logger=none", "data.train_chars=400", "data.validation_chars=100", "data.test_chars=100"),
    *("recipe.max_epochs=3", "recipe.patience=null", "recipe.learning_rate=0.01"),
]
WITH_MEMORY = ["model=infini_hrm", "memory=carry"]


def later_embeddings(model, tokens):
    """Return the (B, T, 1) sums of the embeddings that follow each character in its window."""
    embedded = model.embedding(tokens).sum(dim=-1, keepdim=True)
    return embedded.sum(dim=1, keepdim=True) - embedded.cumsum(dim=1)


class LeakInLaterWindows(InfiniHRM):
    """A model that sees the future once its memory holds more than so many windows."""

    more_than = 0.5

    def segment(self, tokens, state, memory, *rest):
        logits, state, update = super().segment(tokens, state, memory, *rest)
        held, added = (each[0].normalizer.flatten(1).sum(dim=1) for each in (memory, update))
        return logits + later_embeddings(self, tokens) * (held > self.more_than * added)[:, None, None], state, update


class LeakInTheFourthWindow(LeakInLaterWindows):
    """The same from its fourth window on."""

    more_than = 2.5


class LeakThroughTheMemory(InfiniHRM):
    """A model whose normaliser is counted before it is read: invisible as long as the matrix is empty."""

    def segment(self, tokens, state, memory, *rest):
        _, _, update = super().segment(tokens, state, memory, *rest)
        counted = tuple(
            old._replace(normalizer=old.normalizer + new.normalizer) for old, new in zip(memory, update, strict=True)
        )
        logits, state, _ = super().segment(tokens, state, counted, *rest)
        return logits, state, update


class LeakByTraining(HRM):
    """A model that sees the future by a weight that is 0 until it is trained."""

    def __init__(self, config, setting):
        super().__init__(config, setting)
        self.opening = nn.Parameter(torch.zeros(self.head.out_features))

    def segment(self, tokens, state, memory, *rest):
        logits, state, update = super().segment(tokens, state, memory, *rest)
        return logits + later_embeddings(self, tokens) * self.opening, state, update


class LeakUntilTraining(HRM):
    """A model that sees the future until the bias of its logits is trained."""

    def __init__(self, config, setting):
        super().__init__(config, setting)
        self.bias = nn.Parameter(torch.ones(self.head.out_features))

    def segment(self, tokens, state, memory, *rest):
        logits, state, update = super().segment(tokens, state, memory, *rest)
        return logits + self.bias + later_embeddings(self, tokens) * (self.bias == 1).all(), state, update


class LeakOfCharacters(HRM):
    """A model that compares later characters, through which no gradient goes."""

    def segment(self, tokens, state, memory, *rest):
        logits, state, update = super().segment(tokens, state, memory, *rest)
        matches = (tokens > 48).to(logits.dtype)[..., None]
        return logits + matches.sum(dim=1, keepdim=True) - matches.cumsum(dim=1), state, update


class GradientAlone(torch.autograd.Function):
    """Zeros with the gradient of the identity."""

    @staticmethod
    def forward(ctx, hidden):
        return torch.zeros_like(hidden)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class LeakOfGradient(HRM):
    """A model whose logits have a gradient in later embeddings, and the same values without it."""

    def segment(self, tokens, state, memory, *rest):
        logits, state, update = super().segment(tokens, state, memory, *rest)
        return logits + GradientAlone.apply(later_embeddings(self, tokens)), state, update


def planted(leaky):
    return f"model._target_={__name__}.{leaky.__name__}"


def visible(found):
    """Return the ways in which an audit has seen a leak."""
    return {way for way, size in found.items() if size > TOLERANCE}


BOTH = {"perturbation", "gradient"}


@pytest.mark.parametrize(
    ("leaky", "first_window"), [(LeakInLaterWindows, 2), (LeakThroughTheMemory, 2), (LeakInTheFourthWindow, 4)]
)
def test_a_leak_in_later_windows_is_seen_if_these_are_audited(leaky, first_window):
    model = small(*WITH_MEMORY, planted(leaky))
    assert visible(leak(model, num_windows=first_window - 1)) == set()
    assert visible(leak(model, num_windows=first_window)) == BOTH


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        ([*WITH_MEMORY], set(), set()),
        ([*WITH_MEMORY, planted(LeakInLaterWindows)], BOTH, BOTH),
        ([*WITH_MEMORY, planted(LeakThroughTheMemory)], BOTH, BOTH),
        ([*WITH_MEMORY, planted(LeakInTheFourthWindow), "data.windows_per_sample=4"], BOTH, BOTH),
        (["model=hrm", planted(LeakByTraining)], set(), BOTH),
        (["model=hrm", planted(LeakUntilTraining)], BOTH, set()),
        (["model=hrm", planted(LeakOfCharacters)], {"perturbation"}, {"perturbation"}),
        (["model=hrm", planted(LeakOfGradient)], {"gradient"}, {"gradient"}),
    ],
    ids=lambda words: words[-1].rpartition(".")[2] if isinstance(words, list) else "",
)
def test_a_cell_is_causal_only_if_neither_audit_sees_a_leak_before_or_after_training(words, before, after, tmp_path):
    record = run_cell(compose(*CELL, *words), tmp_path)
    assert record["status"] == "finished", record["reason"]
    assert {moment: visible(found) for moment, found in record["leak"].items()} == {
        "before_training": before,
        "best": after,
    }
    assert record["causal"] is not bool(before | after)


def test_the_leaks_of_a_record_are_those_of_its_first_and_of_its_best_weights(tmp_path):
    cfg = compose(*CELL, "model=hrm", planted(LeakByTraining), "recipe.learning_rate=0.05", "recipe.max_epochs=8")
    record = run_cell(cfg, tmp_path)
    assert record["best_epoch"] < len(record["history"])
    model = hrm_bench.build(cfg)
    assert record["leak"]["before_training"] == leak(model, num_windows=1)
    (path,) = tmp_path.glob("*/best.ckpt")
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert record["leak"]["best"] == leak(model, num_windows=1)


def test_before_training_an_architecture_is_audited_once_for_all_its_seeds(tmp_path, monkeypatch):
    audited = []

    def counting(model, **settings):
        audited.append(model.seed)
        return leak(model, **settings)

    monkeypatch.setattr("hrm_bench.evidence.causality.leak", counting)
    words = [*CELL, "model=hrm", planted(LeakUntilTraining), "recipe.max_epochs=1"]
    library = Library()
    cells = [Cell.of(compose(*words, f"seed={seed}"), tmp_path, library=library) for seed in (7, 8)]
    records = [run_cell(cell) for cell in cells]
    assert audited == [0, 7, 8]  # one that is not trained, and each that is
    assert records[0]["leak"]["before_training"] == records[1]["leak"]["before_training"]
    assert not any(record["causal"] for record in records)


def test_as_many_windows_are_audited_as_a_sample_has_from_two_to_four():
    model = small(*WITH_MEMORY)
    assert [windows_to_audit(model, number) for number in (1, 2, 3, 4, 5, 64)] == [2, 2, 3, 4, 4, 4]
    assert {windows_to_audit(small(*words), 4) for words in (["model=hrm"], ["model=infini_hrm", "memory=none"])} == {1}


@pytest.mark.parametrize("sizes", [*itertools.product([0.0, 1e-10, 1e-8, float("nan")], repeat=2)], ids=str)
def test_one_leak_in_one_way_at_one_moment_is_enough(sizes):
    found = dict(zip(("perturbation", "gradient"), sizes, strict=True))
    clean = {"perturbation": 0.0, "gradient": 0.0}
    expected = all(size <= TOLERANCE for size in sizes)
    assert is_causal(found) == is_causal(found, clean) == is_causal(clean, found) == expected
