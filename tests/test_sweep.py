"""Sweeps that survive: each cell once, failures named, damage repaired, and the rest goes on."""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import made_up
import pytest
from commands import hrm_bench, start
from conftest import FEW, QUICK, figures, quick, stopped_after

from hrm_bench import train
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.run import fail, locked, run_cell
from hrm_bench.models.hrm import HRM
from hrm_bench.records import store
from hrm_bench.records.schema import MANIFEST_FILE, SCHEMA_VERSION, Record
from hrm_bench.sweeps import display, sweep
from hrm_bench.training import progress
from hrm_bench.training.stopping import FAIL_FAST, StopSignal

NO_LOGGER = [*QUICK, "recipe.max_epochs=1", "logger=none"]


def planned(root, *words, seeds=(1, 2, 3)):
    """Small cells, as a command plans them."""
    return [sweep.plan(quick(*FEW, f"seed={seed}", *words), (), root) for seed in seeds]


def in_turn(root, before=lambda cell: None):
    """Return a launcher that runs cells one after another in this process and calls ``before`` with each cell."""

    def launch(cells, stop):
        return [(before(cell), run_cell(cell, stop=stop))[1] for cell in cells]

    return launch


def execute(cells, root, launch):
    """Run cells as a command does; return the result and its request to stop."""
    stop = StopSignal.of_sweep(root)
    with stop.listening():
        return sweep.execute(cells, root, launch, stop), stop


def executed(cells, root, launch):
    """Run cells as a command does; return the result."""
    return execute(cells, root, launch)[0]


def statuses(result):
    return [result.outcomes[cell.folder]["status"] for cell in result.cells]


class CountedHRM(HRM):
    """HRM that writes down each time that it is trained."""

    def configure_optimizers(self):
        with Path(os.environ["COUNT"]).open("a") as file:
            file.write(f"{self.seed} {self.config.update}\n")
        return super().configure_optimizers()


def test_two_sweeps_of_the_same_cells_at_once_train_each_cell_once(tmp_path):
    lists = ["model.update=sequential,simultaneous", "seed=1,2,3,4,5,6"]
    words = [*NO_LOGGER, *FEW, *lists, "model._target_=test_sweep.CountedHRM", "hydra.sweep.dir=both", "-m"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "COUNT": str(tmp_path / "count")}
    printed = tmp_path / "printed"
    both = [start(*words, cwd=tmp_path, environment=environment, out=printed, err=printed) for _ in range(2)]
    for process in both:
        process.join(200)
    assert [process.exitcode for process in both] == [0, 0], printed.read_text()
    records = list(store.read_all(tmp_path / "both"))
    assert len(records) == 12
    assert {record["status"] for record in records} == {"finished"}
    trained = (tmp_path / "count").read_text().splitlines()
    assert (len(trained), len(set(trained))) == (12, 12)


def test_sweeps_that_begin_in_one_folder_at_once_lose_no_cell_of_each_other(tmp_path):
    names = [f"hrm-seed{number}" for number in range(40)]
    cell = Cell.of(quick(), tmp_path)

    def begin(name):
        sweep._write_manifest([replace(cell, folder=tmp_path / name)], tmp_path, "")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin, names))
    assert sorted(sweep.read_manifest(tmp_path)) == sorted(names)


def test_a_cell_that_another_sweep_has_at_work_comes_last_and_its_process_is_named(tmp_path, monkeypatch, capfd):
    planned_cells = planned(tmp_path)
    folder = planned_cells[0].folder
    order, held = [], locked(folder)
    folder.mkdir()
    progress.write(folder, epoch=1, max_epochs=3, fraction=0.1, perplexity=None)
    assert held.__enter__()
    monkeypatch.setattr(sweep.time, "sleep", lambda _: held.__exit__(None, None, None))

    result = executed(planned_cells, tmp_path, in_turn(tmp_path, lambda cell: order.append(cell.config.seed)))
    assert order == [1, 2, 3, 1]
    assert statuses(result) == ["finished"] * 3
    waiting = f"hrm seed 1: another command is running it (process {os.getpid()}) in {folder}; waiting for its end\n"
    assert capfd.readouterr().err.count(waiting) == 1


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    broken = ["recipe.gradient_clip=1e30", "recipe.learning_rate=1e30"]
    planned_cells = [*planned(tmp_path, "fail_fast=true", *broken, seeds=[1]), *planned(tmp_path, "fail_fast=true")]
    result, stop = execute(planned_cells, tmp_path, in_turn(tmp_path))
    assert statuses(result) == ["failed", "waiting", "waiting", "waiting"]
    assert stop.reason == FAIL_FAST
    slow = [replace(cell, config=cell.config.copy()) for cell in planned_cells]
    for cell in slow:
        cell.config.fail_fast = False
    assert statuses(executed(slow, tmp_path, in_turn(tmp_path))) == ["failed", *["finished"] * 3]


