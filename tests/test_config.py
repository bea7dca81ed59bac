"""Every config composes and builds; faults are reported together, with key, value, what is allowed and what to type."""

import importlib.util
import json
import re
import sys
import threading

import hydra
import pytest
import torch
from conftest import MODELS, ROOT
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.config import compose as composition
from hrm_bench.config.compose import check, completed, not_searched
from hrm_bench.config.identity import OFF, cell_name, identity
from hrm_bench.config.words import conf_folder
from hrm_bench.data import sources
from hrm_bench.errors import UsageError
from hrm_bench.training.build import load_windows

FILES = sorted(path.relative_to(conf_folder()) for path in conf_folder().glob("*/*.yaml"))
GROUPS = {"model", "objective", "memory", "data", "recipe", "trainer", "logger", "launcher", "experiment"}


def test_every_group_has_configs_and_conf_stays_small():
    assert {path.parent.name for path in FILES} == GROUPS
    assert len([path for path in conf_folder().rglob("*") if path.is_file()]) <= 90


LOGGERS = {"mlflow", "tensorboard"}  # that need a package of their own
# Sizes of vocabularies: 26 keys, 26 values and a full stop; two elements; all letters and 9 digits; = and . in both.
TASKS = {"recall": 53, "controls": 53, "text_twice": 97, "state_tracking": 4, "pointer_chase": 63}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_config_file_composes_and_builds(path, tmp_path, monkeypatch):
    words = [f"{path.parent}={path.stem}"]
    if path.parent.name != "data" and path.stem not in TASKS:  # an experiment on a task has its name
        words.append("data=sample")
    if path.stem in ("text_file", "enwik8", "text8", "hub"):
        name = "train.txt" if path.stem == "hub" else "mine.txt"
        (tmp_path / name).write_text("some text " * 500, encoding="utf-8")
        words += (
            [f"data.path={tmp_path}", "data.splits=[train]"] if path.stem == "hub" else [f"data.path={tmp_path / name}"]
        )
    if path.stem == "text_twice":
        words.append("data.task.text=sample")
    if path.stem == "mlflow":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    if path.parent.name == "logger" and path.stem in LOGGERS and importlib.util.find_spec(path.stem) is None:
        with pytest.raises(UsageError, match=f"logger={path.stem}: needs {path.stem}, which is not installed"):
            hrm_bench.compose(*words)
        return
    if path.stem == "gpu" and not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"trainer\.accelerator=gpu: no GPU is available"):
            hrm_bench.compose(*words)
        return
    cfg = hrm_bench.compose(*words)
    size = {"bytes": 256, "characters": len(set("some text ")) + 1}.get(cfg.data.vocabulary, 97)
    size = TASKS.get(path.stem, size)
    assert hrm_bench.build(cfg).head.weight.shape[0] == size
    if path.stem not in sources.HUB_CONFIGS:
        assert load_windows(cfg).train.num_windows > 0


@pytest.mark.parametrize("path", [*FILES, "config.yaml", "tuned_values.yaml"], ids=str)
def test_every_config_file_says_what_it_is(path):
    lines = (conf_folder() / path).read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("# ") and "@package" not in line for line in lines), f"{path} has no comment"


BASIC = ["data/wikitext2", "memory/reset", "recipe/published", "trainer/cpu", "logger/wandb", "model/hrm", "model/trm"]


@pytest.mark.parametrize("path", BASIC)
def test_every_key_of_a_basic_config_has_a_comment(path):
    lines = (conf_folder() / f"{path}.yaml").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\w+:", line) and " # " not in line] in ([], [lines[2]])


