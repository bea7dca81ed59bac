"""A batch that several processes share, or that is taken in parts, makes the steps of one process in one piece."""

import re

import pytest
import torch
from commands import hrm_bench
from conftest import figures, quick, weights

from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.errors import UsageError
from hrm_bench.training.build import load_windows

# 20 steps: 5 batches of two windows per sample, each in two segments; the last batch has 15 samples, an odd number.
TWENTY_STEPS = [
    *("data.train_chars=1270", "data.windows_per_sample=2", "data.order=contiguous", "recipe.max_epochs=1"),
    *("model=infini_hrm", "memory=carry"),
]


def distance(one, other):
    """The largest difference of two cells' weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    cfg = quick(*TWENTY_STEPS)
    return run_cell(cfg, root), weights(cell_folder(cfg, root))


def test_two_processes_take_the_steps_of_one(alone, tmp_path):
    cfg = quick(*TWENTY_STEPS, "trainer=ddp")
    record = run_cell(cfg, tmp_path)
    assert record["status"] == "finished", record
    assert distance(weights(cell_folder(cfg, tmp_path)), alone[1]) < 1e-5
    for row, other in zip(record["history"], alone[0]["history"], strict=True):
        assert row["train_nll"] == pytest.approx(other["train_nll"], abs=1e-6)
        assert row["memory_norm"] == pytest.approx(other["memory_norm"], rel=1e-5)
    assert "Traceback" not in (cell_folder(cfg, tmp_path) / "log-rank1.txt").read_text()


def test_micro_batches_take_the_steps_of_whole_ones(alone, tmp_path):
    cfg = quick(*TWENTY_STEPS, "trainer.micro_batches=3")
    run_cell(cfg, tmp_path)
    assert distance(weights(cell_folder(cfg, tmp_path)), alone[1]) < 1e-5


@pytest.mark.slow
def test_a_cell_of_two_processes_with_w_and_b_leaves_one_line_on_the_terminal(tmp_path):
    done = hrm_bench("trainer=ddp", "logger=wandb", *TWENTY_STEPS, "data=sample", cwd=tmp_path, forked=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"cell 1 of 1: [^\n]*\n", done.stderr)


def test_less_precision_is_another_cell_that_trains(alone, tmp_path):
    cfg = quick(*TWENTY_STEPS, "trainer.precision=bf16-mixed")
    record = run_cell(cfg, tmp_path)
    assert record["status"] == "finished"
    assert record["causal"]
    assert record["identity"] != alone[0]["identity"]
    difference = record["validation"]["nll"] - alone[0]["validation"]["nll"]
    assert 0 < abs(difference) < 0.05
    assert figures(record)["parameters"] == alone[0]["parameters"]


def test_a_loss_of_whole_batches_cannot_be_shared_out():
    for word in ("trainer.devices=2", "trainer.micro_batches=2"):
        with pytest.raises(UsageError, match=r"OriginAnchoredDispersion needs whole batches; only 1 is allowed"):
            quick("model=lct_1layer", word)
    assert torch.is_tensor(load_windows(quick("model=lct_1layer")).train.indices)


def test_a_batch_that_is_smaller_than_its_processes_is_refused():
    with pytest.raises(UsageError, match=r"trainer\.devices=2: .* has a batch of 1, fewer than one each; try recipe"):
        load_windows(quick("trainer=ddp", "data.train_chars=137"))  # 17 windows
