"""Every config composes and builds; faults are told together, with key, value, what is allowed and what to type."""

import re

import pytest
import torch
from conftest import MODELS, ROOT

import hrm_bench
from hrm_bench.config.compose import conf_folder
from hrm_bench.config.identity import cell_name, identity
from hrm_bench.data import corpora
from hrm_bench.errors import UsageError
from hrm_bench.training.build import load_windows

FILES = sorted(path.relative_to(conf_folder()) for path in conf_folder().glob("*/*.yaml"))


def test_there_are_configs_in_every_room():
    rooms = {path.parent.name for path in FILES}
    assert rooms == {"model", "memory", "data", "recipe", "trainer", "logger", "launcher", "experiment"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_file_composes_and_builds(path, tmp_path):
    words = [f"{path.parent}={path.stem}"]
    if path.parent.name != "data":
        words.append("data=sample")
    if path.stem == "text_file":
        (tmp_path / "mine.txt").write_text("some text " * 500, encoding="utf-8")
        words.append(f"data.path={tmp_path / 'mine.txt'}")
    if path.stem == "gpu" and not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"trainer\.accelerator=gpu: no GPU is available"):
            hrm_bench.compose(*words)
        return
    cfg = hrm_bench.compose(*words)
    assert hrm_bench.build(cfg).head.weight.shape[0] == 97
    if path.stem not in corpora.HUB_CONFIGS:
        assert load_windows(cfg).train.num_windows > 0


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_file_says_what_it_is(path):
    lines = (conf_folder() / path).read_text().splitlines()
    comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
    assert comments, f"{path} has no comment"


FAULTS = {
    "model=foo": r"model=foo: no such choice; allowed are hrm, ",
    "modell=hrm": r"modell: no such key; the config has model, .*did you mean model\?",
    "recipe.max_epoch=3": r"recipe\.max_epoch: no such key; recipe has .*did you mean recipe\.max_epochs\?",
    "+recipe.foo=3": r"recipe\.foo: no such key; recipe has ",
    "+foo=3": r"foo: no such key; the config has ",
    "model.widht=3": r"model\.widht: no such key; .*did you mean model\.width\?",
    "+model.foo=3": r"model\.foo: no such key; model has width, .*",
    "+model.objective.foo=3": r"model\.objective\.foo: no such key",
    "recipe.max_epochs=abc": r"recipe\.max_epochs=abc: must be a whole number",
    "recipe.max_epochs=0": r"recipe\.max_epochs=0: must be at least 1",
    "recipe.max_epochs=null": r"recipe\.max_epochs=null: must not be null",
    "recipe.learning_rate=-1": r"recipe\.learning_rate=-1\.0: must be at least 0",
    "recipe.learning_rate=nan": r"recipe\.learning_rate=nan: must be at least 0 and finite",
    "seed=x": r"seed=x: must be a whole number",
    "memory.mode=forget": r"memory\.mode=forget: allowed are none, reset, carry; try memory\.mode=none",
    "memory.write=afterwindow": r"memory\.write=afterwindow: allowed are .*; try memory\.write=after_window",
    "memory.rule=foo": r"memory\.rule=foo: allowed are linear, delta",
    "data.order=random": r"data\.order=random: allowed are shuffled, contiguous",
    "model.update=both": r"model\.update=both: allowed are sequential, simultaneous",
    "model.causal=maybe": r"model\.causal=maybe: must be true or false",
    "model.width=wide": r"model\.width=wide: must be a whole number",
    "model.num_segments=0": r"model\.num_segments=0: must be at least 1",
    "model.periods=2": r"model\.periods=2: must be a list of whole numbers.*model\.periods=\[1,2\]",
    "model.periods=[1,0]": r"model\.periods=\[1, 0\]: must be a list",
    "model.periods=[1,3]": r"model\.periods=\[1, 3\]: each must divide .* = 2.*try model\.num_timesteps=3",
    "model.gradient_depth=3": r"model\.gradient_depth=3: .* = 2 steps; try model\.gradient_depth=2",
    "model.num_heads=5": r"model\.num_heads=5: must divide model\.width=64 .*try model\.num_heads=4",
    "model._target_=hrm_bench.models.hrm.Nope": r"model\._target_=.*Nope: cannot be imported",
    "~model.width": r"model\.width: missing; give model\.width=VALUE",
    "data=text_file": r"data\.path=null: data=text_file reads a file; give data\.path=FILE",
    "recipe.distillation=0.1": r"recipe\.distillation=0\.1: times recipe\.batch_size=\d+ is .*; try recipe\.dist",
    "recipe.max_epochs": r"recipe\.max_epochs: not understood; write key=value",
    "model=hrm,infini_hrm": r"model=hrm,infini_hrm: several values are a sweep, which takes -m",
}


