"""Optimizers: the course of the learning rate, and which parameters share settings."""

import lightning
import pytest
import torch
from conftest import FEW, figures, quick, stopped_after
from torch import nn

import hrm_bench
from hrm_bench import optimizers
from hrm_bench.cells.run import run_cell
from hrm_bench.config import schema
from hrm_bench.config.identity import identity
from hrm_bench.errors import UsageError
from hrm_bench.optimizers import OptimizerSettings
from hrm_bench.training.build import optimizer_settings

LACKING = {name for name in ("lion", "muon") if not hasattr(torch.optim, name.title())}  # in this PyTorch
needs_muon = pytest.mark.skipif("muon" in LACKING, reason="this PyTorch has no Muon")
PLAIN = {"learning_rate": 0.01, "weight_decay": 0.1, "gradient_clip": 1.0}


def test_the_learning_rate_rises_linearly_then_falls_by_half_a_cosine():
    settings = OptimizerSettings(**PLAIN, warmup=0.2, final_learning_rate=0.1)
    factors = [optimizers.warmup_cosine(settings, progress) for progress in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1])
    assert optimizers.warmup_cosine(OptimizerSettings(**PLAIN), 0.7) == 1.0
    assert optimizers.warmup_cosine(OptimizerSettings(**PLAIN, warmup=1.0), 1.0) == 1.0


def test_parameters_of_one_decay_and_rate_share_a_group_in_order():
    matrix, norm, gate = (nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,), (2, 2)))
    settings = OptimizerSettings(**PLAIN, decayed="matrices", gate_learning_rate=0.5)
    groups = optimizers.parameter_groups(settings, [matrix, norm, gate], learning_rate=0.02, gates=[gate])
    assert [(len(group["params"]), group["weight_decay"], group["lr"]) for group in groups] == [
        (1, 0.1, 0.02),
        (1, 0.0, 0.02),
        (1, 0.0, 0.5),
    ]
    (group,) = optimizers.parameter_groups(OptimizerSettings(**PLAIN), [matrix, norm, gate], learning_rate=0.02)
    assert group["params"] == [matrix, norm, gate]


def test_a_schedule_scales_the_rate_that_each_group_began_with():
    weights = nn.Linear(2, 2)
    settings = OptimizerSettings(**PLAIN, final_learning_rate=0.5)
    fitted = [optimizers.optimizer(settings, weights.parameters(), learning_rate=rate) for rate in (0.01, 0.04)]
    for progress, factor in ((1.0, 0.5), (0.0, 1.0)):
        optimizers.set_learning_rates(settings, fitted, progress)
        assert [group["lr"] for optimizer in fitted for group in optimizer.param_groups] == pytest.approx(
            [0.01 * factor, 0.04 * factor]
        )


def test_every_optimizer_can_be_chosen_by_a_recipe():
    for name in {*optimizers.OPTIMIZERS} - LACKING:
        settings = optimizer_settings(hrm_bench.compose("data=sample", f"recipe.optimizer={name}"))
        assert settings.name == name
    with pytest.raises(UsageError, match=r"recipe\.optimizer=nope: allowed are"):
        hrm_bench.compose("data=sample", "recipe.optimizer=nope")


class Plain(torch.optim.SGD):
    """An optimizer of anyone's."""


class Counting(lightning.Callback):
    """A callback that counts batches, and may fail at one."""

    def __init__(self, fail_at=None):
        self.fail_at, self.seen = fail_at, 0

    def on_train_batch_end(self, *_):
        self.seen += 1
        if self.seen == self.fail_at:
            raise KeyError("no such batch")


def test_the_names_of_the_config_are_those_of_the_optimizers():
    assert set(schema.OPTIMIZERS) == set(optimizers.OPTIMIZERS)


