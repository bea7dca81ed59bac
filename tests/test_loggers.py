"""Lightning's loggers as trackers: they have the config, every epoch once, and the figures of the record."""

import csv
import importlib.util
import json

import pytest
import yaml
from commands import hrm_bench as command
from conftest import FEW, QUICK, quick, stopped_after

from hrm_bench.cells import loggers, run
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.cells.trackers import history_values, summary_values
from hrm_bench.errors import UsageError

needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}")
    for name in ("tensorboard", "mlflow")
}


def of_csv(folder):
    """The values by name and step, the words and the config that ``csv/`` has."""
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    values = {(key, int(row["step"])): value for row in rows for key, value in row.items() if key != "step"}
    words = yaml.safe_load((folder / "csv" / "hparams.yaml").read_text())
    return values, len(rows), words


def of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = (folder / "tensorboard").glob("events.*")
    events = EventAccumulator(str(file), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    values = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    words = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    hparams = yaml.safe_load((folder / "tensorboard" / "hparams.yaml").read_text())
    return values, len(events.Scalars("epoch/train_nll")) + 1, words | hparams


KINDS = [("csv", of_csv), pytest.param("tensorboard", of_tensorboard, marks=needs["tensorboard"])]


@pytest.mark.parametrize(("name", "read"), KINDS)
@pytest.mark.parametrize("looks", [None, 5], ids=["undisturbed", "stopped and resumed"])
def test_a_logger_has_every_epoch_once_and_the_figures_of_the_record(name, read, looks, tmp_path, monkeypatch):
    cfg = quick(*FEW, logger=name)
    if looks is not None:
        with monkeypatch.context() as during:
            stopped_after(looks, during)
            assert run_cell(cfg, tmp_path)["status"] == "interrupted"
    record = run_cell(cfg, tmp_path)
    assert (record["status"], record["wandb"]) == ("finished", "disabled")
    values, num_rows, words = read(cell_folder(cfg, tmp_path))
    assert num_rows == len(record["history"]) + 1
    for row in record["history"]:
        for key, value in history_values(row).items():
            assert values[key, row["epoch"]] == pytest.approx(value, rel=1e-6)
    last = record["history"][-1]["epoch"]
    for key, value in summary_values(record).items():
        if isinstance(value, str):
            assert words[key] == value
        else:
            assert values[key, last] == pytest.approx(float(value), rel=1e-6)
    assert words["recipe.max_epochs"] == 3


@needs["mlflow"]
def test_mlflow_has_a_run_per_cell_that_a_resumed_cell_continues(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv(loggers.SERVER, f"sqlite:///{tmp_path}/mlflow.db")
    cfg = quick(*FEW, "logger.tags=[mine]", logger="mlflow")
    with monkeypatch.context() as during:
        stopped_after(5, during)
        run_cell(cfg, tmp_path)
    record = run_cell(cfg, tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (made,) = client.search_runs([client.get_experiment_by_name("custom").experiment_id])
    assert made.info.run_name == cell_folder(cfg, tmp_path).name
    assert made.info.status == "FINISHED"
    assert made.data.metrics["validation/nll"] == pytest.approx(record["validation"]["nll"])
    assert made.data.params["recipe.max_epochs"] == "3"
    assert (made.data.tags["identity"], made.data.tags["tag.0"]) == (record["identity"], "mine")


@pytest.mark.parametrize("name", ["csv", "tensorboard", "mlflow"])
def test_a_logger_refuses_what_it_has_not_in_one_line_each(name, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda package: None)
    monkeypatch.delenv(loggers.SERVER, raising=False)
    with pytest.raises(UsageError) as caught:
        quick("logger.entity=me", "logger.tags=[a]", logger=name)
    expected = [
        f"logger={name}: needs {name}, which is not installed; pip install {name}",
        f"logger.entity=me: logger={name} has no entity; leave it out",
        f"logger.tags=['a']: logger={name} has no tags; leave it out",
        "logger=mlflow: needs a server or a database; export MLFLOW_TRACKING_URI=sqlite:////FOLDER/mlflow.db",
    ]
    own = {"csv": [1, 2], "tensorboard": [0, 1, 2], "mlflow": [0, 1, 3]}[name]
    assert [*caught.value.faults] == [expected[number] for number in own]


def test_a_logger_that_fails_leaves_the_cell_alone(tmp_path, monkeypatch):
    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loggers.CSVLogger, "log_metrics", full)
    cfg = quick(*FEW, logger="csv")
    assert run_cell(cfg, tmp_path)["status"] == "finished"
    log = (cell_folder(cfg, tmp_path) / "log.txt").read_text()
    assert log.count("logger=csv failed; the cell continues without it") == 1


def test_what_a_logger_writes_is_known_as_the_benchs_own():
    assert {"csv", "tensorboard"} < set(run.FOLDERS)


def test_a_sweep_with_a_logger_is_one_command_without_a_warning(tmp_path):
    done = command("-m", *QUICK[:-1], "recipe.max_epochs=1", "logger=csv", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("multirun/custom/*/csv/metrics.csv")]) == 2
    assert not [line for line in done.stderr.splitlines() if not line.startswith("cell ")]
    assert not json.loads((next(tmp_path.glob("multirun/custom/*/record.json"))).read_text())["notes"]
