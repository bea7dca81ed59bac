"""What is timed: a model's training step and its evaluation, ours and plain, without a Trainer."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from hrm_bench.bench import plain_training
from hrm_bench.bench.timing import Place
from hrm_bench.charlm import Batch, CharLM
from hrm_bench.training.build import build


class Subject(NamedTuple):
    """One implementation of a model. Both of its works begin with the same weights; only the first changes its own."""

    train: Callable[[Batch], Tensor]  # the training step of one batch of windows: the loss that it reports
    score: Callable[[Batch], Tensor]  # the loss of one batch of windows, without gradient


def bare(model: CharLM) -> CharLM:
    """Give a model what it asks a Trainer for, so that its objective can train it in a plain loop."""
    made = model.objective.optimizers(model)
    model.optimizers = lambda *_, **__: made  # type: ignore[method-assign, assignment]
    model.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, misc]
    return model.train()


def train_step(model: CharLM, batch: Batch) -> Tensor:
    """One window of each lane after an empty memory, as the objective does it."""
    tokens, targets = batch
    loss, _ = model.objective.train_window(model, tokens, targets, model.initial_memory(len(tokens)), share=1.0)
    return loss


@torch.no_grad()
def score(model: CharLM, batch: Batch) -> Tensor:
    """The mean loss of one window of each lane, nats a character."""
    tokens, targets = batch
    logits, _ = model(tokens)
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def ours(cfg: DictConfig, place: Place, *, compile: bool = False) -> Subject:
    """The bench's own model of a config, its training compiled as a long cell's is; no cell's evaluation is."""
    trained, scored = bare(build(cfg).to(place.device)), build(cfg).to(place.device).eval()
    if compile:
        # The compiler gives up on a function that it has compiled for many models, as it may here.
        torch.compiler.reset()
        trained.compile_training(cfg.recipe.batch_size)
    return Subject(lambda batch: train_step(trained, batch), lambda batch: score(scored, batch))


def plainly(cfg: DictConfig, place: Place) -> Subject:
    """Its plain counterpart, from the same weights."""
    parameters = dict(build(cfg).to(place.device).named_parameters())
    training, scored = (plain_training.counterpart(cfg, parameters) for _ in range(2))
    training.model.train()
    scored.model.eval()
    return Subject(lambda batch: training.train(*batch), lambda batch: scored.score(*batch))


def train_next(subject: Subject, batches: Iterator[Batch]) -> None:
    """One training step of the next batch."""
    subject.train(next(batches))


def check_equal(subjects: dict[str, Subject], trained: Batch, scored: Batch, *, within: float = 1e-5) -> None:
    """Let every subject take one step and score one batch: the losses, in nats a character, must be the same.

    Raises ArithmeticError where they are not, since then a comparison of their speed would say nothing.
    """
    losses = {}
    for name, subject in subjects.items():
        torch.manual_seed(0)  # for states that are drawn
        losses[name] = (float(subject.train(trained)), float(subject.score(scored)))
    reference = next(iter(losses.values()))
    for name, found in losses.items():
        if any(abs(one - other) > within for one, other in zip(found, reference, strict=True)):
            raise ArithmeticError(f"the losses of {name} {found} are not those of the first, {reference}")