FAULTS = {
    "model=foo": r"model=foo: no such choice; allowed are .*hrm, ",
    "modell=hrm": r"modell: no such key; the config has model, .*did you mean model\?",
    "recipe.max_epoch=3": r"recipe\.max_epoch: no such key; recipe has .*did you mean recipe\.max_epochs\?",
    "+recipe.foo=3": r"recipe\.foo: no such key; recipe has ",
    "+foo=3": r"foo: no such key; the config has ",
    "model.widht=3": r"model\.widht: no such key; .*did you mean model\.width\?",
    "model.num_cycle=3": r"model\.num_cycle: no such key; model=hrm has width, .*did you mean model\.num_cycles\?",
    "+model.foo=3": r"model\.foo: no such key; model=hrm has width, .*",
    "+model.objective.foo=3": r"model\.objective\.foo: no such key",
    "recipe.max_epochs=abc": r"recipe\.max_epochs=abc: must be a whole number",
    "recipe.max_epochs=0": r"recipe\.max_epochs=0: must be at least 1",
    "recipe.max_epochs=null": r"recipe\.max_epochs=null: must not be null",
    "recipe.learning_rate=-1": r"recipe\.learning_rate=-1: must be at least 0 .*; try recipe\.learning_rate=1\.0$",
    "learning_rate=-1": r"learning_rate: no such key; .*; did you mean recipe\.learning_rate\?",
    "recipe.gradient_clip=0": r"recipe\.gradient_clip=0: must be above 0; null .*: recipe\.gradient_clip=null",
    "model=hmr": r"model=hmr: no such choice; .*; did you mean hrm\?",
    "data.path=mine.txt": r"data\.path=mine\.txt: data=sample is the bundled text; .* add data=text_file",
    "+experiment.baseline.modl=hrm": r"experiment\.baseline\.modl=hrm: takes model, memory .*did you mean model\?",
    "hydra.sweep.subdir=x": r"hydra\.sweep\.subdir=x: .* cannot be changed",
    "hydra.job.chdir=true": r"hydra\.job\.chdir=true: .* cannot be changed",
    "hydra/sweeper=basic": r"hydra/sweeper=basic: .* cannot be changed",
    "+hydra.sweeper.params.seed=1": r"\+hydra\.sweeper\.params\.seed=1: .* type lists as key=a,b,c",
    "~model": r"~model: every cell has model; choose another",
    "recipe.learning_rate=true": r"recipe\.learning_rate=true: must be a number",
    "recipe.warmup=2": r"recipe\.warmup=2: must be from 0 to 1; try recipe\.warmup=1",
    "recipe.max_epochs=2.5": r"recipe\.max_epochs=2\.5: must be a whole number",
    "recipe.max_epochs=[1,2]": r"recipe\.max_epochs=\[1, 2\]: must be a whole number",
    "recipe.name=../mine": r"recipe\.name=\.\./mine: names a folder",
    "experiment.name=null": r"experiment\.name=null: names a folder",
    "experiment.baseline=hrm": r"experiment\.baseline=hrm: must be a group of settings",
    "force=maybe": r"force=maybe: must be true or false",
    "data.path=true": r"data\.path=true: must be text",
    "logger.project=null": r"logger\.project=null: must not be null",
    "recipe.learning_rate=nan": r"recipe\.learning_rate=nan: must be at least 0 and finite",
    "seed=x": r"seed=x: must be a whole number",
    "memory.mode=forget": r"memory\.mode=forget: allowed are none, reset, carry; try memory\.mode=none",
    "memory.write=afterwindow": r"memory\.write=afterwindow: allowed are .*; try memory\.write=after_window",
    "memory.rule=foo": r"memory\.rule=foo: allowed are linear, delta",
    "memory.bind=next": r"memory\.bind=next: allowed are same, previous",
    "memory.features=l1": r"memory\.features=l1: allowed are elu, l2",
    "memory.tie=maybe": r"memory\.tie=maybe: must be true or false",
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
    "~seed": r"~seed: every cell has seed; choose another with seed=VALUE",
    "~recipe.batch_size": r"recipe\.batch_size: missing; give recipe\.batch_size=VALUE",
    "~model.name": r"model\.name: missing; give model\.name=VALUE",
    "model.name=null": r"model\.name=null: names a folder",
    "model.objective=null": r"model\.objective=null: must name a class; try objective=deep_supervision",
    "model.objective=deep": r"model\.objective=deep: must name a class; try objective=deep_supervision",
    "~model.objective": r"model\.objective=null: must name a class; try objective=deep_supervision",
    "objective=deep": r"objective=deep: no such choice; allowed are deep_supervision, last_segment, oacd",
    "~model._target_": r"model\._target_: must name a class; try model=hrm",
    "model._target_=os.path.join": r"model\._target_=os\.path\.join: must be a subclass of hrm_bench\.charlm\.CharLM",
    "model=3": r"model=3: no such choice; allowed are .*hrm, ",
    "model=null": r"model=null: no such choice; allowed are .*hrm, ",
    "model=[hrm,lstm]": r"model=\[hrm,lstm\]: no such choice; allowed are .*hrm, ",
    "recipe.gradient_depth=3": r"recipe\.gradient_depth=3: .* = 2 steps; try recipe\.gradient_depth=2",
    "~foo": r".*foo",
    "data=text_file": r"data\.path=null: data=text_file reads a file; give data\.path=FILE",
    "recipe.distillation=0.1": r"recipe\.distillation=0\.1: times recipe\.batch_size=\d+ is .*; try recipe\.dist",
    "recipe.max_epochs": r"recipe\.max_epochs: not understood; write key=value",
    "=3": r"=3: not understood; write key=value",
    "hydra/launcher=3": r"hydra/launcher=3: no such choice",
    "model=hrm,infini_hrm": r"model=hrm,infini_hrm: several values are a sweep, which takes -m",
}