def test_force_runs_finished_cells_again_and_nothing_else_does(tmp_path):
    first = executed(planned(tmp_path), tmp_path, in_turn(tmp_path))
    paths = [cell.folder / "record.json" for cell in first.cells]
    before = [path.stat().st_mtime_ns for path in paths]
    assert not executed(planned(tmp_path), tmp_path, in_turn(tmp_path)).has_run
    assert [path.stat().st_mtime_ns for path in paths] == before
    forced = planned(tmp_path, "force=true")
    assert [cell.folder for cell in forced] == [cell.folder for cell in first.cells]
    again = executed(forced, tmp_path, in_turn(tmp_path))
    assert all(path.stat().st_mtime_ns > old for path, old in zip(paths, before, strict=True))
    for cell in first.cells:
        assert figures(again.outcomes[cell.folder]) == figures(first.outcomes[cell.folder])


@pytest.mark.parametrize("words", [(), ("force=true",)], ids=str)
def test_nothing_is_removed_of_a_cell_that_another_command_is_running(words, tmp_path):
    (cell,) = planned(tmp_path, *words, seeds=[1])
    cell.folder.mkdir()
    fail(cell, "planted")
    names = {"record.json", "config.yaml", "best.ckpt", "last.ckpt", "log.txt", ".lock"}
    for name in names - {"record.json"}:
        (cell.folder / name).touch()

    def launch(cells, stop):
        assert {path.name for path in cell.folder.iterdir()} == names
        return [Record(status="interrupted")]

    with locked(cell.folder) as is_free:
        assert is_free
        assert statuses(executed([cell], tmp_path, launch)) == ["interrupted"]


def test_records_of_other_code_are_kept_and_told_and_those_of_another_schema_run_again(tmp_path, capfd):
    first = executed(planned(tmp_path), tmp_path, in_turn(tmp_path))
    one, other, _ = (cell.folder for cell in first.cells)
    store.write_json(one / "record.json", store.read(one) | {"code": "0" * 12})
    store.write_json(other / "record.json", store.read(other) | {"schema_version": 1})
    capfd.readouterr()
    again = executed(planned(tmp_path), tmp_path, in_turn(tmp_path))
    printed = capfd.readouterr().err
    assert "1 of 3 cells were finished by another version of the code and are kept; force=true runs" in printed
    assert "1 of 3 cells have a record of another version of hrm_bench, which this one cannot read; they run" in printed
    assert again.outcomes[one]["code"] == "0" * 12
    assert figures(again.outcomes[other]) == figures(first.outcomes[other])


def test_a_cell_that_takes_its_process_along_fails_alone(tmp_path):
    planned_cells = planned(tmp_path)
    killer = planned_cells[1].folder
    asked = []

    def launch(wanted, _):  # as joblib does: where one process is killed, all are
        asked.append([cell.config.seed for cell in wanted])
        done = []
        for cell in wanted:
            if cell.folder == killer:
                cell.folder.mkdir(exist_ok=True)
                (cell.folder / store.CONFIG_FILE).touch()
                raise RuntimeError("a worker was killed")
            done.append(run_cell(cell.config, tmp_path))
        return done

    result = executed(planned_cells, tmp_path, launch)
    assert asked == [[1, 2, 3], [2], [3]]
    assert statuses(result) == ["finished", "failed", "finished"]
    assert result.outcomes[killer]["reason"].startswith("its process died (RuntimeError: a worker was killed)")
    assert store.read(killer)["status"] == "failed"


def test_a_cell_whose_process_dies_after_its_work_is_finished(tmp_path):
    def launch(wanted, _):
        for cell in wanted:
            run_cell(cell.config, tmp_path)
        raise RuntimeError("a worker was killed")

    result = executed(planned(tmp_path)[:1], tmp_path, launch)
    assert statuses(result) == ["finished"]
    assert store.is_finished(store.read(result.cells[0].folder))


