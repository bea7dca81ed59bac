"""One cell from config to record: complete, repeatable to the bit, and honest where it fails."""

import collections
import csv
import importlib
import importlib.metadata
import json
import logging
import math
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import numpy
import pytest
import torch
from conftest import FEW, compose, figures, quick, weights
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.cells import run as cells_run
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.host import LEVELS
from hrm_bench.cells.run import _check_best, cell_folder, clear, fail, run_cell
from hrm_bench.config.compose import SWEEP_KEYS
from hrm_bench.data.corpora import Library
from hrm_bench.evidence import floors, measures
from hrm_bench.records import store
from hrm_bench.records.schema import Record, score


def of_the_cell(cfg):
    """A config less what a sweep does with its cells."""
    values = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in values.items() if key not in SWEEP_KEYS}


def test_a_record_is_complete_without_its_neighbours(finished):
    cfg, folder, record = finished
    assert store.read(folder) == json.loads(json.dumps(record))
    assert set(record) == set(Record.__annotations__) - {"answers", "reason", "log", "vocabulary"}
    assert (record["status"], record["model"], record["memory"], record["seed"]) == (
        "finished",
        "infini_hrm",
        "carry",
        42,
    )
    assert record["config"] == of_the_cell(cfg)
    assert record["causal"] is True
    assert record["leak"].keys() == {"before_training", "best"}
    assert all(0 <= value <= 1e-9 for leak in record["leak"].values() for value in leak.values())
    assert record["state_size"] == 2 * 8 * 8 + 2 * 8  # a matrix and a normaliser per head
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
    one, other = (weights(cell_folder(cfg, tmp_path / name)) for name in ("first", "second"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_is_another_cell(tmp_path):
    one, other = (run_cell(quick(f"seed={seed}"), tmp_path) for seed in (1, 2))
    assert one["identity"] != other["identity"]
    assert one["validation"]["nll"] != other["validation"]["nll"]


def test_a_finished_cell_is_not_run_again(finished, monkeypatch):
    cfg, folder, record = finished
    monkeypatch.setattr("hrm_bench.cells.run._train_and_measure", lambda *_, **__: pytest.fail("it ran again"))
    assert run_cell(cfg, folder.parent) == json.loads(json.dumps(record))


def test_the_remains_of_a_broken_run_are_cleared_and_the_cell_runs(finished, tmp_path):
    cfg, _, record = finished
    folder = cell_folder(cfg, tmp_path)
    folder.mkdir(parents=True)
    (folder / "best.ckpt").write_bytes(b"half a checkpoint")
    (folder / ".best.ckpt.4711").write_bytes(b"a part of one")
    store.write_json(
        folder / "record.json", {"schema_version": 1, "status": "interrupted", "identity": "", "reason": "", "log": ""}
    )
    assert figures(run_cell(cfg, tmp_path)) == figures(record)
    assert not (folder / ".best.ckpt.4711").exists()


def test_clearing_removes_what_the_bench_wrote_and_leaves_all_else(tmp_path):
    folder, elsewhere = tmp_path / "cell", tmp_path / "elsewhere"
    for path in (folder / "figures", elsewhere):
        path.mkdir(parents=True)
        (path / "kept.txt").write_text("mine")
    names = ("record.json", "config.yaml", "history.csv", "best.ckpt", "last.ckpt", "log.txt", "log-rank1.txt")
    for name in (*names, "notes.txt", "record.json.damaged-1", ".lock"):
        (folder / name).write_text("")
    (folder / "wandb").symlink_to(elsewhere, target_is_directory=True)
    clear(folder, "last.ckpt")
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"figures", "notes.txt", "record.json.damaged-1", ".lock", "last.ckpt"}
    assert (elsewhere / "kept.txt").read_text() == (folder / "figures" / "kept.txt").read_text() == "mine"


def test_a_cell_that_runs_again_keeps_the_users_own_files(tmp_path):
    cfg = quick("recipe.learning_rate=1e30", "recipe.gradient_clip=1e30", *FEW)
    folder = cell_folder(cfg, tmp_path)
    for _ in range(2):
        assert run_cell(cfg, tmp_path)["status"] == "failed"
        (folder / "notes.txt").write_text("mine")
    run_cell(cfg, tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_follows_from_a_config_is_computed_once_per_cell(tmp_path, monkeypatch):
    calls = collections.Counter()

    def count(target, name, key=lambda *_, **__: True):
        function = getattr(target, name)

        def counted(*arguments, **more):
            calls[name] += bool(key(*arguments, **more))
            return function(*arguments, **more)

        monkeypatch.setattr(target, name, counted)

    count(Path, "read_bytes", lambda path: path.parent.name == "sample")
    count(OmegaConf, "to_container", lambda cfg, **_: "recipe" in cfg)  # of whole configs
    for module, name in (
        ("cells.cell", "described"),
        ("cells.cell", "uses_memory"),
        ("cells.run", "build"),
        ("cells.preflight", "build"),
    ):
        count(importlib.import_module(f"hrm_bench.{module}"), name)
    library, configs = Library(), [quick(*FEW, f"seed={seed}") for seed in (1, 2, 3)]
    calls.clear()
    cells = [Cell.of(cfg, tmp_path, library=library) for cfg in configs]
    records = [run_cell(cell) for cell in cells]
    assert [record["status"] for record in records] == ["finished"] * 3
    assert calls["read_bytes"] == 6  # one per split for the cells' own text, and one for what follows it
    assert calls["described"] == calls["uses_memory"] == len(cells)
    assert calls["build"] == len(cells) + 1  # and the architecture, untrained, for its audit
    assert calls["to_container"] <= 3 * len(cells)  # for the identity, for the record, and inside of OmegaConf.save


def test_a_text_is_counted_once_for_all_cells_that_share_it(tmp_path, monkeypatch):
    counted = []
    of_corpus = floors.of_corpus
    monkeypatch.setattr(floors, "of_corpus", lambda *words, **more: (counted.append(1), of_corpus(*words, **more))[1])
    library = Library()
    for seed in (1, 2):
        run_cell(Cell.of(quick(*FEW, f"seed={seed}"), tmp_path, library=library))
    assert len(counted) == 1


def test_a_record_keeps_the_words_that_compose_its_config_again(tmp_path):
    words = ["experiment=hrm_vs_lct", "model=lstm", "logger=none", "data=sample", *FEW, "recipe.max_epochs=1"]
    cfg = compose(*words)
    record = run_cell(cfg, tmp_path, [*words, "force=false", "launcher=joblib", "+plan=false"])
    assert record["status"] == "finished"
    assert record["overrides"] == words
    assert of_the_cell(compose(*record["overrides"])) == record["config"]


def test_a_record_whose_best_epoch_is_not_its_historys_best_is_refused():
    history = [{"epoch": epoch, "validation_nll": nll} for epoch, nll in ((1, 2.0), (2, 1.5), (3, 1.6))]
    _check_best(2, history)
    with pytest.raises(RuntimeError, match="the best checkpoint is of epoch 3, but epoch 2 has a lower loss"):
        _check_best(3, history)
    history[2]["validation_nll"] = 1.5 + 1e-8  # equal in Lightning's single precision
    _check_best(3, history)


def test_a_cell_whose_process_died_has_a_record_that_says_so(tmp_path):
    record = fail(Cell.of(quick(), tmp_path), "its process died")
    assert (record["status"], record["reason"]) == ("failed", "its process died")
    assert store.read(cell_folder(quick(), tmp_path)) == store.upgrade(record)


def test_a_cell_that_raises_leaves_a_record_that_says_why(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("hrm_bench.objectives.DeepSupervision.steps", broken)
    cfg = quick()
    record = run_cell(cfg, tmp_path)
    assert (record["status"], record["reason"]) == ("failed", "RuntimeError: out of luck")
    folder = cell_folder(cfg, tmp_path)
    assert store.read(folder)["status"] == "failed"
    assert "Traceback" in (folder / "log.txt").read_text()


def test_a_cell_runs_from_a_checkout_that_is_not_installed(tmp_path, monkeypatch):
    def of_installed(name):
        if name == "hrm_bench":
            raise importlib.metadata.PackageNotFoundError(name)
        return importlib.metadata.version(name)

    monkeypatch.setattr(cells_run, "version", of_installed)
    record = run_cell(quick(*FEW), tmp_path)
    assert record["status"] == "finished", record["reason"]
    assert record["versions"]["hrm_bench"] == hrm_bench.__version__


def test_a_text_that_is_gone_when_training_ends_costs_nothing(tmp_path, monkeypatch):
    text = tmp_path / "mine.txt"
    text.write_text("some words of a text " * 400)
    fit = cells_run.fit

    def then_gone(*arguments, **more):
        fit(*arguments, **more)
        text.unlink()

    monkeypatch.setattr(cells_run, "fit", then_gone)
    record = run_cell(quick(*FEW, "data=text_file", f"data.path={text}"), tmp_path / "sweep")
    assert record["status"] == "finished", record["reason"]
    assert len(record["articles"]["test"]) == 8


def test_a_cell_that_diverges_fails(tmp_path):
    record = run_cell(quick("recipe.learning_rate=1e30", "recipe.gradient_clip=1e30"), tmp_path)
    assert record["status"] == "failed"
    assert "training has diverged" in record["reason"]


def test_early_stopping_counts_epochs_without_a_better_validation(tmp_path):
    record = run_cell(quick("recipe.learning_rate=0", "recipe.max_epochs=9", "recipe.patience=2"), tmp_path)
    assert len(record["history"]) == 3
    assert record["best_epoch"] == 1


def test_patience_begins_again_at_every_better_epoch(tmp_path):
    words = ["recipe.max_epochs=40", "recipe.patience=2", "data.train_chars=400"]
    worse_before = []
    for rate in ("0.004", "0.005", "0.006"):  # one course alone may have no worse epoch before its best
        record = run_cell(quick(*words, f"recipe.learning_rate={rate}"), tmp_path)
        losses = [row["validation_nll"] for row in record["history"]]
        since_best = [number - 1 - losses.index(min(losses[:number])) for number in range(1, len(losses) + 1)]
        assert len(losses) == record["best_epoch"] + 2
        assert since_best[-1] == 2
        worse_before.append(max(since_best[:-2]))
    assert max(worse_before) == 1  # an epoch was worse, and a later one better than all before


def test_a_model_that_reads_ahead_is_recorded_as_not_causal(tmp_path):
    settings = ["recipe.max_epochs=1"]
    assert run_cell(quick("model.causal=false", *settings), tmp_path)["causal"] is False
    assert run_cell(quick("model=infini_hrm", "memory.write=every_segment", *settings), tmp_path)["causal"] is False


def test_all_memory_modes_of_a_model_without_memory_share_a_folder(tmp_path):
    folders = {cell_folder(quick("model=hrm", f"memory={mode}"), tmp_path) for mode in ("none", "reset", "carry")}
    assert len(folders) == 1


def test_a_long_text_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("hrm_bench.evidence.floors.MOST_COUNTED", 2_999)
    record = run_cell(Cell.of(quick("recipe.max_epochs=1", "data.train_chars=2001"), tmp_path))
    assert set(record["floors"]["validation"]) == {"uniform", "unigram"}


def test_a_measure_that_fails_after_training_keeps_the_scores_and_trains_nothing_again(tmp_path, monkeypatch):
    cfg = quick(*FEW)
    undisturbed = run_cell(cfg, tmp_path / "undisturbed")
    with monkeypatch.context() as during:
        during.setitem(measures.MEASURES, "gradient_coverage", lambda _: {}["no such layer"])
        record = run_cell(cfg, tmp_path)
    assert record["status"] == "failed"
    assert "gradient_coverage: KeyError: 'no such layer'" in record["reason"]
    assert record["validation"] == undisturbed["validation"]
    assert store.read(cell_folder(cfg, tmp_path))["reason"] == record["reason"]
    monkeypatch.setattr("hrm_bench.charlm.CharLM.training_step", lambda *_: pytest.fail("it trains again"))
    again = run_cell(cfg, tmp_path)
    assert again["status"] == "finished"
    assert figures(again) == figures(undisturbed)


def test_a_cell_leaves_its_process_as_it_found_it(tmp_path):
    def state():
        return {
            "environment": dict(os.environ),
            "python": random.getstate(),
            "numpy": [str(part) for part in numpy.random.get_state()],
            "torch": torch.get_rng_state().tolist(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "precision": (torch.get_float32_matmul_precision(), torch.get_default_dtype()),
            "gradients": torch.is_grad_enabled(),
            "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
            "timer": signal.getitimer(signal.ITIMER_REAL)[1],
            "warnings": (list(warnings.filters), warnings.showwarning),
            "loggers": [(logging.getLogger(name).level, logging.getLogger(name).handlers) for name in LEVELS],
            "folder": (Path.cwd(), list(sys.path)),
            "hydra": GlobalHydra.instance().is_initialized(),
        }

    run_cell(quick(*FEW, "recipe.max_epochs=1"), tmp_path / "imports")  # importing a library may set up things once
    torch.set_num_threads(2)
    before = state()
    assert run_cell(quick(*FEW, "recipe.max_epochs=1", "seed=7"), tmp_path)["status"] == "finished"
    after = state()
    torch.set_num_threads(1)
    assert {key: value for key, value in after.items() if value != before[key]} == {}
