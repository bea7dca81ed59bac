"""The commands as a user types them: what they print, leave and exit with."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import hrm_bench, start
from conftest import MODELS, QUICK, ROOT, figures
from hydra.errors import MissingConfigException

from hrm_bench.config.compose import explain
from hrm_bench.records import store
from hrm_bench.training import snapshots

QUICK_CELL = [*QUICK, "recipe.max_epochs=1"]


def cells(folder):
    return {record["identity"]: figures(record) for record in store.read_all(folder)}


def test_one_cell_shows_its_progress_its_table_and_its_folder(tmp_path):
    done = hrm_bench(*QUICK, cwd=tmp_path, forked=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cell 1 of 1: hrm seed 42: best epoch \d, validation perplexity [\d.]+, test [\d.]+", done.stderr)
    assert len(done.stderr.splitlines()) == 1  # no warning is left
    folder = tmp_path / re.search(r"Cell: (\S+)", done.stdout)[1]
    assert folder.parent == tmp_path / "multirun" / "custom"
    record = store.read(folder)
    assert f"{record['validation']['perplexity']:.2f}" in done.stdout
    assert {path.name for path in folder.iterdir()} >= {
        "record.json",
        "config.yaml",
        "history.csv",
        "best.ckpt",
        "wandb",
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The sweep of the README, on small models."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ["model=hrm,infini_hrm", "memory=reset,carry", "-m", *QUICK_CELL]
    return folder, words, hrm_bench(*words, cwd=folder)


def test_a_sweep_runs_every_combination_once_and_ends_with_a_table(swept):
    folder, _, done = swept
    assert done.returncode == 0, done.stderr
    records = list(store.read_all(folder / "multirun" / "custom"))
    assert [(r["model"], r["memory"]) for r in records] == [
        ("hrm", "none"),
        ("infini_hrm", "carry"),
        ("infini_hrm", "reset"),
    ]
    assert "cell 3 of 3: infini_hrm carry seed 42: " in done.stderr
    assert (
        done.stderr.count("memory=carry data.order=shuffled: in training, what a memory holds is of unrelated text")
        == 1
    )
    for name in ("results.md", "results.csv"):
        assert f"multirun/custom/{name}" in done.stdout
        assert (folder / "multirun" / "custom" / name).exists()


def test_the_same_command_again_does_no_work_twice(swept):
    folder, words, first = swept
    before = {path: path.stat().st_mtime_ns for path in folder.glob("multirun/custom/*/record.json")}
    again = hrm_bench(*words, cwd=folder)
    assert again.returncode == 0
    assert "3 of 3 cells were already finished" in again.stderr
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_cells_side_by_side_give_the_records_of_cells_in_turn(swept):
    folder, words, _ = swept
    done = hrm_bench(*words, "launcher=joblib", "hydra.sweep.dir=elsewhere", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert cells(folder / "elsewhere") == cells(folder / "multirun" / "custom")


def test_the_report_shows_a_sweep_again_from_its_records(swept, tmp_path):
    folder, _, _first = swept
    again = hrm_bench("multirun/custom", cwd=folder, module="hrm_bench.report")
    assert again.returncode == 0
    assert "infini_hrm" in again.stdout
    missing = hrm_bench(str(tmp_path), cwd=tmp_path, module="hrm_bench.report")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_one_cell_in_the_folder_of_a_sweep_leaves_a_report_of_all_cells(swept):
    folder, *_ = swept
    done = hrm_bench(*QUICK_CELL, "model=transformer", "seed=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    place = "multirun/custom"
    assert f"the cells of this command; the files below have all 4 cells of {place}." in done.stdout
    assert "infini_hrm" not in done.stdout.partition("The table above")[0]
    table = (folder / place / "results.csv").read_text()
    assert [line.partition(",")[0] for line in table.splitlines()[1:]] == [
        "hrm",
        "infini_hrm",
        "infini_hrm",
        "transformer",
    ]
    shutil.rmtree(next((folder / place).glob("transformer-*")))


def test_a_baseline_can_be_chosen_after_the_cells_have_run(swept):
    folder, words, _ = swept
    none = hrm_bench(*words, "experiment.baseline={model:gru}", cwd=folder)
    note = "experiment.baseline={model:gru}: this command has no such cell, so it gives no differences\n"
    assert note in none.stderr
    for words_of_baseline in ("experiment.baseline={model:hrm}", "experiment.baseline.model=hrm"):
        done = hrm_bench(*words, words_of_baseline, cwd=folder)
        assert "experiment.baseline" not in done.stderr
        assert store.read_json(folder / "multirun/custom/sweep.json")["baselines"] == {"custom": {"model": "hrm"}}
        assert "difference" in done.stdout
    again = hrm_bench("multirun/custom", cwd=folder, module="hrm_bench.report")
    assert "difference" in again.stdout
    hrm_bench(*words, cwd=folder)


def test_every_list_of_an_experiment_can_be_overridden(tmp_path):
    words = ["seed=7,8", "recipe.max_epochs=2", "model.update=sequential", "hydra.sweep.dir=elsewhere"]
    done = hrm_bench(
        "-m", "experiment=hrm_vs_infini_as_published", *QUICK, *words, "model=hrm,infini_hrm", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    records = list(store.read_all(tmp_path / "elsewhere"))
    assert len(records) == 2 * (1 + 2)
    assert {record["seed"] for record in records} == {7, 8}
    assert {record["config"]["model"]["update"] for record in records} == {"sequential"}
    assert {record["config"]["memory"]["write"] for record in records} == {"every_segment"}
    assert all(len(record["history"]) == 2 for record in records)
    assert {(record["model"], record["causal"]) for record in records} == {("hrm", True), ("infini_hrm", False)}


def test_a_failed_cell_is_named_and_the_others_go_on(tmp_path):
    words = ["recipe.learning_rate=1e30,0.001", "recipe.gradient_clip=1e30", "logger=none", "-m"]
    done = hrm_bench(*QUICK_CELL, *words, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"hrm seed 42 +│ failed +│ ArithmeticError: .* has diverged │ \S+log\.txt │", done.stdout)
    assert "1 of 2 cells failed; the same command runs only what is not finished" in done.stdout
    assert sorted(r["status"] for r in store.read_all(tmp_path / "multirun" / "custom")) == ["failed", "finished"]
    assert "validation perplexity" in done.stdout


def started(*words, cwd):
    """Start a command that runs beside the test; return its process once its first cell trains."""
    process = start(*words, cwd=cwd, out=cwd / "out", err=cwd / "err")
    deadline = time.monotonic() + 120
    while not list(cwd.glob("multirun/custom/*/progress.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    return process


def ended(process, number, *, cwd):
    """Send a signal to a command that runs beside the test; return what it printed until its end."""
    os.kill(process.pid, number)
    process.join(60)
    return (cwd / "err").read_text()


LONG = [*QUICK, "recipe.max_epochs=400", "recipe.patience=400", "logger=none"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "TERM"])
def test_an_interrupted_cell_leaves_what_it_goes_on_from_and_says_how(number, status, tmp_path):
    process = started(*LONG, cwd=tmp_path)
    message = ended(process, number, cwd=tmp_path)
    assert process.exitcode == status, message
    assert f"to continue:\n  python -m hrm_bench {' '.join(LONG)}\n" in message
    assert "Traceback" not in message
    (record,) = store.read_all(tmp_path / "multirun" / "custom")
    assert (record["status"], record["reason"]) == ("interrupted", f"stopped by {number.name}")
    (folder,) = tmp_path.glob("multirun/custom/*/")
    assert snapshots.find(folder, {"identity": record["identity"], "code": record["code"]}, []) is not None


def test_all_cells_of_an_interrupted_sweep_stop_wherever_they_run(tmp_path):
    process = started(*LONG, "seed=1,2,3", "launcher=joblib", "-m", cwd=tmp_path)
    message = ended(process, signal.SIGTERM, cwd=tmp_path)  # sent to the sweep alone, not to the processes of its cells
    assert process.exitcode == 143, message
    assert "interrupted: 0 of 3 cells are finished, " in message
    records = list(store.read_all(tmp_path / "multirun" / "custom"))
    assert records
    assert {record["status"] for record in records} == {"interrupted"}
    assert not list(tmp_path.glob("multirun/custom/.stop-*"))


BAD = {
    "an unknown key": (["recipe.max_epoch=3"], r"recipe\.max_epoch: no such key; .*did you mean recipe\.max_epochs\?"),
    "an unknown group": (["optimiser=adam"], r"optimiser: no such key; the config has model, memory, "),
    "an unknown choice": (["model=nope"], r"model=nope: no such choice; allowed are .*hrm, "),
    "a value of another type": (["seed=x"], r"seed=x: must be a whole number"),
    "heads that do not divide the width": (["model.num_heads=5"], r"model\.num_heads=5: must divide model\.width=64 "),
    "a text too short": (["data.train_chars=64"], r"data\.train_chars: the train text has 64 characters, too few "),
    "more text than there is": (
        ["data.train_chars=100000"],
        r"data\.train_chars=100000: the train text has 40,941 characters; try data\.train_chars=null",
    ),
    "a memory mode that does not exist": (
        ["memory.mode=forget"],
        r"memory\.mode=forget: allowed are none, reset, carry",
    ),
    "a memory choice that does not exist": (
        ["memory=forget"],
        r"memory=forget: no such choice; allowed are carry, none",
    ),
    "a write rule that does not exist": (["memory.rule=hebb"], r"memory\.rule=hebb: allowed are linear, delta"),
    "a write time that does not exist": (["memory.write=never"], r"memory\.write=never: allowed are after_window, "),
    "a missing file": (["data=text_file", "data.path=nowhere.txt"], r"data\.path=\S+nowhere\.txt: cannot be read"),
    "a file that is not UTF-8": (["data=text_file", "data.path=latin.txt"], r"data\.path=\S+: not UTF-8 at byte 2; "),
    "a missing data set": (["data=wikitext2", "data.path=nowhere"], r"data\.path=\S+nowhere: no such folder; give "),
    "an output that cannot be written": (
        ["hydra.run.dir=latin.txt/out"],
        r"latin\.txt/out: cannot be read or written \(Not a directory\); .*FOLDER",
    ),
    "a seed too large": (["seed=100000000000000000000"], r"seed=100000000000000000000: must be from 0 to 4294967295; "),
    "several experiments": (
        ["-m", "experiment=hrm_vs_lct,hierarchy"],
        r"experiment=hrm_vs_lct,hierarchy: a sweep is one experiment; give a command for each",
    ),
    "no cell at a time": (
        ["-m", "hydra.sweeper.max_batch_size=0"],
        r"hydra\.sweeper\.max_batch_size=0: must be at least 1",
    ),
    "a number for a group": (["recipe=3"], r"recipe=3: no such choice; allowed are published, tuned, "),
    "a list without -m": (
        ["model=hrm,infini_hrm"],
        r"model=hrm,infini_hrm: several values are a sweep, which takes -m",
    ),
    "a launcher without -m": (["launcher=joblib"], r"launcher=joblib: runs the cells of a sweep, which takes -m"),
    "the config of a sweep": (["--cfg", "job", "-m"], r"--cfg: shows the config of one cell; leave out -m"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_clear_line_and_status_2(words, message, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    done = hrm_bench("data=sample", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert re.match(f"hrm_bench: {message}", done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_experiment_without_m_says_that_it_trains_one_cell(tmp_path):
    done = hrm_bench("experiment=hrm_vs_lct", "data=sample", "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "experiment=hrm_vs_lct declares a sweep; without -m only this one cell is trained" in done.stderr


@pytest.mark.parametrize(
    "words", [["model.name=mine"], ["-m", "model.name=hrm,mine", "seed=1,2"]], ids=["cell", "sweep"]
)
def test_a_recipe_that_was_not_searched_for_a_model_says_so_once(words, tmp_path):
    done = hrm_bench("data=sample", "recipe=tuned", "plan=true", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("recipe=tuned: no search was made for model=mine, so it takes the values of ")
    assert "experiment=tuning model=mine" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_sweep_with_one_bad_cell_stops_before_the_first(tmp_path):
    done = hrm_bench("data=sample", "model.num_heads=4,5", "-m", "hydra.sweep.dir=out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("hrm_bench: model.num_heads=5: must divide")
    assert not (tmp_path / "out").exists()
    unwritable = hrm_bench("data=sample", "-m", "hydra.sweep.dir=/dev/null/out", cwd=tmp_path)
    assert unwritable.returncode == 2
    assert "hydra.sweep.dir=FOLDER" in unwritable.stderr


def test_without_the_hub_its_data_set_is_an_error_that_names_both_ways_on(tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HRM_BENCH_WIKITEXT": ""}
    done = hrm_bench("data=wikitext2", "data.path=null", cwd=tmp_path, **nowhere)
    assert done.returncode == 2
    assert re.fullmatch(
        r"hrm_bench: data=wikitext2: .* cannot be reached; .*data\.path=FOLDER.*HRM_BENCH_WIKITEXT.*data=sample\n",
        done.stderr,
    )


def test_help_names_the_groups(tmp_path):
    done = hrm_bench("--help", cwd=tmp_path)
    assert done.returncode == 0
    for choice in (
        f"model: {', '.join(MODELS)}",
        "memory: carry, none, reset",
        "max_epochs: 30",
        "  report    make the tables, plots and page of sweeps again",
    ):
        assert choice in done.stdout


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m hrm_bench --help | head -1",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("hrm_bench: ")
    assert done.stderr == ""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(closed, tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m hrm_bench.archive --help {closed}", shell=True, cwd=tmp_path, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_launcher_that_is_not_installed_says_where_it_comes_from():
    error = MissingConfigException("", missing_cfg_file="hydra/launcher/ray", options=["basic", "joblib"])
    message = explain(error)
    assert message.startswith("hydra/launcher=ray: no such choice; allowed are basic, joblib; ")
    assert message.endswith("pip install 'hrm_bench[launchers]'")


def test_real_wikitext_is_found_by_its_variable(wikitext, tmp_path):
    done = hrm_bench("recipe.max_epochs=1", "logger=none", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = store.read_all(tmp_path / "multirun" / "custom")
    assert record["unknown_characters"]["train"] == 14
    assert record["validation"]["characters"] == 4_992
    assert 12 < record["validation"]["perplexity"] < record["floors"]["validation"]["unigram"]["full"] < 24


def test_an_installed_wheel_works_outside_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *wheel], check=True, timeout=120)
    (built,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(built)], check=True, timeout=120)
    done = hrm_bench(*QUICK_CELL, "logger=none", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    program = (
        "import hrm_bench, json; print(json.dumps([hrm_bench.__file__, hrm_bench.compose('model=lct_1layer').seed]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == [str(site / "hrm_bench" / "__init__.py"), 42]
    assert (site / "hrm_bench" / "conf" / "config.yaml").exists()
    assert hrm_bench("mine", module="hrm_bench.new", cwd=tmp_path, PYTHONPATH=str(site)).returncode == 0
    shipped = {path.name: path.read_bytes() for path in (ROOT / "examples" / "study").glob("*.*")}
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine").glob("*.*")} == shipped


def test_a_folder_whose_name_hydra_takes_for_a_setting_is_named_before_anything_runs(tmp_path):
    folder = tmp_path / "a ${x}"
    folder.mkdir()
    for words in (QUICK_CELL, ["-m", *QUICK_CELL, "seed=1,2"]):
        done = hrm_bench(*words, cwd=folder)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            f"hrm_bench: {folder}: Hydra takes ${{ in a folder's name for one of its settings; rename the folder"
        ]
    assert not list(folder.iterdir())