def test_fail_fast_stops_where_a_process_has_died(tmp_path):
    def launch(wanted, _):
        for cell in wanted:
            cell.folder.mkdir(exist_ok=True)
            (cell.folder / store.CONFIG_FILE).touch()
        raise RuntimeError("a worker was killed")

    result, stop = execute(planned(tmp_path, "fail_fast=true")[:1], tmp_path, launch)
    assert statuses(result) == ["failed"]
    assert stop.reason == FAIL_FAST


def test_a_job_gets_the_words_of_its_cell_and_what_the_command_does_with_its_cells(tmp_path):
    typed = ["seed=1", "fail_fast=true", "launcher=joblib", "recipe.max_epochs=1"]
    cell = sweep.plan(quick("fail_fast=true"), typed, tmp_path)
    assert sweep.job_words(cell) == ["seed=1", "recipe.max_epochs=1", "fail_fast=true"]


def test_a_message_is_printed_once_per_command(capfd):
    shared = sweep.Shared()
    for message in ("one", "two", "one"):
        shared.print(message)
    assert capfd.readouterr().err == "one\ntwo\n"


def test_what_is_typed_again_does_not_force_again(monkeypatch):
    monkeypatch.setattr("sys.argv", ["hrm_bench", "-m", "seed=1,2", "force=true"])
    assert train.command() == "python -m hrm_bench -m seed=1,2"


def test_a_launcher_that_cannot_launch_fails_every_cell_and_ends(tmp_path):
    def launch(*_):
        raise FileNotFoundError("sbatch")

    result = executed(planned(tmp_path), tmp_path, launch)
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

    steps = "hrm_bench.objectives.DeepSupervision.steps"
    whole = planned(tmp_path, seeds=[1])
    with monkeypatch.context() as during:  # an exception
        during.setattr(steps, lambda *_, **__: (_ for _ in ()).throw(Broken("on purpose")))
        raising = planned(tmp_path, seeds=[2])
        assert run_cell(raising[0].config, tmp_path)["status"] == "failed"
    diverging = planned(tmp_path, "recipe.learning_rate=1e30", "recipe.gradient_clip=1e30", seeds=[3])
    full = planned(tmp_path, seeds=[4])
    full_disk(full[0].folder)
    cut_snapshot, cut_record = planned(tmp_path, seeds=[5, 6])
    with monkeypatch.context() as during:
        stopped_after(5, during)
        run_cell(cut_snapshot.config, tmp_path)
    path = cut_snapshot.folder / "last.ckpt"
    path.write_bytes(path.read_bytes()[:-100])
    run_cell(cut_record.config, tmp_path)
    path = cut_record.folder / "record.json"
    path.write_text(path.read_text()[:-100])

    every = [*whole, *raising, *diverging, *full, cut_snapshot, cut_record]
    capfd.readouterr()
    result, stop = execute(every, tmp_path, in_turn(tmp_path))
    assert train.conclude(result, tmp_path, stop) == 1
    assert statuses(result) == ["finished", "finished", "failed", "failed", "finished", "finished"]
    out, err = capfd.readouterr()
    assert re.search(r"hrm seed 3 +│ failed │ ArithmeticError: the \w+ loss of epoch 1 is nan: training has", out)
    assert re.search(
        r"hrm seed 4 +│ failed │ the disk is full \(No space left on device\); make room, and the same command resumes",
        out,
    )
    assert f"{cut_snapshot.folder.name}: last.ckpt was damaged (" in err
    assert f"{cut_record.folder.name}: record.json was damaged (not a record) and is kept as record.json.damaged" in err

    subprocess.run(["mount", "-o", "remount,size=8m", str(full[0].folder)], check=True)
    again = executed(every, tmp_path, in_turn(tmp_path))
    assert statuses(again) == ["finished", "finished", "failed", "finished", "finished", "finished"]
    shutil.rmtree(diverging[0].folder)


def test_an_exception_in_a_cell_is_named_and_repaired_by_the_second_run(tmp_path, monkeypatch):
    (cell,) = planned(tmp_path, seeds=[1])
    with monkeypatch.context() as during:
        during.setattr("hrm_bench.charlm.CharLM.training_step", lambda *_: 1 / 0)
        result = executed([cell], tmp_path, in_turn(tmp_path))
    assert result.outcomes[cell.folder]["reason"] == "ZeroDivisionError: division by zero"
    assert statuses(executed([cell], tmp_path, in_turn(tmp_path))) == ["finished"]


