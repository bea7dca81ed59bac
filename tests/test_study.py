"""A study of one's own, in a folder outside the package: written, run, decided and read by what its README says."""

import json
import re
import sys

import pytest
from commands import hrm_bench
from conftest import ROOT

import hrm_bench as package
from hrm_bench import claims, new
from hrm_bench.errors import UsageError
from hrm_bench.records import papers

FEW = ("--config-dir", "conf", "recipe.max_epochs=1", "seed=1,2,3,4,5,6", "logger=none", "data.train_chars=600")
WHOLE = (ROOT / "examples" / "study" / "claim.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A new study whose claim has been decided, with less training than its config says."""
    folder = tmp_path_factory.mktemp("own") / "my study"
    assert new.main([str(folder)]) == 0
    done = hrm_bench("claim.yaml", *FEW, cwd=folder, module="hrm_bench.claims")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_page_of_a_new_study_answers_its_claim(study):
    folder, done = study
    assert "study: python -m hrm_bench -m experiment=study --config-dir conf" in done.stdout
    assert "A carried memory lowers Delta's perplexity" in done.stdout
    page = (folder / "multirun" / "claim" / "report.html").read_text(encoding="utf-8")
    assert "A carried memory lowers Delta&#39;s perplexity by at least 2 %." in page
    assert "HRM reaches a validation perplexity" not in page  # a claim of another paper
    cells = package.load(folder / "multirun" / "study").cells
    assert sorted(set(cells.memory)) == ["carry", "none"]
    assert cells.causal.all()


def test_the_notebook_of_a_study_runs(study, monkeypatch):
    folder, _ = study
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {}
    for cell in json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["cells"]) == 12
    assert type(names["model"]).__name__ == "Delta"


def test_the_same_claims_again_train_nothing_and_a_plan_writes_nothing(study):
    folder, _ = study
    page = folder / "multirun" / "claim" / "report.html"
    before = page.stat().st_mtime_ns
    planned = hrm_bench("claim.yaml", *FEW, "plan=true", cwd=folder, module="hrm_bench.claims")
    assert (planned.returncode, page.stat().st_mtime_ns) == (0, before)
    assert "12 cells: 12 finished" in planned.stdout
    assert planned.stdout.endswith("In all: 12 cells, 0 to run.\n")


def test_a_plan_says_how_many_cells_the_claims_need_and_about_how_long_they_take(tmp_path):
    folder = tmp_path / "own"
    assert new.main([str(folder)]) == 0
    planned = hrm_bench("claim.yaml", *FEW, "plan=True", cwd=folder, module="hrm_bench.claims")
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"\nIn all: 12 cells, 12 to run, in about \d+ min one after another\.\n$", planned.stdout)
    assert not (folder / "multirun").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("here", "exists already; give a new folder"), ("-x", "names a folder"), ("a$b", "names a folder")],
)
def test_a_study_needs_a_new_folder_with_a_name(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match=message):
        new.main([name])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


FAULTS = {
    "title: A study of a delta-rule memory": ("", r"title: missing; give title"),
    "quantity: difference": ("quantity: size", r"claims\.0\.quantity=size: input should be 'level', .*"),
    "figure: -4.0": ("figur: -4.0", r"claims\.0\.figur: no such key; allowed are claim, .*"),
    "figure: -4.0 ": ("figure: much ", r"claims\.0\.figure=much: input should be a valid number.*"),
    "    figure: -4.0 #": (
        "    #",
        r"claims\.0\.figure: missing; quantity: difference needs the published value, or a range",
    ),
    "{model: delta, memory: carry}, ": ("", r"claims\.0\.cells: has 1; quantity: difference is of 2"),
    "{model: delta, memory: none}": ("{memory: none}", r"claims\.0\.cells\.1: names no model; .*"),
    "experiments: [study]": ("experiments: []", r"claims\.0\.experiments: names none; .*"),
    "claims:": ("claims: [", r"not YAML \(.*\)"),
    WHOLE: ("3", r"has no keys; it needs title, text and claims"),
}


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part[:30])
def test_a_fault_in_a_file_of_claims_is_one_line(part, tmp_path):
    other, message = FAULTS[part]
    assert WHOLE.count(part) == 1
    (tmp_path / "mine.yaml").write_text(WHOLE.replace(part, other))
    with pytest.raises(UsageError, match=rf".*mine\.yaml: {message}$") as caught:
        claims.main([str(tmp_path / "mine.yaml")])
    assert "\n" not in caught.value.faults[0]


def test_a_file_of_claims_that_is_missing_and_a_folder_of_cells_are_one_line():
    with pytest.raises(
        UsageError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\); give a file of claims"
    ):
        claims.main(["nowhere.yaml"])
    with pytest.raises(UsageError, match=r"hydra\.sweep\.dir=x: the claims name the experiments; leave it out"):
        claims.main(["nowhere.yaml", "hydra.sweep.dir=x"])


def test_every_experiment_of_a_shipped_claim_is_in_conf():
    for paper in papers.PAPERS:
        for name in paper.experiments:
            assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists()
