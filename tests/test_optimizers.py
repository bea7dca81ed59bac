"""Optimizers: the course of the learning rate, and which parameters share settings."""

import pytest
import torch
from torch import nn

import hrm_bench
from hrm_bench import optimizers
from hrm_bench.errors import UsageError
from hrm_bench.optimizers import OptimizerSettings
from hrm_bench.training.build import optimizer_settings

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
    for name in optimizers.OPTIMIZERS:
        settings = optimizer_settings(hrm_bench.compose("data=sample", f"recipe.optimizer={name}"))
        assert settings.name == name
    with pytest.raises(UsageError, match=r"recipe\.optimizer=nope: allowed are"):
        hrm_bench.compose("data=sample", "recipe.optimizer=nope")
