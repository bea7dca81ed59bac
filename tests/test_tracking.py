"""The mirror in W&B: complete, grouped, finished as the cell was, and never in the way."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, ROOT, quick
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.cells import trackers
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.errors import UsageError
from hrm_bench.report import write


def logged(folder):
    """Every entry of the one W&B run in a cell's folder."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    program = str(Path(sys.executable).with_name("wandb"))
    out = subprocess.run([program, "leet", "inspect", "--json", path], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def entries(kind, content):
    return [entry[kind] for entry in content if entry["type"] == kind]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("multirun")
    cells = [quick("model=infini_hrm", f"memory={mode}", logger="wandb") for mode in ("reset", "carry")]
    return [(cell_folder(cfg, root), run_cell(cfg, root)) for cfg in cells]


def test_each_cell_is_a_run_of_its_own_in_the_experiments_group(sweep):
    runs = [entries("run", logged(folder))[0] for folder, _ in sweep]
    assert [run["display_name"] for run in runs] == [folder.name for folder, _ in sweep]
    assert {run["run_group"] for run in runs} == {"custom"}
    assert {run["project"] for run in runs} == {"hrm_bench"}
    assert [sorted(run["tags"]) for run in runs] == [
        ["data:sample", f"memory:{mode}", "model:infini_hrm"] for mode in ("reset", "carry")
    ]
    assert runs[0]["config"]["update"]["recipe"]["max_epochs"] == 3


def test_the_history_and_the_summary_are_those_of_the_record(sweep):
    folder, record = sweep[0]
    content = logged(folder)
    rows = list(entries("history", content))
    assert len(rows) == len(record["history"])
    text = json.dumps(content)
    for row in record["history"]:
        assert str(row["validation_perplexity"]) in text
    assert str(record["test"]["perplexity"]) in text
    assert {f'"epoch/{key}"' in text for key in ("validation_perplexity", "train_nll", "seconds")} == {True}
    assert '"validation_perplexity"' not in text  # of the last epoch, which one would take for the best one's
    assert str(record["floors"]["test"]["unigram"]["full"]) in text
    assert "test/baselines/unigram/full" in text
    assert all(f"{split}/unknown" in text for split in ("train", "validation", "test"))
    assert record["identity"] in text
    assert entries("exit", content)[-1].get("exit_code", 0) == 0


def test_each_cell_has_an_id_and_tags_of_its_own_whatever_the_environment_and_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    ids = set()
    for seed in (1, 2):
        cfg = quick("recipe.max_epochs=1", f"model.name={'m' * 70}", f"seed={seed}", logger="wandb")
        assert run_cell(cfg, tmp_path)["wandb"] == "offline"
        (run,) = entries("run", logged(cell_folder(cfg, tmp_path)))
        ids.add(run["run_id"])
        assert f"model:{'m' * 58}" in run["tags"]
    assert len(ids - {"abc123"}) == 2


def test_entity_project_name_and_tags_of_a_run_are_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    words = ["recipe.max_epochs=1", "logger.name=first", "logger.tags=[mine,2]"]
    cfg = hrm_bench.compose(*QUICK, "logger=wandb", *words)
    run_cell(cfg, tmp_path)
    (run,) = entries("run", logged(cell_folder(cfg, tmp_path)))
    assert (run["entity"], run["project"], run["display_name"]) == ("team", "theirs", "first")
    assert {"mine", "2", "model:hrm"} <= set(run["tags"])
    with pytest.raises(UsageError, match=r"logger\.tags=mine: must be a list of words; for example logger\.tags="):
        quick("logger.tags=mine")


def upload(records, folder, mode, kept=None):
    """Upload the report of these records, which the folder has, as a run that is kept in the same folder or another."""
    logger = OmegaConf.create({"project": "hrm_bench", "mode": mode})
    items = write.tracker_items(records, folder)
    trackers.upload_report(records[0]["config"]["experiment"], kept or folder, logger, **items)


def test_the_report_is_a_run_of_the_group_with_tables_images_and_the_page(sweep, tmp_path):
    records = [record for _, record in sweep]
    write.write_all(records, tmp_path)
    upload(records, tmp_path, "offline")
    content = logged(tmp_path)
    (run,) = entries("run", content)
    assert (run["run_group"], run["job_type"], run["display_name"]) == ("custom", "report", "report of custom")
    text = json.dumps(list(entries("history", content)))
    assert all(kind in text for kind in ("table-file", "image-file", "html-file"))
    (media,) = tmp_path.glob("wandb/offline-run-*/files/media")
    assert {path.suffix for path in media.rglob("*.*")} == {".json", ".png", ".html"}
    (table,) = media.rglob("results*.json")
    assert f"{records[0]['validation']['perplexity']:.2f}" in table.read_text()


def test_a_model_without_memory_is_mirrored_as_one(tmp_path):
    cfg = quick("model=hrm", "memory=carry", "recipe.max_epochs=1", logger="wandb")
    run_cell(cfg, tmp_path)
    (run,) = entries("run", logged(cell_folder(cfg, tmp_path)))
    assert run["config"]["update"]["memory"]["mode"] == "none"


def test_a_report_that_w_and_b_cannot_keep_is_logged_in_one_line(sweep, tmp_path, caplog):
    upload([record for _, record in sweep], tmp_path, "offline", kept=tmp_path / "nowhere" / "\0")
    assert "the report is in" in caplog.text


def test_the_report_goes_where_its_own_command_says(sweep, tmp_path):
    records = [record for _, record in sweep]
    assert records[0]["config"]["logger"]["mode"] == "offline"
    write.write_all(records, tmp_path)
    upload(records, tmp_path, "disabled")
    assert not list(tmp_path.glob("wandb/offline-run-*"))


def test_a_failed_cell_ends_its_run_as_failed(tmp_path):
    cfg = quick("recipe.learning_rate=1e30", "recipe.gradient_clip=1e30", logger="wandb")
    assert run_cell(cfg, tmp_path)["status"] == "failed"
    content = logged(cell_folder(cfg, tmp_path))
    assert entries("exit", content)[-1]["exit_code"] == 1
    assert "training has diverged" in json.dumps(content)


def test_without_a_login_online_is_kept_offline_and_logged(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    cfg = quick(logger="wandb")
    assert cfg.logger.mode == "online"
    record = run_cell(cfg, tmp_path)
    folder = cell_folder(cfg, tmp_path)
    assert (record["status"], record["wandb"]) == ("finished", "offline")
    assert "is kept offline" in (folder / "log.txt").read_text()
    assert entries("exit", logged(folder))


def test_what_wandb_did_not_take_as_asked_is_counted_in_one_line(tmp_path):
    record = run_cell(quick(), tmp_path)

    def cell(asked, got):
        logger = {**record["config"]["logger"], "mode": asked}
        return {**record, "wandb": got, "config": {**record["config"], "logger": logger}}

    taken = [cell("online", "online"), cell("offline", "offline"), cell("disabled", "disabled")]
    assert trackers.shortfall(taken) is None
    short = [cell("online", "offline"), cell("online", "disabled"), cell("offline", "disabled")]
    assert trackers.shortfall([*taken, *short]) == (
        "W&B did not take 3 of 6 runs as asked: 1 kept offline, for `wandb sync`; "
        "2 not kept, see log.txt in the cells' folders"
    )


def test_disabled_means_that_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = quick(logger="wandb")
    run_cell(cfg, tmp_path)
    assert not (cell_folder(cfg, tmp_path) / "wandb").exists()


def test_a_server_that_never_answers_costs_a_cell_half_a_minute_at_most(tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        took = {}
        for logger in ("none", "wandb"):
            began = time.monotonic()
            record = run_cell(quick("recipe.max_epochs=1", logger=logger), tmp_path / logger)
            took[logger] = time.monotonic() - began
    assert (record["status"], record["wandb"]) == ("finished", "offline")
    assert took["wandb"] < took["none"] + 30


def test_a_tracker_of_the_users_own_takes_every_epoch_as_the_documents_show(tmp_path, monkeypatch):
    documents = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", documents, re.DOTALL) if "(Tracker)" in code)
    (tmp_path / "own_tracker.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = quick("recipe.max_epochs=2", "logger.tracker=own_tracker.Lines")
    record = run_cell(cfg, tmp_path)
    lines = (cell_folder(cfg, tmp_path) / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == record["history"]
    assert trackers.shortfall([record]) is None
    with pytest.raises(UsageError, match=r"logger\.tracker=os\.path: must be a subclass"):
        quick("logger.tracker=os.path")