@pytest.mark.parametrize(("word", "line"), FAULTS.items())
def test_a_fault_is_one_line(word, line):
    with pytest.raises(UsageError) as caught:
        hrm_bench.compose(*([] if word == "data=text_file" else ["data=sample"]), word)
    assert re.match(line, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        UsageError, match=r"trainer\.accelerator=gpu: no GPU is available .*try trainer\.accelerator=cpu"
    ):
        hrm_bench.compose("data=sample", "trainer.accelerator=gpu")


def test_all_faults_are_reported_together():
    with pytest.raises(UsageError) as caught:
        hrm_bench.compose("model.num_heads=5", "memory.mode=foo", "recipe.batch_size=0", "+trainer.foo=1", "seed=-1")
    assert sorted(re.match(r"[\w.]+", line)[0] for line in caught.value.faults) == [
        "memory.mode",
        "model.num_heads",
        "recipe.batch_size",
        "seed",
        "trainer.foo",
    ]


def test_all_wrong_arguments_of_a_model_are_reported_together():
    words = ["model.num_heads=0", "model.causal=1", "+model.foo=1", "+model.objective.foo=1"]
    with pytest.raises(UsageError) as caught:
        hrm_bench.compose("data=sample", *words)
    assert {re.match(r"[\w.]+", line)[0] for line in caught.value.faults} == {
        word.split("=")[0].strip("+") for word in words
    }


def named(*overrides, fingerprint="f"):
    return identity(hrm_bench.compose("data=sample", *overrides), fingerprint)


def test_a_whole_number_and_the_same_float_of_a_model_are_one_cell():
    assert named("model=lct_1layer", "model.state_std=1") == named("model=lct_1layer", "model.state_std=1.0")
    assert named("model=lct_1layer", "model.state_std=1") != named("model=lct_1layer", "model.state_std=2")


def test_the_identity_covers_what_can_change_a_figure_and_nothing_else():
    usual = named()
    for different in (
        ["seed=7"],
        ["model.width=32"],
        ["objective=oacd"],
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
    ):
        assert named(*same) == usual, same


def test_memory_modes_are_one_cell_where_there_is_no_memory():
    assert named("memory=reset") == named("memory=carry") == named("memory=none")
    ours = {named("model=infini_hrm", f"memory={mode}") for mode in ("reset", "carry", "none")}
    assert len(ours) == 3
    assert named("model=infini_hrm", "memory=none", "memory.rule=delta") == named("model=infini_hrm", "memory=none")
    for word in ("memory.bind=previous", "memory.features=l2", "memory.tie=true"):
        assert named("model=infini_hrm", word) not in ours
        none = named("model=infini_hrm", "memory=none", word) == named("model=infini_hrm", "memory=none")
        assert none == (word != "memory.tie=true")  # which has fewer weights even if nothing is ever written
        assert named(word) == named()
    four = ["objective=through_time", "data.windows_per_sample=4"]
    for model in ("hrm", "infini_hrm"):  # windows that share a step do so in every mode and model
        unrolled = [named(f"model={model}", "memory=none", *four, f"memory.unroll={n}") for n in (2, 4, "null")]
        assert len({*unrolled}) == 3


