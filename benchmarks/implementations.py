"""The code that is timed: a model's training step and evaluation, by the package and by the reference."""

from collections.abc import Callable
from typing import NamedTuple

import reference.training
import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.settings import Batch
from benchmarks.timing import Device
from hrm_bench.charlm import CharLM
from hrm_bench.objectives import task_loss
from hrm_bench.training.bare import without_trainer
from hrm_bench.training.build import build


class Implementation(NamedTuple):
    """One implementation of a model; training starts from the config's weights and leaves those of ``score`` alone."""

    train: Callable[[Batch], Tensor]  # one training step per segment on one batch of windows; returns the loss
    score: Callable[[Batch], Tensor]  # the mean loss of one batch of windows, nats per character


def package(config: DictConfig, device: Device, *, compiled: bool = False) -> Implementation:
    """Return the package's model without a Trainer, with its training compiled as in a long cell."""
    trained, scored = build(config).to(device.type), build(config).to(device.type).eval()
    if compiled:
        torch.compiler.reset()  # the compiler gives up on a function that it has compiled for many models
        trained.compile_training(config.recipe.batch_size)
    train = without_trainer(trained)
    return Implementation(lambda batch: train(batch).losses[-1], lambda batch: score(scored, batch))


def reference_of(config: DictConfig, device: Device) -> Implementation:
    """Return the reference implementation with the same weights."""
    parameters = dict(build(config).to(device.type).named_parameters())
    trained, scored = (reference.training.reference(config, parameters) for _ in range(2))
    return Implementation(lambda batch: trained.train(*batch), lambda batch: scored.score(*batch))


@torch.no_grad()
def score(model: CharLM, batch: Batch) -> Tensor:
    """Return the mean loss of one window per lane, nats per character."""
    tokens, targets = batch
    return task_loss(model(tokens)[0], targets)


def check_equal(
    implementations: dict[str, Implementation], trained: Batch, scored: Batch, *, within: float = 1e-5
) -> None:
    """Let each implementation train on one batch and score another.

    Raises ArithmeticError if a loss differs from the first implementation's, since then no speed can be compared.
    """
    losses = {}
    for name, implementation in implementations.items():
        torch.manual_seed(0)  # for random initial states
        losses[name] = (float(implementation.train(trained)), float(implementation.score(scored)))
    first = next(iter(losses.values()))
    for name, values in losses.items():
        if any(abs(value - expected) > within for value, expected in zip(values, first, strict=True)):
            raise ArithmeticError(f"the losses of {name}, {values}, differ from the first ones, {first}")