@pytest.mark.parametrize(("word", "told"), FAULTS.items())
def test_a_fault_is_told_in_one_line(word, told):
    with pytest.raises(UsageError) as caught:
        hrm_bench.compose(*([] if word == "data=text_file" else ["data=sample"]), word)
    assert re.match(told, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        UsageError, match=r"trainer\.accelerator=gpu: no GPU is available .*try trainer\.accelerator=cpu"
    ):
        hrm_bench.compose("data=sample", "trainer.accelerator=gpu")


def test_all_faults_are_told_together():
    with pytest.raises(UsageError) as caught:
        hrm_bench.compose("model.num_heads=5", "model.gradient_depth=9", "memory.mode=foo", "recipe.batch_size=0")
    assert [line.split("=")[0] for line in caught.value.faults] == [
        "model.num_heads",
        "model.gradient_depth",
        "memory.mode",
        "recipe.batch_size",
    ]


def named(*overrides, fingerprint="f"):
    return identity(hrm_bench.compose("data=sample", *overrides), fingerprint)


def test_the_identity_covers_what_can_change_a_figure_and_nothing_else():
    usual = named()
    for different in (
        ["seed=7"],
        ["model.width=32"],
        ["model.objective._target_=hrm_bench.objectives.OriginAnchoredDispersion"]
        + [
            f"+model.objective.{key}=1"
            for key in ("body_learning_rate", "head_learning_rate", "head_steps", "anchor_weight")
        ],
        ["recipe.max_epochs=2"],
        ["data.window=32"],
        ["data.order=contiguous"],
        ["trainer.num_threads=2"],
    ):
        assert named(*different) != usual, different
    assert named(fingerprint="g") != usual
    for same in (
        ["logger=none"],
        ["logger.project=mine"],
        ["launcher=joblib"],
        ["experiment=hrm_vs_lct", "data=sample"],
        ["model.name=mine"],
        ["data.path=elsewhere"],
    ):
        assert named(*same) == usual, same


def test_memory_modes_are_one_cell_where_there_is_no_memory():
    assert named("memory=reset") == named("memory=carry") == named("memory=none")
    ours = {named("model=infini_hrm", f"memory={mode}") for mode in ("reset", "carry", "none")}
    assert len(ours) == 3
    assert named("model=infini_hrm", "memory=none", "memory.rule=delta") == named("model=infini_hrm", "memory=none")


def test_a_cell_is_named_after_what_it_is():
    cfg = hrm_bench.compose("data=sample", "model=infini_hrm", "memory=carry", "seed=3")
    assert re.fullmatch(r"infini_hrm-carry-seed3-[0-9a-f]{12}", cell_name(cfg, "f"))
    assert re.fullmatch(r"hrm-seed42-[0-9a-f]{12}", cell_name(hrm_bench.compose("data=sample"), "f"))


def test_no_file_of_the_package_is_longer_than_300_lines():
    sources = list((ROOT / "hrm_bench").rglob("*.py"))
    assert sources
    assert {path.name: n for path in sources if (n := len(path.read_text().splitlines())) > 300} == {}


def test_models_of_the_reports_are_there():
    assert {"hrm", "hrm_memory", "infini_hrm", "lct_1layer", "lct_2layer"} <= set(MODELS)
