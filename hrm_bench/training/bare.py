"""Training in a bare loop, without a Trainer: for checks and measurements."""

from collections.abc import Callable

from hrm_bench.charlm import Batch, CharLM
from hrm_bench.steps import Step, Trained, follow, take


def without_trainer(model: CharLM) -> Callable[[Batch], Trained]:
    """Return a function that trains the model on the windows of a batch, which an empty memory precedes.

    It takes the steps that ``CharLM.training_step`` takes, with fresh optimizers, and without a schedule.
    """
    optimizers = model.objective.optimizers(model.train())

    def taken(step: Step) -> None:
        clip = model.objective.gradient_clip
        take(step, optimizers[step.optimizer], gradient_clip=clip, backward=lambda loss, _: loss.backward())

    def train(batch: Batch) -> Trained:
        tokens, targets = batch
        for transform in model.transforms:
            tokens, targets = transform(tokens, targets)
        windows = [*zip(tokens.split(model.window, dim=1), targets.split(model.window, dim=1), strict=True)]
        return follow(model.objective.steps(model, windows, model.initial_memory(len(tokens)), weight=1.0), taken)

    return train
