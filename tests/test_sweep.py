"""Sweeps that survive: each cell once, failures named, damage repaired, and the rest goes on."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import hrm_bench, start
from test_cli import QUICK_CELL
from test_resume import SHORT, stopped_after
from test_run import figures, quick

from hrm_bench.cells.run import locked, run_cell
from hrm_bench.models.hrm import HRM
from hrm_bench.records import store
from hrm_bench.sweeps import sweep
from hrm_bench.training import stopping

NO_LOGGER = [*QUICK_CELL, "logger=none"]


def planned(root, *words, seeds=(1, 2, 3)):
    """Small cells, as a command plans them."""
    return [sweep.plan(quick(*SHORT, f"seed={seed}", *words), (), root) for seed in seeds]


def in_turn(root, then=lambda cell: None):
    """A launcher that runs cells one after another in this process; ``then`` is told of each before it runs."""

    def launch(wanted):
        return [(then(cell), run_cell(cell.cfg, root))[1] for cell in wanted]

    return launch


def statuses(result):
    return [result.outcomes[cell.folder]["status"] for cell in result.cells]


class CountedHRM(HRM):
    """HRM that writes down each time that it is trained."""

    def configure_optimizers(self):
        with Path(os.environ["COUNT"]).open("a") as file:
            file.write(f"{self.seed} {self.update}\n")
        return super().configure_optimizers()


def test_two_sweeps_of_the_same_cells_at_once_train_each_cell_once(tmp_path):
    lists = ["model.update=sequential,simultaneous", "seed=1,2,3,4,5,6"]
    words = [*NO_LOGGER, *SHORT, *lists, "model._target_=test_sweep.CountedHRM", "hydra.sweep.dir=both", "-m"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "COUNT": str(tmp_path / "count")}
    told = tmp_path / "told"
    both = [start(*words, cwd=tmp_path, environment=environment, out=told, err=told) for _ in range(2)]
    for process in both:
        process.join(200)
    assert [process.exitcode for process in both] == [0, 0], told.read_text()
    found = list(store.read_all(tmp_path / "both"))
    assert len(found) == 12
    assert {record["status"] for record in found} == {"finished"}
    trained = (tmp_path / "count").read_text().splitlines()
    assert (len(trained), len(set(trained))) == (12, 12)


def test_sweeps_that_begin_in_one_folder_at_once_lose_no_cell_of_each_other(tmp_path):
    names = [f"hrm-seed{number}" for number in range(40)]
    cfg = quick()

    def begin(name):
        sweep._write_manifest([sweep.Cell(cfg, (), tmp_path / name)], tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, names))
    assert sorted(sweep.read_manifest(tmp_path)) == sorted(names)


def test_a_cell_that_another_sweep_has_at_work_is_passed_over_and_looked_at_again(tmp_path):
    planned_cells = planned(tmp_path)
    order, held = [], locked(planned_cells[0].folder)
    planned_cells[0].folder.mkdir()
    assert held.__enter__()

    def then(cell):
        order.append(cell.cfg.seed)
        if order == [1, 2, 3]:
            held.__exit__(None, None, None)

    result = sweep.execute(planned_cells, tmp_path, in_turn(tmp_path, then))
    assert order == [1, 2, 3, 1]
    assert statuses(result) == ["finished"] * 3


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    broken = ["recipe.gradient_clip=1e30", "recipe.learning_rate=1e30"]
    planned_cells = [*planned(tmp_path, "fail_fast=true", *broken, seeds=[1]), *planned(tmp_path, "fail_fast=true")]
    result = sweep.execute(planned_cells, tmp_path, in_turn(tmp_path))
    assert statuses(result) == ["failed", "waiting", "waiting", "waiting"]
    assert result.request.reason == stopping.FAIL_FAST
    slow = [cell._replace(cfg=cell.cfg.copy()) for cell in planned_cells]
    for cell in slow:
        cell.cfg.fail_fast = False
    assert statuses(sweep.execute(slow, tmp_path, in_turn(tmp_path))) == ["failed", *["finished"] * 3]


def test_force_runs_finished_cells_again_and_nothing_else_does(tmp_path):
    first = sweep.execute(planned(tmp_path), tmp_path, in_turn(tmp_path))
    paths = [cell.folder / "record.json" for cell in first.cells]
    before = [path.stat().st_mtime_ns for path in paths]
    assert not sweep.execute(planned(tmp_path), tmp_path, in_turn(tmp_path)).has_run
    assert [path.stat().st_mtime_ns for path in paths] == before
    forced = planned(tmp_path, "force=true")
    assert [cell.folder for cell in forced] == [cell.folder for cell in first.cells]
    again = sweep.execute(forced, tmp_path, in_turn(tmp_path))
    assert all(path.stat().st_mtime_ns > old for path, old in zip(paths, before, strict=True))
    for cell in first.cells:
        assert figures(again.outcomes[cell.folder]) == figures(first.outcomes[cell.folder])


def test_records_of_other_code_are_kept_and_told_and_those_of_another_schema_run_again(tmp_path, capfd):
    first = sweep.execute(planned(tmp_path), tmp_path, in_turn(tmp_path))
    one, other, _ = (cell.folder for cell in first.cells)
    store.write_json(one / "record.json", store.read(one) | {"code": "0" * 12})
    store.write_json(other / "record.json", store.read(other) | {"schema_version": 1})
    capfd.readouterr()
    again = sweep.execute(planned(tmp_path), tmp_path, in_turn(tmp_path))
    told = capfd.readouterr().err
    assert "1 of 3 cells were finished by another version of the code and are kept as they are; force=true runs" in told
    assert "1 of 3 cells have a record of another version of hrm_bench, which this one cannot read: they run" in told
    assert again.outcomes[one]["code"] == "0" * 12
    assert figures(again.outcomes[other]) == figures(first.outcomes[other])


def test_a_cell_that_takes_its_process_along_fails_alone(tmp_path):
    planned_cells = planned(tmp_path)
    killer = planned_cells[1].folder
    asked = []

    def launch(wanted):  # as joblib does: where one process is killed, all are
        asked.append([cell.cfg.seed for cell in wanted])
        done = []
        for cell in wanted:
            if cell.folder == killer:
                cell.folder.mkdir(exist_ok=True)
                (cell.folder / store.CONFIG_FILE).touch()
                raise RuntimeError("a worker was killed")
            done.append(run_cell(cell.cfg, tmp_path))
        return done

    result = sweep.execute(planned_cells, tmp_path, launch)
    assert asked == [[1, 2, 3], [2], [3]]
    assert statuses(result) == ["finished", "failed", "finished"]
    assert result.outcomes[killer]["reason"].startswith("its process died (RuntimeError: a worker was killed)")
    assert store.read(killer)["status"] == "failed"


def test_a_cell_whose_process_dies_after_its_work_is_finished(tmp_path):
    def launch(wanted):
        for cell in wanted:
            run_cell(cell.cfg, tmp_path)
        raise RuntimeError("a worker was killed")

    result = sweep.execute(planned(tmp_path)[:1], tmp_path, launch)
    assert statuses(result) == ["finished"]
    assert store.is_finished(store.read(result.cells[0].folder))


def test_fail_fast_stops_where_a_process_has_died(tmp_path):
    def launch(wanted):
        for cell in wanted:
            cell.folder.mkdir(exist_ok=True)
            (cell.folder / store.CONFIG_FILE).touch()
        raise RuntimeError("a worker was killed")

    result = sweep.execute(planned(tmp_path, "fail_fast=true")[:1], tmp_path, launch)
    assert statuses(result) == ["failed"]
    assert result.request.reason == stopping.FAIL_FAST


def test_what_is_typed_again_does_not_force_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["hrm_bench", "-m", "seed=1,2", "force=true"])
    assert sweep.command() == "python -m hrm_bench -m seed=1,2"


def test_a_launcher_that_cannot_launch_fails_every_cell_and_ends(tmp_path):
    def launch(_):
        raise FileNotFoundError("sbatch")

    result = sweep.execute(planned(tmp_path), tmp_path, launch)
    assert statuses(result) == ["failed"] * 3
    assert "FileNotFoundError: sbatch" in result.outcomes[result.cells[0].folder]["reason"]


@pytest.fixture
def full_disk(tmp_path):
    """A function that puts a cell's folder on a file system with room for little but its record."""
    mounted = []

    def mount(folder):
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system can be mounted by root only")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_one_of_each_failure_is_named_and_the_rest_finishes(tmp_path, full_disk, monkeypatch, capfd):
    class Broken(Exception):
        pass

    train = "hrm_bench.objectives.DeepSupervision.train_window"
    whole = planned(tmp_path, seeds=[1])
    with monkeypatch.context() as during:  # an exception
        during.setattr(train, lambda *_, **__: (_ for _ in ()).throw(Broken("on purpose")))
        raising = planned(tmp_path, seeds=[2])
        assert run_cell(raising[0].cfg, tmp_path)["status"] == "failed"
    diverging = planned(tmp_path, "recipe.learning_rate=1e30", "recipe.gradient_clip=1e30", seeds=[3])
    full = planned(tmp_path, seeds=[4])
    full_disk(full[0].folder)
    cut_snapshot, cut_record = planned(tmp_path, seeds=[5, 6])
    with monkeypatch.context() as during:
        stopped_after(5, during)
        run_cell(cut_snapshot.cfg, tmp_path)
    path = cut_snapshot.folder / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    run_cell(cut_record.cfg, tmp_path)
    path = cut_record.folder / "record.json"
    path.write_text(path.read_text()[:-100])

    every = [*whole, *raising, *diverging, *full, cut_snapshot, cut_record]
    capfd.readouterr()
    result = sweep.execute(every, tmp_path, in_turn(tmp_path))
    with pytest.raises(SystemExit) as ended:
        sweep.conclude(result, root=tmp_path)
    assert ended.value.code == 1
    assert statuses(result) == ["finished", "finished", "failed", "failed", "finished", "finished"]
    out, err = capfd.readouterr()
    assert re.search(r"hrm seed 3 +│ failed │ ArithmeticError: the \w+ loss of epoch 1 is nan: training has", out)
    assert re.search(r"hrm seed 4 +│ failed │ the disk is full \(.*\); make room, and the same command goes on", out)
    assert f"{cut_snapshot.folder.name}: last.ckpt was damaged (" in err
    assert f"{cut_record.folder.name}: record.json was damaged (not a record) and is kept as record.json.damaged" in err

    subprocess.run(["mount", "-o", "remount,size=8m", str(full[0].folder)], check=True)
    again = sweep.execute(every, tmp_path, in_turn(tmp_path))
    assert statuses(again) == ["finished", "finished", "failed", "finished", "finished", "finished"]
    shutil.rmtree(diverging[0].folder)


