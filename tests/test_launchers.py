"""Engines that outgrow a machine: cells as jobs of submitit and as tasks of Ray are equal to those run in turn."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple

import hydra
import pytest
import torch
from commands import hrm_bench, start
from conftest import SMALL, figures, weights
from hydra.core.singleton import Singleton

from hrm_bench import compose
from hrm_bench.cells.run import run_cell
from hrm_bench.config.words import conf_folder
from hrm_bench.records import store
from hrm_bench.sweeps.sweep import UNRELATED

FEW_CHARACTERS = ["data.train_chars=2000", "data.validation_chars=80", "data.test_chars=80"]
WORDS = [*SMALL, *FEW_CHARACTERS, "recipe.max_epochs=1", "logger=none"]  # each key once: the sweeper keeps the last
LISTS = {"model": ["hrm", "lct_1layer", "infini_hrm"], "memory": ["reset", "carry"]}
CELLS_A_SEED = 4  # a model without memory is the same cell in either mode
PLACE = Path("multirun", "custom")


class InTurn(NamedTuple):
    """A sweep, and the folder of its cells, run one after another in this process."""

    words: list[str]
    folder: Path
    num_cells: int


@pytest.fixture(scope="module", params=[1, pytest.param(3, marks=pytest.mark.slow)], ids=["4 cells", "12 cells"])
def in_turn(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    lists = LISTS | {"seed": [str(seed) for seed in range(request.param)]}
    for values in itertools.product(*lists.values()):
        named = [f"{name}={value}" for name, value in zip(lists, values, strict=True)]
        run_cell(compose(*WORDS, *named), folder, [*named, *WORDS])
    words = [*(f"{name}={','.join(values)}" for name, values in lists.items()), *WORDS, "-m"]
    return InTurn(words, folder, CELLS_A_SEED * request.param)


def cells(folder):
    """What the records say, but for the words that composed the cell, which a sweep orders in its own way."""
    return {record["identity"]: {**figures(record), "overrides": None} for record in store.read_all(folder)}


def assert_same(folder, reference):
    """Two sweeps' records say the same, and their weights are equal to the bit."""
    assert cells(folder) == cells(reference.folder)
    names = [path.parent.name for path in reference.folder.glob("*/record.json")]
    assert len(names) == reference.num_cells
    for name in names:
        ours, theirs = weights(folder / name), weights(reference.folder / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def assert_shows_cells_alone(printed, num_cells):
    """The terminal has a line a cell, and nothing of the engine's own."""
    lines = [line for line in printed.splitlines() if line != UNRELATED]  # a note on the sweep, before its cells
    places = [line.split(":")[0] for line in lines]
    assert sorted(places) == sorted(f"cell {k + 1} of {num_cells}" for k in range(num_cells)), printed


@pytest.fixture(scope="module")
def ray_cluster():
    """The address of a Ray of two nodes, each with one core, that work in the folder of these tests."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}  # in no file
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (token | {"RAY_USAGE_STATS_ENABLED": "0"}).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster  # which reads the environment

        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            cluster.add_node(**node)
            yield cluster.address
        finally:
            cluster.shutdown()


def test_two_nodes_of_ray_give_the_records_and_weights_of_cells_in_turn(in_turn, ray_cluster, tmp_path):
    done = hrm_bench(*in_turn.words, "launcher=ray", f"hydra.launcher.ray.init.address={ray_cluster}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_shows_cells_alone(done.stderr, in_turn.num_cells)
    assert_same(tmp_path / PLACE, in_turn)
    # A node has one core, so that two cells at a time are at work on both.
    began = sorted(path.stat().st_mtime for path in tmp_path.glob(f"{PLACE}/*/config.yaml"))
    ended = sorted(path.stat().st_mtime for path in tmp_path.glob(f"{PLACE}/*/record.json"))
    assert any(later < earlier for later, earlier in zip(began[1:], ended, strict=False))


LAUNCH_ON_RAY = """
import os, signal, sys
from pathlib import Path
from typing import NamedTuple

from hydra_plugins.hrm_bench import CellLauncher
from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher
from omegaconf import OmegaConf

from hrm_bench.training.stopping import StopSignal

RayLauncher.launch = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
init = {"address": sys.argv[1], "logging_level": "error"}
config = OmegaConf.create({"hydra": {"launcher": {"ray": {"init": init}}, "runtime": {"cwd": "."}}})
launcher = CellLauncher(config.hydra.launcher.ray)
launcher.setup(hydra_context=None, task_function=print, config=config)
with StopSignal.of_sweep(Path.cwd()).listening() as stop:
    launcher.launch([], 0)
    print(stop.requested())
"""


def test_a_signal_is_still_the_sweeps_own_when_ray_has_begun(ray_cluster, tmp_path):
    command = [sys.executable, "-c", LAUNCH_ON_RAY, ray_cluster]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped by SIGTERM\n"), done.stderr


def test_jobs_of_submitit_give_the_same_where_one_is_told_that_its_time_is_up(in_turn, tmp_path):
    if not Path("/proc/self/fd").exists():
        pytest.skip("which job has a cell at work is read from /proc")
    err = tmp_path / "err"
    sweep = start(*in_turn.words, "launcher=slurm_rehearsal", cwd=tmp_path, out=tmp_path / "out", err=err)
    while not signal_one_that_trains(tmp_path / PLACE) and sweep.is_alive():
        time.sleep(0.05)
    sweep.join(900)  # twelve jobs, each of which imports PyTorch, on a slow machine
    errors = err.read_text()
    assert sweep.exitcode == 0, errors
    assert_shows_cells_alone(errors, in_turn.num_cells)
    assert_same(tmp_path / PLACE, in_turn)
    logs = [path.read_text() for path in tmp_path.glob(f"{PLACE}/.submitit/*/*_log.out")]
    assert len(logs) == in_turn.num_cells
    (printed,) = [log for log in logs if "Caught signal SIGUSR2" in log]
    assert "Requeued job" in printed
    assert printed.count("Starting with JobEnvironment") == 2


def signal_one_that_trains(folder):
    """Send a job what Slurm sends before its time is up, and say whether there was one at work on a cell."""
    locks = {path.with_name(".lock") for path in folder.glob("*/progress.json")}
    for link in Path("/proc").glob("[0-9]*/fd/*") if locks else []:
        with contextlib.suppress(OSError):  # it has ended
            if link.readlink() in locks:
                os.kill(int(link.parts[2]), signal.SIGUSR2)
                return True
    return False


def test_slurm_is_asked_for_what_the_config_says(tmp_path, monkeypatch):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text('#!/bin/sh\nwhile read line; do echo "$line"; done < "$1"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = [
        "launcher=slurm",
        "trainer.num_threads=3",
        "hydra.launcher.partition=long",
        "hydra.launcher.array_parallelism=1",
    ]
    kept = Singleton.get_state()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = hydra.compose("config", words, return_hydra_config=True)
    launcher = hydra.utils.instantiate(cfg.hydra.launcher)
    launcher.setup(hydra_context=None, task_function=print, config=cfg)
    with pytest.raises(Exception, match="Could not make sense of sbatch output") as refused:  # it was our own script
        launcher.launch([["seed=1"], ["seed=2"]], initial_job_idx=0)
    Singleton.set_state(kept)
    asked = set(re.findall(r"#SBATCH --(\S+)", str(refused.value)))
    assert asked >= {"array=0-1%1", "time=120", "signal=USR2@120", "cpus-per-task=3", "mem=4GB", "partition=long"}
    assert f"output={tmp_path}/{PLACE}/.submitit/%A_%a/%A_%a_0_log.out" in asked
