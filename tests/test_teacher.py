"""The teacher is the floor that it is said to be, and what it writes is what it expects."""

import math

import pytest
import torch
from conftest import compose, fitting
from test_recipes import FEW, watched
from test_run import QUICK, quick
from torch.nn import functional

from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora
from hrm_bench.data import distillation as teacher_
from hrm_bench.data.distillation import ORDER, distributions, teacher
from hrm_bench.errors import UsageError
from hrm_bench.floors import Counts
from hrm_bench.objectives import DeepSupervision, OriginAnchoredDispersion, task_loss


@pytest.fixture(scope="module")
def corpus():
    return corpora.load(compose("data=sample", "data.train_chars=2000").data)


@pytest.fixture
def short(monkeypatch):
    """A teacher that writes less."""
    monkeypatch.setattr(teacher_, "LENGTH", 3000)
    teacher.cache_clear()
    yield
    teacher.cache_clear()


def test_the_teacher_expects_what_its_floor_does(corpus):
    train, seen = (bytes(text.indices.tolist()) for text in (corpus.train, corpus.validation))
    counts = Counts()
    for position in range(len(train)):
        counts.add(train, position)
    expected = distributions(train)
    for position in (1, 2, 5, 6, 7, 100, 333):
        found = expected(seen[:position])
        assert found.sum() == pytest.approx(1)
        assert found[seen[position]] == pytest.approx(counts.probabilities(seen, position)[-1])


def test_each_character_of_its_text_comes_with_what_was_expected_after_it(corpus, short):
    found, expected = teacher(corpus), distributions(bytes(corpus.train.indices.tolist()))
    assert len(found.text) == len(found.rows) == 3000
    text = bytes(found.text.tolist())
    for place in (ORDER, 100, 2999):
        there = found.distributions[found.rows[place]]
        torch.testing.assert_close(there, torch.from_numpy(expected(text[: place + 1])).float())
    surprise = [float(found.distributions[found.rows[i - 1], text[i]].log()) for i in range(1, 3000)]
    entropy = functional.cross_entropy(
        found.distributions.clamp_min(1e-30).log(), found.distributions, reduction="none"
    )
    assert -sum(surprise) / 2999 == pytest.approx(float(entropy[found.rows.long()].mean()), rel=0.05)
    torch.manual_seed(0)
    tokens, targets = found.lanes(4, 16, torch.device("cpu"))
    assert tokens.shape == (4, 16)
    assert targets.shape == (4, 16, 97)
    assert bytes(tokens[0].tolist()) in text


def test_a_distribution_that_is_certain_is_a_character():
    logits, targets = torch.randn(2, 5, 97), torch.randint(97, (2, 5))
    certain = functional.one_hot(targets, 97).float()
    assert float(task_loss(logits, certain)) == pytest.approx(float(task_loss(logits, targets)))


@pytest.mark.parametrize("name", ["hrm", "lct_2layer", "lstm"])
def test_a_batch_has_the_asked_share_of_lanes_of_the_teachers_text(name, short, tmp_path, monkeypatch):
    cfg = compose(*fitting(*QUICK, f"model={name}", *FEW, "recipe.distillation=0.5", "logger=none"))
    seen = []
    objective = OriginAnchoredDispersion if name == "lct_2layer" else DeepSupervision
    train_window = objective.train_window

    def noting(self, model, tokens, targets, memory, *, share):
        seen.append((tokens, targets))
        return train_window(self, model, tokens, targets, memory, share=share)

    monkeypatch.setattr(objective, "train_window", noting)
    record, watch = watched(cfg, tmp_path, monkeypatch)
    assert record["status"] == "finished"
    for (tokens, targets), (read, wanted) in zip(seen, watch.read, strict=False):
        assert len(tokens) == len(read) + round(0.5 * len(read))
        assert torch.equal(tokens[: len(read)], read)
        assert torch.equal(targets[: len(read)].argmax(dim=-1), wanted)
        assert torch.equal(targets[: len(read)].amax(dim=-1), torch.ones(wanted.shape))
        assert targets.sum(dim=-1).numpy() == pytest.approx(1, abs=1e-5)
        assert float(targets[len(read) :].amax(dim=-1).mean()) < 0.9


def test_the_teachers_lanes_leave_a_carried_memory_alone(short, tmp_path, monkeypatch):
    words = ("model=infini_hrm", "memory=carry", "data.order=contiguous", "recipe.distillation=1")
    seen = []
    train_window = DeepSupervision.train_window

    def noting(self, model, tokens, targets, memory, *, share):
        found = train_window(self, model, tokens, targets, memory, share=share)
        seen.append((memory[0].matrix, found[1][0].matrix))
        return found

    monkeypatch.setattr(DeepSupervision, "train_window", noting)
    _, watch = watched(quick(*FEW, *words), tmp_path, monkeypatch)
    (_, written), (incoming, _) = seen[0], seen[1]
    lanes = len(watch.read[1][0])
    assert torch.equal(incoming[:lanes], written[:lanes])
    assert not incoming[lanes:].any()
    assert incoming[:lanes].any()


def test_the_budget_counts_the_teachers_characters_too(short, tmp_path):
    cfg = quick("recipe.budget=8000", "recipe.max_epochs=50", "recipe.patience=null", "recipe.distillation=1")
    assert len(run_cell(cfg, tmp_path)["history"]) == math.ceil(8000 / (2 * 1992))


def test_a_text_that_is_too_long_to_count_is_told(tmp_path, monkeypatch):
    from hrm_bench.training import build

    monkeypatch.setattr(build, "MOST_COUNTED", 100)
    with pytest.raises(UsageError, match=r"recipe\.distillation=1\.0: the training text has 2,000 characters"):
        build.load_windows(quick("recipe.distillation=1"))
