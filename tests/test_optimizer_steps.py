"""One optimizer step: the clipping sees all parameters, and each parameter has its own decay and learning rate."""

import pytest
import torch
from conftest import random_batch, small, train

ONE_STEP = ["model.num_segments=1"]
GROUPINGS = {
    "one group": [],
    "matrices": ["recipe.decayed=matrices"],
    "gates": ["recipe.gate_learning_rate=0.01"],
    "matrices and gates": ["recipe.decayed=matrices", "recipe.gate_learning_rate=0.01"],
}
MODELS = {
    "hrm": ["model=hrm"],
    "last segment": ["model=hrm_last_segment"],
    "infini_hrm": ["model=infini_hrm"],
    "hrm_memory": ["model=hrm_memory"],
}
OACD = ["model=lct_2layer", "model.head_bias=true", "model.periods=[1,1]"]


def stirred(*words):
    """Return a small model none of whose parameters has only zeros, ones or the like."""
    model = small(*words)
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=stream)
    return model


def trained(*words):
    """Return the parameters before and after one step, and the gradients that the step used."""
    model = stirred(*ONE_STEP, *words)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    memory = model.initial_memory(4)
    if memory:  # what is read from an empty memory gives no gradient to what reads it
        _, memory = model(random_batch(4, 8, seed=9)[0])
        model.initial_memory = lambda num_lanes: memory
    train(model, [random_batch(4, 8)])
    after = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return before, after, gradients


def norm(gradients):
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


@pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_all_gradients_together_are_clipped_by_one_factor(model, grouping):
    _, _, free = trained(*model, *grouping, "recipe.gradient_clip=1e9")
    _, _, clipped = trained(*model, *grouping, "recipe.gradient_clip=1e-3")
    assert norm(free.values()) > 0.1
    assert norm(clipped.values()) == pytest.approx(1e-3, rel=1e-3)
    assert free.keys() == clipped.keys()
    for name, gradient in free.items():
        torch.testing.assert_close(clipped[name], gradient * 1e-3 / norm(free.values()), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("grouping", list(GROUPINGS.values())[:2], ids=list(GROUPINGS)[:2])
def test_body_and_head_are_clipped_each_by_a_factor_of_its_own(grouping):
    _, _, clipped = trained(*OACD, *grouping, "recipe.gradient_clip=1e-4")
    for is_head in (False, True):
        part = [gradient for name, gradient in clipped.items() if name.startswith("head.") == is_head]
        assert norm(part) == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS)
@pytest.mark.parametrize("model", [*MODELS.values(), OACD], ids=[*MODELS, "oacd"])
def test_weight_decay_reaches_its_parameters_and_no_others(model, grouping):
    """AdamW subtracts rate · decay · parameter from what it decays, beside a step that does not depend on decay."""
    rates = ["recipe.learning_rate=0.01"]
    if model == OACD:
        rates = ["model.objective.body_learning_rate=0.01", "model.objective.head_learning_rate=0.01"]
    before, without, gradients = trained(*model, *grouping, *rates, "recipe.weight_decay=0")
    _, decayed, _ = trained(*model, *grouping, *rates, "recipe.weight_decay=0.5")
    numbers = {True: 0, False: 0}
    for name, start in before.items():
        spared = (
            name not in gradients
            or ("recipe.decayed=matrices" in grouping and start.ndim < 2)
            or ("recipe.gate_learning_rate=0.01" in grouping and name.endswith(".gate"))
        )
        numbers[spared] += 1
        expected = 0 * start if spared else 0.01 * 0.5 * start
        torch.testing.assert_close(without[name] - decayed[name], expected, atol=1e-6, rtol=0, msg=name)
    assert min(numbers.values()) >= (0 if model == OACD else 1)


@pytest.mark.parametrize("grouping", GROUPINGS.values(), ids=GROUPINGS)
@pytest.mark.parametrize("name", ["infini_hrm", "hrm_memory"])
def test_gates_have_a_learning_rate_of_their_own_if_one_is_given(name, grouping):
    """Adam's first step is as long as the learning rate."""
    words = ["recipe.learning_rate=0.001", "recipe.weight_decay=0", "recipe.gradient_clip=1e9"]
    before, after, gradients = trained(f"model={name}", *grouping, *words)
    own = "recipe.gate_learning_rate=0.01" in grouping
    assert any(key.endswith(".gate") for key in gradients)
    for key, start in before.items():
        longest = float((after[key] - start).abs().max())
        rate = 0.01 if own and key.endswith(".gate") else 0.001
        assert longest == pytest.approx(rate if key in gradients else 0, rel=0.01), key