def test_the_lstm_is_a_cell_of_its_own_only_where_a_window_can_follow_another():
    plain, four = named("model=lstm"), "data.windows_per_sample=4"
    assert named("model=lstm", "memory=none") == plain  # the default is reset, with one window per sample
    others = [named("model=lstm", *words) for words in (["memory=carry"], [four], [four, "memory=none"])]
    assert len({plain, *others}) == 4


def test_a_cell_is_named_after_what_it_is():
    cfg = hrm_bench.compose("data=sample", "model=infini_hrm", "memory=carry", "seed=3")
    assert re.fullmatch(r"infini_hrm-carry-seed3-[0-9a-f]{12}", cell_name(cfg, "f"))
    assert re.fullmatch(r"hrm-seed42-[0-9a-f]{12}", cell_name(hrm_bench.compose("data=sample"), "f"))


# Identities that the code computed when OmegaConf's structured configs converted the values. They must never change.
LITERALS = json.loads((ROOT / "tests" / "identities.json").read_text())


@pytest.mark.parametrize("words", LITERALS)
def test_the_identity_of_converted_values_is_as_it_always_was(words):
    assert named(*words.split()) == LITERALS[words]


def test_values_have_the_type_of_their_field():
    cfg = hrm_bench.compose(
        "data=sample", "recipe.learning_rate=1", "recipe.max_epochs='7'", "recipe.budget=1e6", "force=1"
    )
    assert [type(cfg.recipe[key]) for key in ("learning_rate", "max_epochs", "budget")] == [float, int, int]
    assert cfg.force is True
    cfg.recipe.learning_rate = 1  # as a notebook may set it
    assert identity(cfg, "f") == named("recipe.learning_rate=1.0", "recipe.max_epochs=7", "recipe.budget=1000000")


def test_an_option_that_a_config_lacks_is_off():
    cfg = hrm_bench.compose("data=sample")
    older = OmegaConf.to_container(cfg)
    for group in ("recipe", "trainer"):
        for key in OFF[group]:
            older[group].pop(key)
    for key in ("scale", "force", "fail_fast", "plan"):
        older.pop(key)
    assert OmegaConf.to_container(completed(older)) == OmegaConf.to_container(cfg)
    checked = OmegaConf.create(older)
    check(checked)
    assert OmegaConf.to_container(checked) == OmegaConf.to_container(cfg)


