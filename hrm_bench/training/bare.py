"""Training in a bare loop, without a Trainer: for checks and measurements."""

from collections.abc import Callable

from torch import nn

from hrm_bench.charlm import Batch, CharLM
from hrm_bench.steps import Step, Trained, follow


def without_trainer(model: CharLM) -> Callable[[Batch], Trained]:
    """Return a function that trains the model on the windows of a batch, which an empty memory precedes.

    It takes the steps that ``CharLM.training_step`` takes, with fresh optimizers, and without a schedule.
    """
    optimizers = model.objective.optimizers(model.train())

    def take(step: Step) -> None:
        optimizer = optimizers[step.optimizer]
        optimizer.zero_grad(set_to_none=True)
        for loss in step.losses:
            loss.backward()
        if model.objective.gradient_clip is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, model.objective.gradient_clip)
        optimizer.step()

    def train(batch: Batch) -> Trained:
        tokens, targets = batch
        for transform in model.transforms:
            tokens, targets = transform(tokens, targets)
        windows = [*zip(tokens.split(model.window, dim=1), targets.split(model.window, dim=1), strict=True)]
        return follow(model.objective.steps(model, windows, model.initial_memory(len(tokens)), weight=1.0), take)

    return train
