"""One file and one config make a model: the examples of the documents, added to a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from commands import hrm_bench
from conftest import ROOT

from hrm_bench.records import store

EXAMPLES = {"gru": "GRU", "fast_weights": "FastWeights"}  # without a memory, and with one of a shape of its own
SMALL = ("data=sample", "data.window=8", "model.width=16", "data.train_chars=900", "data.validation_chars=200")
QUICK = (*SMALL, "data.test_chars=200", "recipe.max_epochs=2", "logger=none")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the repository with the two models of the documents, each one file and one config."""
    folder = tmp_path_factory.mktemp("copy") / "hrm_bench"
    ignored = shutil.ignore_patterns(".git", ".venv*", "multirun", "__pycache__", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=ignored)
    documents = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/extending.md")}
    sources = [source for text in documents.values() for source in blocks(text, "python")]
    configs = [config for text in documents.values() for config in blocks(text, "yaml")]
    for name, title in EXAMPLES.items():
        (source,) = (source for source in sources if f"class {title}(CharLM)" in source)
        (config,) = (config for config in configs if f"hrm_bench.models.{name}.{title}" in config)
        (folder / "hrm_bench" / "models" / f"{name}.py").write_text(source, encoding="utf-8")
        (folder / "conf" / "model" / f"{name}.yaml").write_text(config, encoding="utf-8")
    return folder


def run(copy, *words, module="hrm_bench"):
    done = hrm_bench(*words, cwd=copy, module=module, PYTHONPATH=str(copy))
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_sweep_and_its_report_take_them_beside_hrm(copy):
    table = run(
        copy,
        "-m",
        "model=hrm,gru,fast_weights",
        "memory=carry",
        "hydra.sweep.dir=multirun/swept",
        *QUICK[:2],
        *QUICK[3:],
    )
    records = [*store.read_all(copy / "multirun" / "swept")]
    assert sorted(record["model"] for record in records) == ["fast_weights", "gru", "hrm"]
    assert all(record["causal"] for record in records)
    assert {record["model"]: record["memory"] for record in records}["fast_weights"] == "carry"
    assert all(name in table for name in EXAMPLES)
    run(copy, "multirun/swept", module="hrm_bench.report")
    page = (copy / "multirun" / "swept" / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in EXAMPLES)


def test_the_tuned_recipe_trains_them_and_leaves_out_the_dropouts_that_they_lack(copy):
    words = ("recipe.budget=3000", "data.train_chars=600", "hydra.sweep.dir=multirun/tuned")
    shown = run(copy, "-m", f"model={','.join(EXAMPLES)}", "recipe=tuned", *QUICK, *words)
    records = [*store.read_all(copy / "multirun" / "tuned")]
    assert {record["model"]: record["status"] for record in records} == dict.fromkeys(EXAMPLES, "finished")
    for name in EXAMPLES:
        assert f"recipe.feed_forward_dropout=0.1 is left out: model={name} has no such dropout" in shown


def test_a_search_plans_them(copy):
    words = (
        "experiment=tuning",
        f"model={','.join(EXAMPLES)}",
        "plan=true",
        "data=sample",
        "data.validation_start=500",
    )
    shown = run(copy, "-m", *words, "data.validation_chars=null", "logger=none")
    assert "12 trials" in shown
    assert all(name in shown for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_audit_finds_it_causal_and_every_component_trained(name, copy):
    shown = run(copy, f"model={name}", *SMALL, module="hrm_bench.audit")
    assert f"{name}: causal" in shown


def pytest_in(copy, *words):
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--ignore",
        "tests/test_example_models.py",
    ]
    done = subprocess.run([*command, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_every_test_that_goes_over_the_models_passes_with_them(copy):
    shown = pytest_in(copy, "-m", "not slow", "-k", " or ".join(EXAMPLES), "-rA")
    assert all(shown.count(f"[{name}") > 5 for name in EXAMPLES)


@pytest.mark.slow
def test_the_whole_suite_passes_with_them(copy):
    pytest_in(copy, "-n", "2", "-m", "not slow")
