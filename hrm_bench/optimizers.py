"""Optimizers: their settings, their parameter groups and the course of their learning rate.

A progress is the fraction of training that is completed, from 0 to 1.
"""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Schedule = Callable[["OptimizerSettings", float], float]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The values that an optimizer is built with, and the clipping before each of its steps."""

    learning_rate: float
    weight_decay: float
    gradient_clip: float | None  # largest norm of all gradients together; None: any
    gate_learning_rate: float | None = None  # of a memory's gates, which then have no weight decay; None: as the rest
    decayed: Literal["all", "matrices"] = "all"  # matrices: parameters of fewer than two axes have no weight decay
    warmup: float = 0.0  # fraction of training over which the learning rate rises linearly from 0
    final_learning_rate: float = 1.0  # fraction of the learning rate that is left at the end of training
    micro_batches: int = 1  # parts of a batch, which go through the model one after another and share an optimizer step
    name: str = "adamw"  # a key of OPTIMIZERS
    schedule: Literal["warmup_cosine"] = "warmup_cosine"


def adamw(groups: list[dict[str, object]], learning_rate: float) -> torch.optim.Optimizer:
    """Return AdamW (arXiv 1711.05101) with PyTorch's betas, 0.9 and 0.999."""
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def warmup_cosine(settings: OptimizerSettings, progress: float) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to the final fraction."""
    if progress < settings.warmup:
        return progress / settings.warmup
    after_warmup = (progress - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    cosine = (1 + math.cos(math.pi * min(1.0, after_warmup))) / 2
    return settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine


OPTIMIZERS: dict[str, Callable[[list[dict[str, object]], float], torch.optim.Optimizer]] = {"adamw": adamw}
SCHEDULES: dict[str, Schedule] = {"warmup_cosine": warmup_cosine}


def optimizer(
    settings: OptimizerSettings,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float | None = None,
    gates: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Return a fresh optimizer of these parameters, of the kind that the settings name.

    Args:
        settings: what holds for all parameters.
        parameters: those to train, in their order.
        learning_rate: instead of the settings' own.
        gates: parameters among these that may have a learning rate of their own.
    """
    learning_rate = settings.learning_rate if learning_rate is None else learning_rate
    groups = parameter_groups(settings, parameters, learning_rate=learning_rate, gates=gates)
    return OPTIMIZERS[settings.name](groups, learning_rate)


def parameter_groups(
    settings: OptimizerSettings,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    gates: Collection[nn.Parameter] = (),
) -> list[dict[str, object]]:
    """Return one group of parameters per weight decay and learning rate, in order of first appearance."""
    gate_rate = settings.gate_learning_rate
    separate = set(gates) if gate_rate is not None else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        is_separate = parameter in separate
        exempt = is_separate or (settings.decayed == "matrices" and parameter.ndim < 2)
        decay = 0.0 if exempt else settings.weight_decay
        rate = gate_rate if gate_rate is not None and is_separate else learning_rate
        groups.setdefault((decay, rate), []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, "lr": rate, "initial_lr": rate}
        for (decay, rate), members in groups.items()
    ]


def set_learning_rates(
    settings: OptimizerSettings, optimizers: Iterable[torch.optim.Optimizer], progress: float
) -> None:
    """Give the optimizers the learning rates of this progress of training."""
    factor = SCHEDULES[settings.schedule](settings, progress)
    for group in (group for trained in optimizers for group in trained.param_groups):
        group["lr"] = factor * group["initial_lr"]
