"""The generated text is that of its n-gram model, and a batch has the asked number of its lanes."""

import copy
import math

import pytest
import torch
from conftest import FEW, QUICK, compose, fitting, quick, small, train, watched, windows_trained
from torch.nn import functional

from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora, distillation
from hrm_bench.data.distillation import ORDER, distributions, generated_text
from hrm_bench.data.kneser_ney import Counts
from hrm_bench.errors import UsageError
from hrm_bench.objectives import task_loss


@pytest.fixture(scope="module")
def corpus():
    return corpora.load(compose("data=sample", "data.train_chars=2000").data)


@pytest.fixture(scope="module")
def train_text(corpus):
    return bytes(corpus.train.indices.tolist())


@pytest.fixture
def short(monkeypatch):
    """Generate less text."""
    monkeypatch.setattr(distillation, "LENGTH", 3000)


def test_the_n_gram_model_is_the_baseline_of_its_order(corpus, train_text):
    seen = bytes(corpus.validation.indices.tolist())
    counts = Counts()
    for position in range(len(train_text)):
        counts.add(train_text, position)
    following = distributions(train_text)
    for position in (1, 2, 5, 6, 7, 100, 333):
        distribution = following(seen[:position])
        assert distribution.sum() == pytest.approx(1)
        assert distribution[seen[position]] == pytest.approx(counts.probabilities(seen, position)[-1])


def test_each_generated_character_comes_with_the_distribution_after_it(train_text, short):
    generated, following = generated_text(train_text, ratio=1.0), distributions(train_text)
    assert len(generated.text) == len(generated.rows) == 3000
    text = bytes(generated.text.tolist())
    for position in (ORDER, 100, 2999):
        expected = torch.from_numpy(following(text[: position + 1])).float()
        torch.testing.assert_close(generated.distributions[generated.rows[position]], expected)
    surprise = [
        float(generated.distributions[generated.rows[i - 1], generated.text[i].long()].log()) for i in range(1, 3000)
    ]
    entropy = functional.cross_entropy(
        generated.distributions.clamp_min(1e-30).log(), generated.distributions, reduction="none"
    )
    assert -sum(surprise) / 2999 == pytest.approx(float(entropy[generated.rows.long()].mean()), rel=0.05)
    torch.manual_seed(0)
    tokens, targets = generated.lanes(4, 16, torch.device("cpu"))
    assert tokens.shape == (4, 16)
    assert targets.shape == (4, 16, 97)
    assert bytes(tokens[0].tolist()) in text


def test_a_certain_distribution_is_a_character():
    logits, targets = torch.randn(2, 5, 97), torch.randint(97, (2, 5))
    certain = functional.one_hot(targets, 97).float()
    assert float(task_loss(logits, certain)) == pytest.approx(float(task_loss(logits, targets)))


@pytest.mark.parametrize("name", ["hrm", "lct_2layer", "lstm"])
def test_a_batch_has_the_asked_number_of_generated_lanes(name, short, tmp_path, monkeypatch):
    cfg = compose(*fitting(*QUICK, f"model={name}", *FEW, "recipe.distillation=0.5", "logger=none"))
    seen = windows_trained(monkeypatch)
    record, watch = watched(cfg, tmp_path, monkeypatch)
    assert record["status"] == "finished"
    for (tokens, targets), (read, wanted) in zip(seen, watch.read, strict=False):
        assert len(tokens) == len(read) + round(0.5 * len(read))
        assert torch.equal(tokens[: len(read)], read)
        assert torch.equal(targets[: len(read)].argmax(dim=-1), wanted)
        assert torch.equal(targets[: len(read)].amax(dim=-1), torch.ones(wanted.shape))
        assert targets.sum(dim=-1).numpy() == pytest.approx(1, abs=1e-5)
        assert float(targets[len(read) :].amax(dim=-1).mean()) < 0.9


def test_generated_lanes_start_from_an_empty_memory_and_are_not_carried(train_text, short):
    model = small("model=infini_hrm", "memory=carry", "recipe.learning_rate=0")
    model.transforms.append(generated_text(train_text, ratio=1.0))
    read, refine = [], model.refine

    def noting(tokens, memory):
        read.append(memory[0].matrix)
        return refine(tokens, memory)

    model.refine = noting
    text = torch.randint(97, (3, 17), generator=torch.Generator().manual_seed(0))
    train(model, [(text[:, :8], text[:, 1:9]), (text[:, 8:16], text[:, 9:])])
    first, second = read
    assert not first.any()
    assert second[:3].any(dim=(1, 2)).any()
    assert not second[3:].any()
    assert model.last_memory[0].matrix.shape[0] == 3


def test_copies_of_a_model_share_the_generated_text(train_text, short):
    generated = generated_text(train_text, ratio=1.0)
    assert copy.deepcopy([generated])[0] is generated
    assert generated_text(train_text, ratio=2.0).distributions is generated.distributions


def test_the_budget_counts_generated_characters_too(short, tmp_path):
    cfg = quick("recipe.budget=8000", "recipe.max_epochs=50", "recipe.patience=null", "recipe.distillation=1")
    assert len(run_cell(cfg, tmp_path)["history"]) == math.ceil(8000 / (2 * 1992))


def test_a_text_that_is_too_long_to_count_is_told(tmp_path, monkeypatch):
    from hrm_bench.training import build

    monkeypatch.setattr(build, "MOST_COUNTED", 100)
    with pytest.raises(UsageError, match=r"recipe\.distillation=1\.0: the training text has 2,000 characters"):
        build.load_windows(quick("recipe.distillation=1"))
