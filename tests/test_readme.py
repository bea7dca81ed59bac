"""What the README says: its example runs, and the commands that it names exist."""

import re
import subprocess

from commands import hrm_bench
from conftest import ROOT

from hrm_bench.records import store

README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_the_models_example_runs_as_it_stands(tmp_path):
    (tmp_path / "gru.py").write_text(block("python"))
    config = tmp_path / "conf" / "model" / "gru.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(block("yaml").replace("hrm_bench.models.gru.GRU", "gru.GRU"))
    words = ["--config-dir", "conf", "model=gru", "data=sample", "recipe.max_epochs=2", "logger=none"]
    done = hrm_bench(*words, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 0, done.stderr
    (record,) = store.read_all(tmp_path / "multirun" / "custom")
    assert record["model"] == "gru"
    assert record["causal"] is True
    audited = hrm_bench(*words[:3], cwd=tmp_path, module="hrm_bench.audit", PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert "gru: causal" in audited.stdout
    misspelt = hrm_bench(*words, "+model.widht=3", cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert misspelt.returncode == 2
    assert "did you mean model.width?" in misspelt.stderr


def test_every_make_target_that_it_names_exists():
    told = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    targets = set(re.findall(r"^  make (\w+)", told.stdout, re.MULTILINE))
    assert {"help", "setup", "demo", "test", "check", "reproduce", "exp1", "exp2", "report", "clean"} <= targets
    assert set(re.findall(r"make (demo|test|reproduce|\w+_\w+|exp\d)\b", README)) <= targets


def test_every_experiment_that_it_names_exists():
    named = set(re.findall(r"experiment=(\w+)", README))
    assert named
    assert named <= {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