@pytest.mark.parametrize("name", ["adam", "sgd", pytest.param("muon", marks=needs_muon), f"{__name__}.Plain"])
def test_an_optimizer_by_name_or_class_trains_is_audited_and_resumes_to_the_bit(name, tmp_path, monkeypatch):
    cfg = quick(*FEW, f"recipe.optimizer={name}", "recipe.warmup=0.5")
    record = run_cell(cfg, tmp_path / "undisturbed")
    assert record["status"] == "finished"
    assert record["gradient_coverage"]["head"] == ["task"]
    losses = [row["train_nll"] for row in record["history"]]
    assert losses[-1] < losses[0]
    assert record["identity"] != identity(quick(*FEW, "recipe.warmup=0.5"), "")
    with monkeypatch.context() as during:
        stopped_after(6, during)
        assert run_cell(cfg, tmp_path / "stopped")["status"] == "interrupted"
    assert figures(run_cell(cfg, tmp_path / "stopped")) == figures(record)


@needs_muon
def test_muon_takes_the_matrices_between_embedding_and_head_and_adamw_the_rest():
    model = hrm_bench.build(quick("recipe.optimizer=muon", "recipe.decayed=matrices"))
    (together,) = model.objective.optimizers(model)
    of_muon, of_adamw = ([p for group in member.param_groups for p in group["params"]] for member in together.members)
    assert {id(p) for p in of_muon} == {id(p) for p in model.matrices}
    assert all(parameter.ndim == 2 for parameter in of_muon)
    assert {id(model.head.weight), id(model.embedding.weight)} <= {id(p) for p in of_adamw}
    assert len(of_muon) + len(of_adamw) == len([*model.parameters()])
    model.objective.schedule([together], 1.0)
    assert {group["lr"] for member in together.members for group in member.param_groups} == {1e-3}


@pytest.mark.parametrize("name", ["lion", "muon"])
def test_an_optimizer_that_pytorch_lacks_is_refused(name, monkeypatch):
    monkeypatch.delattr(torch.optim, name.title(), raising=False)
    line = rf"recipe.optimizer={name}: PyTorch .* has no {name.title()}; try recipe.optimizer=adamw"
    with pytest.raises(UsageError, match=line):
        hrm_bench.compose("data=sample", f"recipe.optimizer={name}")


def test_a_class_that_is_no_optimizer_is_refused():
    with pytest.raises(UsageError, match=r"recipe.optimizer=torch.nn.Linear: must be a subclass of torch.optim.Opt"):
        hrm_bench.compose("data=sample", "recipe.optimizer=torch.nn.Linear")


def test_an_optimizer_made_elsewhere_has_its_own_rate_scheduled():
    made = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.5)  # without an initial_lr
    for progress, rate in ((1.0, 0.25), (1.0, 0.25)):
        optimizers.set_learning_rates(OptimizerSettings(**PLAIN, final_learning_rate=0.5), [made], progress)
        assert made.param_groups[0]["lr"] == rate


def test_a_callback_of_anyones_runs_is_part_of_the_cell_and_is_named_if_it_fails(tmp_path):
    counting = f"trainer.callbacks=[{__name__}.Counting]"
    failing = f"trainer.callbacks=[{{_target_: {__name__}.Counting, fail_at: 3}}]"
    records = [run_cell(quick(*FEW, *words), tmp_path) for words in ((), (counting,), (failing,))]
    assert [record["status"] for record in records] == ["finished", "finished", "failed"]
    assert len({record["identity"] for record in records}) == 3
    assert records[0]["history"][-1]["train_nll"] == records[1]["history"][-1]["train_nll"]
    assert records[2]["reason"] == "RuntimeError: callback Counting: KeyError: 'no such batch'"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("[torch.nn.Linear]", r"trainer.callbacks\[0\]._target_=torch.nn.Linear: must be a subclass of lightning"),
        ("[{every: 3}]", r"trainer.callbacks=.*: must be a list of classes"),
        ("mine.Callback", r"trainer.callbacks=mine.Callback: must be a list of classes"),
        (f"[{{_target_: {__name__}.Counting, every: 3}}]", r"Counting: cannot be made \(TypeError: .*every"),
    ],
)
def test_what_is_no_callback_is_refused(value, line):
    with pytest.raises(UsageError, match=line):
        hrm_bench.compose("data=sample", f"trainer.callbacks={value}")


def test_building_a_model_touches_no_gpu(monkeypatch):
    touched = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=0: touched.append(device))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
    before = torch.get_rng_state()
    hrm_bench.build(quick())
    assert not touched
    assert torch.equal(torch.get_rng_state(), before)
