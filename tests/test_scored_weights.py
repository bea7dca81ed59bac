"""Every figure of a record belongs to the best epoch's weights, which read each text without any random draw."""

from typing import NamedTuple

import pytest
import torch
from conftest import SMALL, compose
from torch.nn import functional

import hrm_bench
from hrm_bench.cells.run import run_cell
from hrm_bench.data import corpora

# Few characters and a high learning rate: the cell overfits, so the last epoch is far from the best.
OVERFITTING = [
    *(*SMALL, "logger=none", "data.train_chars=400", "data.validation_chars=300", "data.test_chars=200"),
    *("recipe.patience=null", "recipe.budget=null", "recipe.max_epochs=12", "recipe.learning_rate=0.02"),
]
DROPOUTS = ("character", "embedding", "attention", "feed_forward", "head")
NOISY = [
    *(f"recipe.{name}_dropout=0.4" for name in DROPOUTS),
    *("recipe.offsets=random", "recipe.averaging=0.5", "recipe.distillation=1", "recipe.weight_decay=0"),
]
CELLS = {
    "published": ["model=hrm"],
    "with memory": ["model=infini_hrm", "memory=carry"],
    "with dropout": ["model=hrm", *NOISY],
    "with memory and dropout": ["model=infini_hrm", "memory=carry", *NOISY],
    "with random states": ["model=lct_2layer", "model.state_std=0.5", "model.objective.body_learning_rate=0.05"],
}


class Cell(NamedTuple):
    record: dict
    model: torch.nn.Module  # built without dropout, with the best weights
    carries: bool


@pytest.fixture(scope="module", params=CELLS.values(), ids=CELLS)
def cell(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("cell")
    record = run_cell(compose(*OVERFITTING, *request.param), root)
    assert record["status"] == "finished", record["reason"]
    (path,) = root.glob("*/best.ckpt")
    model = hrm_bench.build(compose(*OVERFITTING, *request.param, *(f"recipe.{name}_dropout=0" for name in DROPOUTS)))
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return Cell(record, model.eval(), "memory=carry" in request.param)


@torch.no_grad()
def losses(cell, split):
    """Return the (W, window) losses in nats per character of a text that is read window by window."""
    text = getattr(corpora.load(compose(*OVERFITTING).data), split).indices.long()
    window, memory, rows = cell.model.window, None, []
    for start in range(0, len(text) - window, window):
        logits, after = cell.model(text[None, start : start + window], memory)
        rows.append(functional.cross_entropy(logits[0], text[start + 1 : start + window + 1], reduction="none"))
        memory = after if cell.carries else None
    return torch.stack(rows).double()


def test_the_best_epoch_is_not_the_last_and_its_loss_is_the_one_reported(cell):
    history, best = cell.record["history"], cell.record["best_epoch"]
    assert best < len(history) == 12
    assert history[best - 1]["validation_nll"] == min(row["validation_nll"] for row in history)
    assert cell.record["validation"]["nll"] == history[best - 1]["validation_nll"]
    assert cell.record["validation"]["nll"] < history[-1]["validation_nll"] - 0.01


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_score_is_that_of_the_best_weights_without_dropout(cell, split):
    assert cell.record[split]["nll"] == pytest.approx(float(losses(cell, split).mean()), rel=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_bits_by_position_are_those_of_the_best_weights_without_dropout(cell, split):
    bits = losses(cell, split).mean(dim=0) / torch.tensor(2.0).log()
    assert cell.record["bits_by_position"][split] == pytest.approx(bits.tolist(), rel=1e-6)
    assert bits.mean() == pytest.approx(cell.record[split]["bits_per_character"], rel=1e-6)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_memory_use_is_that_of_the_best_weights_without_dropout(cell, split):
    use = cell.record["memory_use"]
    assert bool(use) == cell.carries
    if use:
        assert use[split]["own"] == pytest.approx(float(losses(cell, split).mean().exp()), rel=1e-6)
        assert use[split]["zeroed"] != pytest.approx(use[split]["own"], rel=1e-6)
