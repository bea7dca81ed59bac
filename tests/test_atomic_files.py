"""A file is replaced whole or not at all, and a cell that fails keeps what it can go on from."""

import errno
import json
import resource
from contextlib import contextmanager

import pytest
import torch
from conftest import SMALL, compose

from hrm_bench.cells.run import run_cell
from hrm_bench.models.hrm import HRM
from hrm_bench.records import store
from hrm_bench.training import snapshots

CELL = [
    *(*SMALL, "logger=none", "data.train_chars=420", "data.validation_chars=100", "data.test_chars=100"),
    *("recipe.max_epochs=3", "recipe.patience=null"),
]


@contextmanager
def files_no_longer_than(num_bytes):
    """While it lasts, writing more to any file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_half(path, error):
    with store.replacing(path) as file:
        file.write(b"half of the new")
        file.flush()
        raise error


@pytest.mark.parametrize("old", [{}, {"record.json": b"the old content"}], ids=["new", "old"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_write_that_fails_half_way_leaves_all_as_it_was(old, error, tmp_path):
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(type(error)):
        write_half(tmp_path / "record.json", error)
    assert contents(tmp_path) == old


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("old", [None, b"the old content"], ids=["new", "old"])
def test_a_reader_finds_the_old_file_until_the_new_one_is_whole(old, lasting, tmp_path):
    path = tmp_path / "record.json"
    if old:
        path.write_bytes(old)
    with store.replacing(path, lasting=lasting) as file:
        file.write(b"half of the new")
        file.flush()
        assert (path.read_bytes() if path.exists() else None) == old
        file.write(b" and the rest")
    assert contents(tmp_path) == {"record.json": b"half of the new and the rest"}


def test_a_file_that_is_open_keeps_its_content_when_it_is_replaced(tmp_path):
    path = tmp_path / "record.json"
    store.write_json(path, [1])
    with path.open("rb") as reader:
        store.write_json(path, [2])
        assert json.loads(reader.read()) == [1]
    assert json.loads(path.read_bytes()) == [2]


WRITERS = {
    "json": lambda path, number: store.write_json(path, [number] * 2000),
    "checkpoint": lambda path, number: snapshots.AtomicCheckpointIO().save_checkpoint(
        {"weights": torch.full((2000,), float(number))}, path
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file_and_no_other(write, tmp_path):
    write(tmp_path / "file", 1)
    before = contents(tmp_path)
    with files_no_longer_than(1000), pytest.raises((OSError, RuntimeError)):
        write(tmp_path / "file", 2)
    assert contents(tmp_path) == before
    write(tmp_path / "file", 2)
    assert contents(tmp_path).keys() == before.keys()
    assert contents(tmp_path) != before


class FailingHRM(HRM):
    """HRM that raises an error in a window, if it is given one."""

    error = None
    num_trained = 0  # windows

    def initial_state(self, *shape):
        if self.training and torch.is_grad_enabled():
            type(self).num_trained += 1
            if self.error is not None and self.num_trained == 8:  # of 12; an epoch has 4
                raise self.error
        return super().initial_state(*shape)


def run(root, monkeypatch, error=None):
    """Return the record of a cell and how many windows it has trained on, with the audit's."""
    monkeypatch.setattr(FailingHRM, "error", error)
    monkeypatch.setattr(FailingHRM, "num_trained", 0)
    record = run_cell(compose(*CELL, f"model._target_={__name__}.FailingHRM", "trainer.snapshot_seconds=0"), root)
    return record, FailingHRM.num_trained


def best_weights(root):
    (path,) = root.glob("*/best.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The record of a cell that does not fail, how many windows it trains on, and its best weights."""
    root = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        record, num_trained = run(root, monkeypatch)
    assert record["status"] == "finished"
    return record, num_trained, best_weights(root)


FIGURES = ("best_epoch", "validation", "test", "leak", "bits_by_position")
ERRORS = [OSError(errno.ENOSPC, "No space left on device"), MemoryError("too little"), RuntimeError("out of luck")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_cell_that_failed_goes_on_from_its_snapshot_to_the_bit(error, undisturbed, tmp_path, monkeypatch):
    expected, num_all, weights = undisturbed
    failed, num_before = run(tmp_path, monkeypatch, error)
    assert (failed["status"], num_before) == ("failed", 8)
    assert list(tmp_path.glob("*/last.ckpt"))
    record, num_after = run(tmp_path, monkeypatch)
    assert record["status"] == "finished"
    assert num_after == num_all - 7
    assert not list(tmp_path.glob("*/last.ckpt"))
    assert {key: record[key] for key in FIGURES} == {key: expected[key] for key in FIGURES}
    for one, other in zip(record["history"], expected["history"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    resumed = best_weights(tmp_path)
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