def test_memory_that_is_short_is_told_with_what_to_do(tmp_path, monkeypatch):
    def short(*_, **__):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr("hrm_bench.objectives.DeepSupervision.steps", short)
    record = run_cell(quick(*FEW), tmp_path)
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


def test_planning_many_cells_is_told_before_anything_else(tmp_path):
    seeds = ",".join(map(str, range(120)))
    done = hrm_bench("-m", *QUICK, "logger=none", f"seed={seeds}", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == "planning 120 cells"
    few = hrm_bench("-m", *QUICK, "logger=none", "seed=1,2", "plan=true", cwd=tmp_path)
    assert "planning" not in few.stderr


def test_a_plan_shows_what_would_run_and_how_long_and_runs_nothing(tmp_path):
    words = [*NO_LOGGER, "seed=1,2,3", "-m"]
    first = hrm_bench(*NO_LOGGER, "seed=2", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    before = sorted(tmp_path.rglob("*"))
    done = hrm_bench(*words, "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"hrm seed 1 +│ waiting ", done.stdout)
    assert re.search(r"hrm seed 2 +│ finished ", done.stdout)
    assert "For 2 of 2 cells to run, cells of the same kind have run before; by their medians" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_the_time_that_a_cell_may_take_is_the_median_of_finished_cells_of_its_kind_and_version(tmp_path):
    (cell,) = planned(tmp_path / "sweep", seeds=[1])
    (slower,) = planned(tmp_path / "sweep", "recipe.max_epochs=9", seeds=[1])
    finished = made_up.record("data=sample") | {"config": cell.values}
    others = [{"status": "failed"}, {"schema_version": SCHEMA_VERSION - 1}, {"config": slower.values}]
    for number, record in enumerate([*({"seconds": s} for s in (1.0, 2.0, 30.0)), *others]):
        folder = tmp_path / f"sweep {number % 2}" / str(number)
        folder.mkdir(parents=True)
        store.write_json(folder / "record.json", finished | {"seconds": 400.0, "identity": str(number)} | record)
    expected = display.expected_seconds([cell], tmp_path / "sweep")
    assert expected == {cell.folder.name: 2.0}


def test_status_shows_a_sweep_while_it_runs(tmp_path):
    root = tmp_path / "multirun" / "custom"
    seen = []

    def look(cell):
        seen.append(hrm_bench(module="hrm_bench.status", cwd=tmp_path).stdout)

    planned_cells = planned(root, seeds=[1, 2])
    root.mkdir(parents=True)
    executed(planned_cells, root, in_turn(root, look))
    assert re.search(r"hrm seed 1 +│ waiting ", seen[0])
    assert re.search(r"hrm seed 1 +│ finished │ best \d of 3 │ +[\d.]+ │", seen[1])
    assert "2 cells: 1 finished, 1 waiting" in seen[1]
    missing = hrm_bench("nowhere", module="hrm_bench.status", cwd=tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_the_display_names_the_phase_and_is_not_at_its_end_before_the_cell_is(tmp_path, monkeypatch):
    (cell,) = planned(tmp_path, seeds=[1])
    cell.folder.mkdir()
    seen, enter = [], progress.enter

    def look(*arguments):
        enter(*arguments)
        state = store.read_json(cell.folder / "progress.json")
        seen.append((state["phase"], round(shown._fraction(state), 2), display.cell_status(cell.folder).note))

    monkeypatch.setattr(progress, "enter", look)
    shown = display.Display([cell])
    assert shown._fraction({"phase": "training", "fraction": 0.5}) == pytest.approx(0.4)
    assert run_cell(cell)["status"] == "finished"
    assert seen == [("scoring", 0.8, "scoring"), ("auditing", 0.86, "auditing")]
    shown.shares.append(0.5)  # a cell that trained for half of its time
    assert shown._fraction({"phase": "training", "fraction": 0.5}) == pytest.approx(0.25)


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path):
    names = {"../elsewhere": "out", "/etc": "out", "inside": "in"}
    store.write_json(tmp_path / MANIFEST_FILE, {"command": "", "cells": names})
    assert sweep.read_manifest(tmp_path) == {"inside": "in"}
    (tmp_path / MANIFEST_FILE).write_text('{"cells": 3}')
    assert sweep.read_manifest(tmp_path) == {}
