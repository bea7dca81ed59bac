"""Optimizers: their settings, their parameter groups and the course of their learning rate.

A progress is the fraction of training that is completed, from 0 to 1.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

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
    other: type[torch.optim.Optimizer] | None = None  # instead of it: a class of anyone's, called with groups and lr
    schedule: Literal["warmup_cosine"] = "warmup_cosine"


Groups = list[dict[str, Any]]  # of parameters, each with its own weight decay and learning rate


def adamw(groups: Groups, learning_rate: float, matrices: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """Return AdamW (arXiv 1711.05101) with PyTorch's betas, 0.9 and 0.999."""
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def adam(groups: Groups, learning_rate: float, matrices: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """Return Adam (arXiv 1412.6980) with PyTorch's betas; weight decay is a part of the gradient."""
    return torch.optim.Adam(groups, lr=learning_rate, fused=True)


def sgd(groups: Groups, learning_rate: float, matrices: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """Return stochastic gradient descent with a momentum of 0.9; weight decay is a part of the gradient."""
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)


def lion(groups: Groups, learning_rate: float, matrices: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """Return Lion (arXiv 2302.06675), in a PyTorch that has it."""
    kind: Any = torch.optim.Lion  # type: ignore[attr-defined]
    return cast(torch.optim.Optimizer, kind(groups, lr=learning_rate))


def muon(groups: Groups, learning_rate: float, matrices: Collection[nn.Parameter]) -> torch.optim.Optimizer:
    """Return Muon (kellerjordan.github.io/posts/muon) for these matrices, and AdamW for all other parameters.

    Muon's steps are scaled to the size of AdamW's (arXiv 2502.16982, section 2.2): one learning rate suits both.
    """
    chosen = set(matrices)
    of_matrices, of_others = (
        [
            group | {"params": some}
            for group in groups
            if (some := [parameter for parameter in group["params"] if (parameter in chosen) == is_matrix])
        ]
        for is_matrix in (True, False)
    )
    members = [adamw(of_others, learning_rate, ())] if of_others else []
    if of_matrices:
        members.insert(0, torch.optim.Muon(of_matrices, lr=learning_rate, adjust_lr_fn="match_rms_adamw"))
    return Together(members) if len(members) > 1 else members[0]


class Together(torch.optim.Optimizer):
    """Several optimizers of different parameters that take their steps at the same time."""

    def __init__(self, members: Sequence[torch.optim.Optimizer]) -> None:
        self.members = members
        groups = [group for member in members for group in member.param_groups]
        super().__init__([{**group} for group in groups], {})
        self.param_groups = groups  # the members' own, so that a schedule reaches them

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for member in self.members:
            member.step()

    def state_dict(self) -> dict[str, Any]:
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for member, state in zip(self.members, state_dict["members"], strict=True):
            member.load_state_dict(state)
        self.param_groups = [group for member in self.members for group in member.param_groups]


def warmup_cosine(settings: OptimizerSettings, progress: float) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to the final fraction."""
    if progress < settings.warmup:
        return progress / settings.warmup
    after_warmup = (progress - settings.warmup) / (1 - settings.warmup) if settings.warmup < 1 else 0.0
    cosine = (1 + math.cos(math.pi * min(1.0, after_warmup))) / 2
    return settings.final_learning_rate + (1 - settings.final_learning_rate) * cosine


OPTIMIZERS: dict[str, Callable[[Groups, float, Collection[nn.Parameter]], torch.optim.Optimizer]] = {
    **{"adamw": adamw, "adam": adam, "sgd": sgd},
    **{"lion": lion, "muon": muon},
}
SCHEDULES: dict[str, Schedule] = {"warmup_cosine": warmup_cosine}


def optimizer(
    settings: OptimizerSettings,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float | None = None,
    gates: Collection[nn.Parameter] = (),
    matrices: Collection[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """Return a fresh optimizer of these parameters, of the kind that the settings name.

    Args:
        settings: what holds for all parameters.
        parameters: those to train, in their order.
        learning_rate: instead of the settings' own.
        gates: parameters among these that may have a learning rate of their own.
        matrices: the weights of the layers between embedding and head, for optimizers that treat these by themselves.
    """
    learning_rate = settings.learning_rate if learning_rate is None else learning_rate
    groups = parameter_groups(settings, parameters, learning_rate=learning_rate, gates=gates)
    if settings.other is not None:
        build: Any = settings.other
        return cast(torch.optim.Optimizer, build(groups, lr=learning_rate))
    return OPTIMIZERS[settings.name](groups, learning_rate, matrices)


def parameter_groups(
    settings: OptimizerSettings,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    gates: Collection[nn.Parameter] = (),
) -> Groups:
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
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])  # of an optimizer made elsewhere
