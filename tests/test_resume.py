"""A cell that was stopped goes on to the bit: in an epoch, between two, with memory, random states and dropout."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from conftest import FEW, figures, quick, stopped_after, weights
from torch import nn

from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.models.hrm import HRM
from hrm_bench.training import snapshots


def stopped_and_resumed(cfg, root, looks, monkeypatch):
    """The record of a cell that is stopped when it has looked so many times whether it is to stop, and run again."""
    with monkeypatch.context() as during:
        stopped_after(looks, during)
        first = run_cell(cfg, root)
    assert (first["status"], first["reason"]) == ("interrupted", "a test")
    assert (cell_folder(cfg, root) / snapshots.SNAPSHOT_FILE).exists()
    record = run_cell(cfg, root)
    assert not (cell_folder(cfg, root) / snapshots.SNAPSHOT_FILE).exists()
    return record


def same(cfg, root, other):
    """Whether two folders' best weights are the same to the bit."""
    first, second = (weights(cell_folder(cfg, folder)) for folder in (root, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The record and the folder of a cell that nothing stopped, made once for each config."""
    finished = {}

    def run(*words):
        if words not in finished:
            root = tmp_path_factory.mktemp("undisturbed")
            finished[words] = quick(*FEW, *words), root, run_cell(quick(*FEW, *words), root)
        return finished[words]

    return run


class DropoutHRM(HRM):
    """HRM that draws at random at every step."""

    def segment(self, tokens, state, memory, index):
        logits, state, memory = super().segment(tokens, state, memory, index)
        return nn.functional.dropout(logits, 0.1, self.training), state, memory


# There is a look after each of an epoch's batches but the last, and after its validation: 3 and 1.
CARRY = ("model=infini_hrm", "memory=carry", "data.order=contiguous", "data.windows_per_sample=2")
STOPPED = [
    *[(looks, ("model=hrm",)) for looks in (0, 2, 3, 5, 11)],
    (5, ("model=lct_2layer",)),
    (4, CARRY),
    (5, ("model._target_=test_resume.DropoutHRM",)),
    (5, ("model=hrm_memory", "trainer.micro_batches=3")),
    *[(looks, ("recipe=tuned", "recipe.max_epochs=3")) for looks in (2, 3, 5)],
    (4, ("recipe=tuned", "recipe.max_epochs=3", *CARRY)),
]


@pytest.mark.parametrize(("looks", "words"), STOPPED, ids=str)
def test_a_cell_that_was_stopped_ends_as_if_it_had_not_been(looks, words, undisturbed, tmp_path, monkeypatch):
    cfg, root, record = undisturbed(*words)
    again = stopped_and_resumed(cfg, tmp_path, looks, monkeypatch)
    assert figures(again) == figures(record)
    assert same(cfg, root, tmp_path)


@pytest.mark.parametrize("looks", [6, 11], ids=["while it counts", "when it has run out"])
def test_patience_goes_on_counting(looks, undisturbed, tmp_path, monkeypatch):
    words = ("recipe.learning_rate=0", "recipe.max_epochs=9", "recipe.patience=2")
    cfg, _, record = undisturbed(*words)
    assert len(record["history"]) == 3
    assert figures(stopped_and_resumed(cfg, tmp_path, looks, monkeypatch)) == figures(record)


def test_a_cell_can_be_stopped_again_and_again(undisturbed, tmp_path, monkeypatch):
    cfg, root, record = undisturbed("model=hrm")
    with monkeypatch.context() as during:
        for _ in range(6):
            stopped_after(1, during)
            assert run_cell(cfg, tmp_path)["status"] == "interrupted"
    assert figures(run_cell(cfg, tmp_path)) == figures(record)
    assert same(cfg, root, tmp_path)


def test_snapshots_are_taken_as_often_as_the_config_says(tmp_path, monkeypatch):
    taken = []
    write = snapshots.AtomicCheckpointIO.save_checkpoint
    monkeypatch.setattr(
        snapshots.AtomicCheckpointIO,
        "save_checkpoint",
        lambda self, checkpoint, path, *_, **__: (taken.append(Path(path).name), write(self, checkpoint, path)),
    )
    run_cell(quick(*FEW, "trainer.snapshot_seconds=0"), tmp_path / "often")
    assert taken.count("last.ckpt") == 12
    taken.clear()
    run_cell(quick(*FEW), tmp_path / "seldom")
    assert taken.count("last.ckpt") == 1  # when training ends


def test_a_snapshot_of_other_code_is_not_resumed_from(undisturbed, tmp_path, monkeypatch):
    cfg, _, record = undisturbed("model=hrm")
    with monkeypatch.context() as during:
        stopped_after(5, during)
        during.setattr("hrm_bench.cells.run.code_version", lambda _: "of-before")
        run_cell(cfg, tmp_path)
    again = run_cell(cfg, tmp_path)
    assert again["notes"] == ["last.ckpt is of another version of the code: the cell began again"]
    assert figures(again) == figures(record) | {"notes": again["notes"]}


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_damaged_checkpoint_is_set_aside_and_the_cell_begins_again(name, undisturbed, tmp_path, monkeypatch):
    cfg, root, record = undisturbed("model=hrm")
    with monkeypatch.context() as during:
        stopped_after(5, during)
        run_cell(cfg, tmp_path)
    path = cell_folder(cfg, tmp_path) / name
    path.write_bytes(path.read_bytes()[:1000])
    again = run_cell(cfg, tmp_path)
    assert again["status"] == "finished"
    assert re.fullmatch(rf"{name} was damaged \(\w+\) and is kept as {name}\.damaged-1: .*", again["notes"][0])
    assert path.with_name(f"{name}.damaged-1").stat().st_size == 1000
    assert figures(again) == figures(record) | {"notes": again["notes"]}
    assert same(cfg, root, tmp_path)


def test_a_cell_in_a_folder_that_was_moved_keeps_its_best_epoch(undisturbed, tmp_path, monkeypatch):
    words = ("recipe.learning_rate=0", "recipe.patience=null")  # the first epoch is as good as any, and so the best
    cfg, _, record = undisturbed(*words)
    assert record["best_epoch"] == 1
    with monkeypatch.context() as during:
        stopped_after(9, during)
        assert run_cell(cfg, tmp_path / "before")["status"] == "interrupted"
    (tmp_path / "before").rename(tmp_path / "after")
    again = run_cell(cfg, tmp_path / "after")
    assert (again["status"], again["best_epoch"]) == ("finished", 1)
    assert figures(again) == figures(record)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("pickle-ran"),)


def test_a_checkpoint_that_would_run_code_does_not(undisturbed, tmp_path, monkeypatch):
    cfg, root, _ = undisturbed("model=hrm")
    monkeypatch.chdir(tmp_path)
    folder = cell_folder(cfg, tmp_path)
    folder.mkdir()
    torch.save({"callbacks": Malicious(), "state_dict": Malicious()}, folder / "last.ckpt")
    pickle.loads(pickle.dumps(Malicious()))  # it would, if it were let
    Path("pickle-ran").unlink()
    again = run_cell(cfg, tmp_path)
    assert not Path("pickle-ran").exists()
    assert "last.ckpt was damaged (UnpicklingError)" in again["notes"][0]
    assert same(cfg, root, tmp_path)
