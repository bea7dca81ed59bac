"""A sweep's cases: lists of words that every combination of the sweep's lists is crossed with."""

import re

import pytest
from commands import hrm_bench
from conftest import QUICK
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from hrm_bench.cells.cell import Cell
from hrm_bench.config.compose import compose
from hrm_bench.config.identity import cell_name
from hrm_bench.config.words import conf_folder, quoted
from hrm_bench.data import corpora
from hrm_bench.records import store

CASES = "hydra.sweeper.cases=[[],['model.name=wide','recipe.weight_decay=1']]"


def test_cases_are_crossed_with_lists_and_run_as_they_were_planned(tmp_path):
    words = ["-m", *QUICK, "recipe.max_epochs=1", "logger=none", CASES, "recipe.learning_rate=0,1"]
    done = hrm_bench(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = list(store.read_all(tmp_path / "multirun" / "custom"))
    recipes = [record["config"]["recipe"] for record in records]
    assert {(record["model"], recipe["learning_rate"]) for record, recipe in zip(records, recipes, strict=True)} == {
        (model, rate) for model in ("hrm", "wide") for rate in (0.0, 1.0)
    }
    assert {recipe["weight_decay"] for recipe in recipes} == {0.01, 1.0}
    assert all(type(recipe[key]) is float for recipe in recipes for key in ("learning_rate", "weight_decay"))


def planned(*words, cwd):
    """Return the folders of the cells of a sweep that is not run."""
    done = hrm_bench("-m", "data=sample", "plan=true", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return re.findall(r"\w+(?:-\w+)*-seed\d+-[0-9a-f]{12}", done.stdout)


def test_a_word_of_the_command_wins_over_the_cases_and_equal_cells_are_one(tmp_path):
    cases = "hydra.sweeper.cases=[['recipe.budget=1000'],['recipe.budget=2000'],['seed=7']]"
    folders = planned(cases, "recipe.budget=500", "seed=1,2", cwd=tmp_path)
    assert len(folders) == 2
    assert {folder.split("-")[1] for folder in folders} == {"seed1", "seed2"}


@pytest.mark.parametrize("word", ["recipe.max_epochs=3", "recipe.max_epochs=${seed}"])
def test_seeds_that_are_planned_together_are_the_cells_that_they_are_alone(word, tmp_path):
    folders = planned("model=hrm_memory", "memory=carry", word, "seed=3,4,0005,6", cwd=tmp_path)
    fingerprint = corpora.load(compose("data=sample").data).fingerprint
    assert folders == [
        cell_name(compose("data=sample", "model=hrm_memory", "memory=carry", word, f"seed={seed}"), fingerprint)
        for seed in (3, 4, 5, 6)
    ]


def test_a_cell_of_another_seed_is_as_if_composed_by_itself(tmp_path):
    first, second = (
        Cell.of(compose("data=sample", "model=hrm", "recipe=tuned", word), tmp_path, ["model=hrm", word])
        for word in ("seed=1", "seed=2")
    )
    again = first.reseeded(2, ["model=hrm", "seed=2"])
    assert again.config == second.config
    assert first.config.seed == 1
    for name in ("values", "but_for_seed", "identity", "parts", "folder", "label", "overrides", "memory"):
        assert getattr(again, name) == getattr(second, name), name


def test_a_fault_in_a_case_is_one_line(tmp_path):
    done = hrm_bench("-m", "data=sample", "hydra.sweeper.cases=[['recipe.budgt=3'],[]]", cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"hrm_bench: recipe\.budgt: no such key; .*did you mean recipe\.budget\?\n", done.stderr)


def has_text(path):
    """Whether an experiment names its text, itself or by the experiment that it begins with."""
    defaults = OmegaConf.load(path).get("defaults", [])
    begins_with = [
        path.with_name(f"{entry}.yaml") for entry in defaults if isinstance(entry, str) and entry != "_self_"
    ]
    return any("override /data" in entry for entry in defaults) or any(map(has_text, begins_with))


@pytest.mark.parametrize("path", sorted((conf_folder() / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_case_of_an_experiment_composes_to_cells_of_its_own(path):
    content = OmegaConf.load(path)
    sweeper = content.get("hydra", {}).get("sweeper", {})
    text = [] if has_text(path) else ["data=sample"]
    params = [f"{key}={str(values).split(',')[0]}" for key, values in sweeper.get("params", {}).items()]
    cases = sweeper.get("cases", [[]])
    names = set()
    for case in cases:
        keys = {word.split("=")[0] for word in case}
        words = [word for word in params if word.split("=")[0] not in keys]
        cfg = compose(f"experiment={path.stem}", *text, *words, *case)
        names.add(cell_name(cfg, corpora.load(cfg.data).fingerprint))
    assert len(names) == len(cases)


@pytest.mark.parametrize("text", ['q"x', "a'b", "${nope}", "$a b", "tail\\", '\\"', "\\${x}", "[1,2]={c}"])
def test_a_path_of_any_signs_reaches_a_job_as_it_is(text):
    override = OverridesParser.create().parse_override(f"++hydra.job.env_set.HERE={quoted(text)}")
    cfg = OmegaConf.create({"value": override.value()})
    assert cfg.value == text


def test_what_is_read_as_spaces_is_said_before_training(tmp_path):
    (tmp_path / "greek.txt").write_text("αβγδ ab" * 300, encoding="utf-8")
    words = ["data=text_file", "data.path=greek.txt", "model=lstm", "plan=true", "logger=none"]
    limits = [f"data.{split}_chars=null" for split in ("train", "validation", "test")]
    line = "data.path=greek.txt: 57.1 % of train, 57.1 % of validation, 57.1 % of test characters are not in"
    refused = hrm_bench(*words, *limits, cwd=tmp_path)
    assert refused.returncode == 2
    assert line in refused.stderr
    assert "'α' 'β' 'γ' 'δ'" in refused.stderr
    assert "allow it with data.most_unknown=0.58" in refused.stderr
    done = hrm_bench(*words, *limits, "data.most_unknown=0.58", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert line in done.stderr
    (tmp_path / "plain.txt").write_text("abcd ab" * 300, encoding="utf-8")
    done = hrm_bench(*words, "data.path=plain.txt", *limits, cwd=tmp_path)
    assert "vocabulary" not in done.stderr


def test_a_terminal_without_a_sign_shows_the_rest(tmp_path):
    done = hrm_bench("-m", *QUICK, "recipe.max_epochs=1", "logger=none", "model=hrm", "seed=1,2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = hrm_bench(
        "multirun/custom", module="hrm_bench.report", cwd=tmp_path, forked=False, PYTHONIOENCODING="ascii"
    )
    assert shown.returncode == 0, shown.stderr
    assert "hrm" in shown.stdout
