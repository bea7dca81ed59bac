"""The search: as a user types it, and the same whether it was stopped or not."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from commands import hrm_bench
from conftest import QUICK, ROOT
from omegaconf import OmegaConf

from hrm_bench.cells.cell import Cell
from hrm_bench.config.compose import compose
from hrm_bench.config.words import conf_folder
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import Trial
from hrm_bench.sweeps import search
from hrm_bench.sweeps.search import Search
from hrm_bench.training.build import build

SPACE = {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}, "distillation": {"choices": [0, 1]}}
DROPPED = ("weight_decay", "head_dropout", "character_dropout", "distillation")
WORDS = [
    *("-m", "experiment=tuning", "model=hrm,transformer", *QUICK, "recipe.max_epochs=1", "recipe.distillation=0"),
    *("data.validation_start=500", "logger=none", "hydra.sweep.dir=search"),
    *("hydra.sweeper.search.trials=3", *(f"~hydra.sweeper.search.space.{key}" for key in DROPPED)),
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    return folder, hrm_bench(*WORDS, cwd=folder)


def searched_in(folder):
    return json.loads((folder / "search" / "search.json").read_bytes())


def test_each_model_has_as_many_trials_and_its_best_is_left_as_a_conf_file(searched):
    folder, done = searched
    assert done.returncode == 0, done.stderr
    studies = searched_in(folder)["studies"]
    assert [study["study"] for study in studies] == ["hrm seed 42", "transformer seed 42"]
    by_cell = {record["identity"]: record for record in store.read_all(folder / "search")}
    for study in studies:
        assert len(study["trials"]) == 3
        assert len({json.dumps(trial["values"]) for trial in study["trials"]}) == 3
        assert study["trials"][0]["values"] == {"learning_rate": 0.004, "embedding_dropout": 0.1}  # the recipe's own
        for trial in study["trials"]:
            record = by_cell[trial["cell"].rpartition("-")[2]]
            assert record["validation"]["perplexity"] == trial["perplexity"]
            for key, value in trial["values"].items():
                assert record["config"]["recipe"][key] == value
            assert record["config"]["data"]["validation_start"] == 500
        best = min(study["trials"], key=lambda trial: trial["perplexity"])
        chosen = yaml.safe_load((folder / "search" / "tuned_values.yaml").read_text())["tuned"]
        assert chosen[study["study"].split()[0]] == best["values"]
        assert f"{best['perplexity']:.2f}" in done.stdout


def test_the_page_has_the_search_and_its_course(searched):
    folder, _ = searched
    page = (folder / "search" / "report.html").read_text()
    assert '<section id="searches">' in page
    (plot,) = (folder / "search" / "plots").glob("search-search-*.svg")
    assert "best so far, % below" in plot.read_text()
    for study in searched_in(folder)["studies"]:
        tried = [trial["perplexity"] for trial in study["trials"]]
        assert re.search(rf"{study['study']}.*?>3<.*?>{tried[0]:.2f}<.*?>{min(tried):.2f}<", page, re.DOTALL)


def test_a_recipe_that_is_not_in_the_space_is_not_among_the_trials(searched):
    folder, _ = searched
    done = hrm_bench(
        *(*WORDS, "model=transformer", "hydra.sweep.dir=beyond"),
        *("hydra.sweeper.search.trials=1", "hydra.sweeper.search.space.learning_rate.low=0.006"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (study,) = json.loads((folder / "beyond" / "search.json").read_bytes())["studies"]
    assert 0.006 <= study["trials"][0]["values"]["learning_rate"] <= 0.01


def test_the_same_search_again_runs_nothing_and_finds_the_same(searched):
    folder, _ = searched
    before = searched_in(folder)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("search/*/record.json")}
    again = hrm_bench(*WORDS, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert searched_in(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("search/*/record.json")} == written


def test_a_search_that_lost_its_last_cells_ends_as_it_had(searched, tmp_path):
    folder, _ = searched
    shutil.copytree(folder, tmp_path / "again")
    for study in searched_in(folder)["studies"]:
        for trial in study["trials"][1:]:
            shutil.rmtree(tmp_path / "again" / "search" / trial["cell"])
    assert hrm_bench(*WORDS, cwd=tmp_path / "again").returncode == 0
    assert searched_in(tmp_path / "again") == searched_in(folder)


@pytest.mark.parametrize(
    ("space", "fault"),
    [
        ({"width": {"low": 8, "high": 64}}, "no such key"),
        ({"learning_rate": {"low": 0.1}}, "give low and high"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low=0.1 must be below high=0.01"),
        ({"learning_rate": {"low": 0.1, "high": 1.0, "steps": 3}}, "give low and high"),
        ({"learning_rate": {"low": 0, "high": 0.01, "log": True}}, "low=0: must be above 0, for log=true"),
        ({"learning_rate": {"low": "a", "high": 0.01}}, "low=a: must be a number"),
        ({"learning_rate": {"low": 0.001, "high": 0.01, "log": 1}}, "log=1: must be true or false"),
        ({"batch_size": {"low": 2.5, "high": 8}}, "low=2.5: must be a whole number"),
        ({"learning_rate": {"low": 0.1, "high": 1.0, "choices": [1]}}, "give low and high"),
        ({"learning_rate": 0.1}, "give low and high"),
        ({"distillation": {"choices": 3}}, "choices=3: must be a list"),
        ({"distillation": {"choices": []}}, "must be a list"),
        ({}, "must have at least one key of the recipe"),
        (None, "space=None: must have at least one key of the recipe"),
    ],
)
def test_a_space_that_cannot_be_searched_is_told(space, fault):
    with pytest.raises(UsageError, match=fault):
        Search(trials=3, seed=1, space=space)
    assert Search(trials=3, seed=1, space=SPACE).trials == 3


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"trials": 3, "seed": 1}, r"search\.space: missing"),
        ({"trials": 3, "seed": 1, "space": SPACE, "rounds": 2}, r"search\.rounds: no such key"),
        ({"trials": 2.5, "seed": 1, "space": SPACE}, r"search\.trials=2\.5: must be a whole number, at least 1"),
        ({"trials": 3, "seed": -1, "space": SPACE}, r"search\.seed=-1: must be a whole number, at least 0"),
    ],
)
def test_a_search_that_cannot_be_made_is_told(values, fault):
    with pytest.raises(UsageError, match=fault):
        Search.declared(values)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["data.validation_start=0"], r"data\.validation_start=0: a search would choose on the validation characters"),
        (
            ["+hydra.sweeper.search.space.averaging={low: 0.9, high: 1.0}"],
            r"recipe\.averaging=1\.0: must be from 0 to 0\.99999",
        ),
        (
            ["+hydra.sweeper.search.space.distillation={choices: [0, 0.3]}"],
            r"recipe\.distillation=0\.3: times recipe\.batch_size=\d+ is .* try recipe\.distillation=0",
        ),
    ],
)
def test_a_search_that_would_break_off_later_does_not_begin(words, fault, tmp_path):
    done = hrm_bench(*WORDS, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(fault, done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("search/*/record.json"))


def test_the_plan_of_a_search_says_how_many_trials_it_is(tmp_path):
    done = hrm_bench(*WORDS, "plan=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 trials for each of these cells, with other values of learning_rate, " in done.stdout
    assert not list(tmp_path.glob("search/*"))


def test_studies_of_one_model_have_names_and_files_of_their_own(tmp_path):
    cells = [
        Cell.of(compose("data=sample", *words), tmp_path, words)
        for words in (("model=hrm", "scale=1"), ("model=hrm", "scale=2"))
    ]
    declared = Search(trials=1, seed=1, space={"learning_rate": {"low": 0.001, "high": 0.1}})
    for cell in cells:
        cell.config.data.validation_start = 500
    studies = search.studies_of(declared, cells, lambda _: cells[0])
    assert [study.name for study in studies] == ["hrm seed 42 scale=1", "hrm seed 42 scale=2"]
    for study in studies:
        study.trials.append(Trial(values={"learning_rate": 0.01}, perplexity=9.0, cell=""))
    _, values_file = search.write(studies, declared, tmp_path)
    assert [*yaml.safe_load(values_file.read_text())["tuned"]] == ["hrm-seed-42-scale=1", "hrm-seed-42-scale=2"]
    written = [study["study"] for study in json.loads((tmp_path / "search.json").read_bytes())["studies"]]
    assert written == [study.name for study in studies]


def test_whole_numbers_are_searched_as_such_and_what_is_off_is_no_first_trial():
    space = {"batch_size": {"low": 2, "high": 8}, "budget": {"low": 10, "high": 20}}
    cell = Cell.of(compose("data=sample", "data.validation_start=500"), Path())
    (study,) = search.studies_of(Search(trials=1, seed=1, space=space), [cell], lambda _: cell)
    values = search._proposed_values(study.optimizer.ask(), space)
    assert all(type(each) is int for each in values.values())


CHOSEN = yaml.safe_load((conf_folder() / "tuned_values.yaml").read_text())["tuned"]
RECORD = json.loads((ROOT / "results" / "search.json").read_bytes())


@pytest.mark.parametrize("study", RECORD["studies"], ids=lambda study: study["study"])
def test_the_tuned_recipe_of_each_model_has_the_values_of_its_best_trial(study):
    model = study["study"].split()[0]
    best = min(study["trials"], key=lambda trial: trial["perplexity"])
    cfg = compose("data=sample", f"model={model}", "recipe=tuned")
    assert {key: cfg.recipe[key] for key in best["values"]} == best["values"]
    assert build(cfg).training


def test_every_model_of_the_results_had_as_many_trials_in_the_space_that_conf_declares():
    declared = OmegaConf.load(conf_folder() / "experiment" / "tuning.yaml").hydra.sweeper
    assert RECORD["space"] == OmegaConf.to_container(declared.search.space)
    assert {len(study["trials"]) for study in RECORD["studies"]} == {declared.search.trials}
    models = {study["study"].split()[0] for study in RECORD["studies"]}
    results = OmegaConf.load(conf_folder() / "experiment" / "recipes.yaml").hydra.sweeper.params
    assert models == set(results.model.split(","))
    assert models <= CHOSEN.keys()
