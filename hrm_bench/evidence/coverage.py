"""Which loss reaches which part of a model in training?"""

import copy

import torch

from hrm_bench.charlm import CharLM


def gradient_coverage(model: CharLM) -> dict[str, list[str]]:
    """Return the names of the losses that reach each component, from the gradients of two consecutive windows.

    A component is a child of the model, or an entry of a child that is a list, such as a level. The list of a component
    that no loss reaches is empty. The steps are those of the model's objective on random characters; the model is
    copied, and no step is taken.
    """
    probe = copy.deepcopy(model).train()
    probe.compile_training(None)  # its compiled code would be that of the model
    names, parameters = zip(*probe.named_parameters(), strict=True)
    reached: dict[str, set[str]] = {_component(name): set() for name in names}
    stream = torch.Generator().manual_seed(0)
    text = torch.randint(model.vocabulary_size, (2, 2 * model.window + 1), generator=stream).to(model.device)
    windows = zip(text[:, :-1].split(model.window, dim=1), text[:, 1:].split(model.window, dim=1), strict=True)
    for step in model.objective.steps(probe, [*windows], probe.initial_memory(2), weight=1.0):
        for loss in step.losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None and gradient.any():
                    reached[_component(name)].add(step.name)
    return {component: sorted(losses, reverse=True) for component, losses in reached.items()}


def _component(parameter: str) -> str:
    """Return the component of a parameter: levels.0.0.attention.qkv.weight → levels.0; embedding.weight → embedding."""
    first, *rest = parameter.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first