def test_an_exception_in_a_cell_is_named_and_repaired_by_the_second_run(tmp_path, monkeypatch):
    (cell,) = planned(tmp_path, seeds=[1])
    with monkeypatch.context() as during:
        during.setattr("hrm_bench.charlm.CharLM.refine", lambda *_: 1 / 0)
        result = sweep.execute([cell], tmp_path, in_turn(tmp_path))
    assert result.outcomes[cell.folder]["reason"] == "ZeroDivisionError: division by zero"
    assert statuses(sweep.execute([cell], tmp_path, in_turn(tmp_path))) == ["finished"]


def test_memory_that_is_short_is_told_with_what_to_do(tmp_path, monkeypatch):
    def short(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("hrm_bench.objectives.DeepSupervision.train_window", short)
    record = run_cell(quick(*SHORT), tmp_path)
    assert record["reason"].startswith("out of memory (RuntimeError: ")
    assert record["reason"].endswith("; try a smaller recipe.batch_size, or trainer.micro_batches=4")


def test_a_name_cannot_climb_out_of_the_sweeps_folder(tmp_path):
    done = hrm_bench(*NO_LOGGER, "model.name=../../out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hrm_bench: model.name=../../out: ")
    assert not list(tmp_path.rglob("*out*"))
    done = hrm_bench(*NO_LOGGER, "experiment.name=../out", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_config_cannot_name_a_function_to_call(tmp_path):
    done = hrm_bench(*NO_LOGGER, "model._target_=os.system", cwd=tmp_path)
    assert done.returncode == 2
    assert "model._target_=os.system: must be a subclass of hrm_bench.charlm.CharLM" in done.stderr


def test_a_plan_shows_what_would_run_and_how_long_and_runs_nothing(tmp_path):
    words = [*NO_LOGGER, "seed=1,2,3", "-m"]
    first = hrm_bench(*NO_LOGGER, "seed=2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = sorted(tmp_path.rglob("*"))
    told = hrm_bench(*words, "plan=true", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert re.search(r"hrm seed 1 +│ waiting ", told.stdout)
    assert re.search(r"hrm seed 2 +│ finished ", told.stdout)
    assert "The 2 of 2 cells to run whose like has run before take about 0 min one after another" in told.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_status_shows_a_sweep_while_it_runs(tmp_path):
    root = tmp_path / "multirun" / "custom"
    seen = []

    def look(cell):
        told = hrm_bench(module="hrm_bench.status", cwd=tmp_path)
        seen.append(told.stdout)

    planned_cells = planned(root, seeds=[1, 2])
    root.mkdir(parents=True)
    sweep.execute(planned_cells, root, in_turn(root, look))
    assert re.search(r"hrm seed 1 +│ waiting ", seen[0])
    assert re.search(r"hrm seed 1 +│ finished │ best \d of 3 │ +[\d.]+ │", seen[1])
    assert "2 cells: 1 finished, 1 waiting" in seen[1]
    missing = hrm_bench("nowhere", module="hrm_bench.status", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    names = {"../elsewhere": "out", "/etc": "out", "inside": "in"}
    store.write_json(tmp_path / sweep.MANIFEST_FILE, {"command": "", "cells": names})
    assert sweep.read_manifest(tmp_path) == {"inside": "in"}
    (tmp_path / sweep.MANIFEST_FILE).write_text('{"cells": 3}')
    assert sweep.read_manifest(tmp_path) == {}