@pytest.mark.parametrize("objective", ["deep_supervision", "last_segment", "oacd"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes_with_every_objective(model, objective):
    chosen = hrm_bench.compose("data=sample", f"model={model}", f"objective={objective}").model.objective
    alone = hrm_bench.compose("data=sample", "model=trm", f"objective={objective}").model.objective
    assert chosen == alone


def test_a_model_chooses_its_objective_unless_the_command_does(tmp_path):
    objectives = {name: hrm_bench.compose("data=sample", f"model={name}").model.objective._target_ for name in MODELS}
    others = {name: target for name, target in objectives.items() if not target.endswith("DeepSupervision")}
    assert set(others) == {"hrm_last_segment", "lct_1layer", "lct_2layer"}


def test_a_model_without_values_of_its_own_takes_those_chosen_by_hand():
    words = ["data=sample", "model=lct_2layer_task", "model.name=mine"]
    tuned, by_hand = (hrm_bench.compose(*words, f"recipe={name}") for name in ("tuned", "tuned_by_hand"))
    assert {**tuned.recipe, "name": ""} == {**by_hand.recipe, "name": ""}
    assert not_searched(by_hand) is None
    note = not_searched(tuned)
    assert note.startswith("recipe=tuned: no search was made for model=mine, so it takes the values of ")
    assert "experiment=tuning model=mine" in note
    assert not_searched(hrm_bench.compose("data=sample", "recipe=tuned", "recipe.learning_rate=1")) is None


def test_the_order_of_the_defaults_does_not_matter(tmp_path, monkeypatch):
    expected = hrm_bench.compose("data=sample", "model=lstm", "recipe=tuned")
    for path in conf_folder().rglob("*.yaml"):
        copy = tmp_path / path.relative_to(conf_folder())
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    recipe = "  - recipe: published\n"
    assert recipe in text
    text = text.replace(recipe, "").replace("defaults:\n", f"defaults:\n{recipe}")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(composition, "conf_folder", lambda: tmp_path)
    assert hrm_bench.compose("data=sample", "model=lstm", "recipe=tuned") == expected


def test_compose_works_inside_another_hydra_program(tmp_path):
    (tmp_path / "other.yaml").write_text("key: value")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert hrm_bench.compose("data=sample", "seed=3").seed == 3
        assert hydra.compose("other") == {"key": "value"}


def test_compose_works_in_threads():
    seeds = {}
    threads = [
        threading.Thread(target=lambda n=n: seeds.update({n: hrm_bench.compose("data=sample", f"seed={n}").seed}))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seeds == {n: n for n in range(6)}


OWN = """
from dataclasses import dataclass
from hrm_bench.charlm import CharLM
from hrm_bench.errors import ConfigFault

class Own(CharLM):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        width: int
        depth: int | None
        rate: float

        def __post_init__(self):
            if self.width % 2:
                raise ConfigFault("width", f"model.width={self.width}: must be even; try model.width={self.width + 1}")

class Bare(CharLM):
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The words for a model from a file outside the package."""
    (tmp_path / "own_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_model", raising=False)
    settings = {"width": 4, "depth": None, "rate": 1}
    cfg = hrm_bench.compose("data=sample")
    OmegaConf.set_struct(cfg, False)
    cfg.model = {"name": "own", "_target_": "own_model.Own", "objective": cfg.model.objective, **settings}
    return cfg


OWN_FAULTS = [
    ({}, None),
    ({"width": 3}, r"model\.width=3: must be even; try model\.width=4"),
    ({"width": 3.0}, r"model\.width=3\.0: must be a whole number"),
    ({"depth": 0}, r"model\.depth=0: must be at least 1"),
    ({"rate": -1}, r"model\.rate=-1: must be at least 0"),
    ({"objective": {}}, r"model\.objective\._target_: must name a class; try objective=deep_supervision"),
    ({"_target_": "own_model.Bare"}, r"model\._target_=own_model\.Bare: has no dataclass Config"),
    ({"_target_": "own_model.Nope"}, r"model\._target_=own_model\.Nope: cannot be imported"),
    ({"_target_": 3}, r"model\._target_: must name a class"),
]


@pytest.mark.parametrize(("values", "line"), OWN_FAULTS)
def test_a_model_of_ones_own_checks_its_values(own, values, line):
    own.model.update(values)
    if line is None:
        check(own)
        return
    with pytest.raises(UsageError, match=line) as caught:
        check(own)
    assert "\n" not in str(caught.value)


def test_a_model_without_an_objective_is_reported(own):
    del own.model["objective"]
    with pytest.raises(UsageError, match=r"^model\.objective=null: must name a class; try objective=deep_supervision$"):
        check(own)


def test_no_file_of_the_package_is_longer_than_340_lines():
    sources = list((ROOT / "hrm_bench").rglob("*.py"))
    assert sources
    assert {path.name: n for path in sources if (n := len(path.read_text().splitlines())) > 340} == {}


def test_models_of_the_reports_are_there():
    assert {"hrm", "hrm_memory", "infini_hrm", "lct_1layer", "lct_2layer"} <= set(MODELS)


def test_a_folder_of_configs_is_read_beside_conf(tmp_path):
    mine = tmp_path / "data" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("defaults: [sample, _self_]\nwindow: 7\n")
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"]):
        assert hrm_bench.compose("seed=3", *words, "data=mine").data.window == 7
    for words in (["--config-dir"], ["--config-dir", "nowhere", "data=sample"]):
        with pytest.raises(UsageError, match=r"--config-dir=.*no such folder"):
            hrm_bench.compose(*words)
