"""What a file of claims takes: which experiments, how many cells, how many minutes."""

import re

import made_up
import pytest
from conftest import ROOT, compose

from hrm_bench import claims
from hrm_bench.cells import compiling
from hrm_bench.records import papers, store
from hrm_bench.sweeps import costs
from hrm_bench.sweeps.sweep import plan


def test_the_costs_of_several_plans_are_added(tmp_path):
    file = tmp_path / "costs.jsonl"
    file.write_text("[24, 20, 100.0]\n[16, 4, 80.5]\n")
    assert str(costs.total(file)) == "In all: 40 cells, 24 to run, in about 3 min one after another"
    file.write_text("")
    assert str(costs.total(file)) == "In all: 0 cells, 0 to run"


def test_a_cell_takes_as_long_as_finished_cells_of_its_kind_and_else_what_a_few_batches_say(tmp_path, monkeypatch):
    words = ["data=sample", "model=lstm", "logger=none", "data.train_chars=2000", "model.width=8"]
    cells = [plan(compose(*words, f"seed={seed}"), [], tmp_path / "one") for seed in (1, 2)]
    monkeypatch.setattr(compiling, "_seconds_per_window", lambda cell: 0.5)
    timed = costs.of(cells, tmp_path / "one")
    assert timed[:2] == (2, 2)
    assert timed.seconds == pytest.approx(2 * 15 * 2 * 0.5)  # epochs that patience lets pass, batches, seconds
    record = made_up.record(*words, seed=1) | {"identity": cells[0].folder.name.rpartition("-")[2]}
    cells[0].folder.mkdir(parents=True)
    store.write_json(cells[0].folder / store.RECORD_FILE, record)
    known = costs.of(cells, tmp_path / "one")
    assert known == (2, 1, record["seconds"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["hrm_vs_lct", "supervision", "causal_mask", "hrm_vs_infini", "hrm_vs_infini_as_published"]),
        (
            ["recipe=published"],
            ["hrm_vs_lct", "supervision", "causal_mask", "hrm_vs_infini", "hrm_vs_infini_as_published"],
        ),
        (["launcher=joblib", "recipe=tuned"], ["recipes"]),
    ],
)
def test_another_recipe_is_measured_by_the_experiment_that_has_every_claim(words, expected):
    (paper,) = (paper for paper in papers.PAPERS if paper.everywhere)
    assert claims._experiments(paper, words) == expected


def test_make_reproduce_is_the_command_of_the_reports_claims():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^reproduce:.*\n\t(.*)$", makefile, re.MULTILINE)
    assert recipe.startswith("$(BIN)/python -m hrm_bench.claims papers/hrm_reports.yaml launcher=joblib ")
