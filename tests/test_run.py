"""One cell from config to record: complete, repeatable to the bit, and honest where it fails."""

import csv
import json
import math

import pytest
import torch
from conftest import SMALL, compose
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.config.compose import SWEEP_KEYS
from hrm_bench.errors import UsageError
from hrm_bench.evidence.measures import score
from hrm_bench.records import store

QUICK = [*SMALL, "data.train_chars=2000", "data.validation_chars=500", "data.test_chars=500", "recipe.max_epochs=3"]
TIMINGS = {"seconds", "train_seconds", "characters_per_second", "peak_memory"}


def quick(*overrides, logger="none"):
    return compose(*QUICK, f"logger={logger}", *overrides)


def figures(record):
    """A record less what no two runs share."""
    kept = {key: value for key, value in record.items() if key not in TIMINGS}
    kept["history"] = [{key: value for key, value in row.items() if key != "seconds"} for row in record["history"]]
    return kept


def of_the_cell(cfg):
    """A config less what a sweep does with its cells."""
    values = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key not in SWEEP_KEYS}


def weights(folder):
    return torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished cell, its folder and its record."""
    root = tmp_path_factory.mktemp("multirun")
    cfg = quick("model=infini_hrm", "memory=carry")
    return cfg, cell_folder(cfg, root), run_cell(cfg, root)


def test_a_record_is_complete_without_its_neighbours(finished):
    cfg, folder, record = finished
    assert store.read(folder) == json.loads(json.dumps(record))
    assert set(record) == set(store.Record.__annotations__) - {"reason", "log", "notes"}
    assert (record["status"], record["model"], record["memory"], record["seed"]) == (
        "finished",
        "infini_hrm",
        "carry",
        42,
    )
    assert record["config"] == of_the_cell(cfg)
    assert record["causal"] is True
    assert record["leak"].keys() == {"before_training", "best"}
    assert all(0 <= each <= 1e-9 for leak in record["leak"].values() for each in leak.values())
    assert record["state_size"] == 2 * 8 * 8 + 2 * 8  # a matrix and a normaliser a head
    assert record["peak_memory"] > 50 * 2**20
    assert record["characters_per_second"] > 0
    assert record["unknown_characters"] == {"train": 0, "validation": 0, "test": 0}
    assert [row["epoch"] for row in record["history"]] == [1, 2, 3]


def test_a_cell_leaves_its_config_history_and_best_weights(finished):
    cfg, folder, record = finished
    assert OmegaConf.load(folder / "config.yaml") == OmegaConf.create(of_the_cell(cfg))
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["validation_perplexity"]) for row in rows] == [
        row["validation_perplexity"] for row in record["history"]
    ]
    model = hrm_bench.build(cfg)
    model.load_state_dict(weights(folder))
    assert not list(folder.glob("progress.json"))


def test_the_best_epoch_is_that_of_validation_and_is_reported(finished):
    _, _, record = finished
    best = min(record["history"], key=lambda row: row["validation_nll"])
    assert record["best_epoch"] == best["epoch"]
    assert record["validation"]["nll"] == pytest.approx(best["validation_nll"], abs=1e-9)


def test_scores_say_the_same_in_every_unit(finished):
    _, _, record = finished
    for split in ("validation", "test"):
        scored = record[split]
        assert scored["characters"] == 496  # 62 windows of 8
        total = scored["nll"] * scored["characters"]
        assert scored["perplexity"] == pytest.approx(math.exp(scored["nll"]))
        assert scored["bits_per_character"] == pytest.approx(scored["nll"] / math.log(2))
        assert scored["word_perplexity"] == pytest.approx(math.exp(total / scored["words"]))
    assert score(math.log(97), characters=10, words=2)["perplexity"] == pytest.approx(97)


@pytest.mark.parametrize(
    "settings",
    [
        ["model=hrm"],
        ["model=hrm_memory", "memory=carry", "data.windows_per_sample=4", "data.order=contiguous"],
        ["model=infini_hrm", "memory.write=every_segment"],
        ["model=lct_2layer"],
    ],
    ids=" ".join,
)
def test_the_same_cell_twice_is_the_same_to_the_bit(settings, tmp_path):
    cfg = quick(*settings)
    first, second = (run_cell(cfg, tmp_path / name) for name in ("first", "second"))
    assert figures(first) == figures(second)
    ours, theirs = (weights(cell_folder(cfg, tmp_path / name)) for name in ("first", "second"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_seed_is_another_cell(tmp_path):
    one, other = (run_cell(quick(f"seed={seed}"), tmp_path) for seed in (1, 2))
    assert one["identity"] != other["identity"]
    assert one["validation"]["nll"] != other["validation"]["nll"]


def test_a_finished_cell_is_not_run_again(finished, monkeypatch):
    cfg, folder, record = finished
    monkeypatch.setattr("hrm_bench.cells.run.train_and_score", lambda *_, **__: pytest.fail("it ran again"))
    assert run_cell(cfg, folder.parent) == json.loads(json.dumps(record))


def test_the_remains_of_a_broken_run_are_cleared_and_the_cell_runs(finished, tmp_path):
    cfg, _, record = finished
    folder = cell_folder(cfg, tmp_path)
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(b"half a checkpoint")
    (folder / "best-v1.ckpt").write_bytes(b"")
    store.write_json(
        folder / "record.json", {"schema_version": 1, "status": "interrupted", "identity": "", "reason": "", "log": ""}
    )
    assert figures(run_cell(cfg, tmp_path)) == figures(record)
    assert not (folder / "best-v1.ckpt").exists()


def test_a_cell_that_raises_leaves_a_record_that_says_why(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("hrm_bench.objectives.DeepSupervision.train_window", broken)
    cfg = quick()
    record = run_cell(cfg, tmp_path)
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: out of luck")
    folder = cell_folder(cfg, tmp_path)
    assert store.read(folder)["status"] == "failed"
    assert "Traceback" in (folder / "log.txt").read_text()


def test_a_cell_that_diverges_fails(tmp_path):
    record = run_cell(quick("recipe.learning_rate=1e30", "recipe.gradient_clip=1e30"), tmp_path)
    assert record["status"] == "failed"
    assert "training has diverged" in record["reason"]


def test_early_stopping_counts_epochs_without_a_better_validation(tmp_path):
    record = run_cell(quick("recipe.learning_rate=0", "recipe.max_epochs=9", "recipe.patience=2"), tmp_path)
    assert len(record["history"]) == 3
    assert record["best_epoch"] == 1


def test_a_model_that_reads_ahead_is_recorded_as_not_causal(tmp_path):
    settings = ["recipe.max_epochs=1"]
    assert run_cell(quick("model.causal=false", *settings), tmp_path)["causal"] is False
    assert run_cell(quick("model=infini_hrm", "memory.write=every_segment", *settings), tmp_path)["causal"] is False


def test_all_memory_modes_of_a_model_without_memory_share_a_folder(tmp_path):
    folders = {cell_folder(quick("model=hrm", f"memory={mode}"), tmp_path) for mode in ("none", "reset", "carry")}
    assert len(folders) == 1


def test_a_record_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "record.json").write_text('{"status": "fin')
    with pytest.raises(UsageError, match=r"record\.json: not a record .*; its sweep, run again, sets it aside"):
        store.read(tmp_path)


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "record.json"
    store.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        store.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_long_text_is_not_counted_in_passing(tmp_path, monkeypatch):
    monkeypatch.setattr("hrm_bench.cells.scoring.MOST_COUNTED", 2_999)
    record = run_cell(quick("recipe.max_epochs=1", "data.train_chars=2001"), tmp_path)
    assert set(record["floors"]["validation"]) == {"uniform", "unigram"}
