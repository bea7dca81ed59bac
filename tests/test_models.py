"""The architectures: their size, their equations, which parameters their loss reaches, and what they accept."""

import pytest
import torch
from conftest import MODELS, SMALL, compose, random_batch, small
from reference import models as naive

import hrm_bench
from hrm_bench.errors import ConfigFault
from hrm_bench.models.hrm import HRM
from hrm_bench.objectives import task_loss

PARAMETERS = {
    "hrm": 152_064,
    "hrm_memory": 193_024,
    "infini_hrm": 168_452,
    "lct_1layer": 78_080,
    "lct_2layer": 149_952,
}


def test_every_model_has_its_number_of_parameters_stated():
    assert set(PARAMETERS) <= set(MODELS)


@pytest.mark.parametrize(("name", "number"), PARAMETERS.items())
def test_parameter_counts_are_those_of_the_reports_exactly(name, number):
    model = hrm_bench.build(hrm_bench.compose("data=sample", f"model={name}"))
    assert sum(parameter.numel() for parameter in model.parameters()) == number


@pytest.mark.parametrize("update", ["sequential", "simultaneous"])
def test_an_hrm_segment_and_its_gradients_match_the_naive_loop(update):
    words = ["model=hrm", f"model.update={update}"]
    model = small(*words).double()
    tokens, targets = random_batch(2, 8)
    state = model.initial_state(2, 8)
    logits, new_state, _ = model.segment(tokens, state, (), 0)

    parameters = dict(model.named_parameters())
    their_logits, their_state = naive.HRM(compose(*SMALL, *words).model, parameters).segment(tokens, state, (), 0)
    for mine, reference in zip((logits, *new_state), (their_logits, *their_state), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=0)

    names = list(parameters)
    ours = torch.autograd.grad(task_loss(logits, targets), parameters.values(), allow_unused=True)
    reference = torch.autograd.grad(task_loss(their_logits, targets), parameters.values(), allow_unused=True)
    for name, mine, expected in zip(names, ours, reference, strict=True):
        assert (mine is None) == (expected is None), name
        if mine is not None:
            torch.testing.assert_close(mine, expected, atol=1e-6, rtol=0)

    unreached = {name for name, gradient in zip(names, ours, strict=True) if gradient is None}
    always = {
        "initial_states.0",
        "q_head.weight",
    }  # z_H stands still in the first step, so the last reads where it began
    low = {name for name in names if name.startswith("levels.0.")}
    assert unreached == (always | low if update == "simultaneous" else always)


def test_gradient_through_all_steps_reaches_the_initial_states():
    model = small("model=hrm", "model.gradient_depth=2")
    tokens, targets = random_batch(2, 8)
    logits, _, _ = model.segment(tokens, model.initial_state(2, 8), (), 0)
    task_loss(logits, targets).backward()
    unreached = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unreached == {"q_head.weight"}


def test_levels_are_updated_at_their_own_periods():
    model = small("model=hrm", "model.num_timesteps=4", "model.num_cycles=2", "model.periods=[1,2,4]")
    updated = []

    def advance(level, inputs):
        updated.append(level)
        return inputs

    model.reason(torch.zeros(1, 8, 16), model.initial_state(1, 8), advance)
    assert updated == [0, 0, 1, 0, 0, 1, 2] * 2


def test_the_two_update_orders_differ():
    tokens, _ = random_batch(2, 8)
    one, other = (small("model=hrm", f"model.update={order}").eval() for order in ("sequential", "simultaneous"))
    assert (one(tokens)[0] - other(tokens)[0]).abs().max() > 1e-3


def test_the_second_layer_of_lct_is_updated_every_second_segment():
    model = small("model=lct_2layer", "model.num_segments=4").eval()
    tokens, _ = random_batch(2, 8)
    states = [refinement.state for refinement in model.refine(tokens, ())]
    high = [state[1] for state in states]
    assert torch.equal(high[0], torch.zeros_like(high[0]))
    assert not torch.equal(high[1], high[0])
    assert torch.equal(high[2], high[1])
    assert not torch.equal(high[3], high[2])


def test_lct_starts_from_other_states_at_each_batch_and_from_their_mean_at_evaluation():
    model = small("model=lct_2layer")
    first, second = model.initial_state(2, 8), model.initial_state(2, 8)
    assert not torch.equal(first[0], second[0])
    assert first[0].std().item() == pytest.approx(model.config.state_std, rel=0.2)
    assert all(torch.equal(level, torch.zeros(2, 8, 16)) for level in model.eval().initial_state(2, 8))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [1, 5, 8, 13, 24])
def test_a_model_takes_any_number_of_characters(name, length):
    model = small(f"model={name}").eval()
    tokens, _ = random_batch(3, length)
    logits, memory = model(tokens)
    assert logits.shape == (3, length, 97)
    assert bool(memory) == model.uses_memory


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluated_model_can_be_exported(name):
    model = small(f"model={name}").eval()
    tokens, _ = random_batch(2, 16)
    exported = torch.export.export(model, (tokens,)).module()
    torch.testing.assert_close(exported(tokens)[0], model(tokens)[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_head_reads_is_part_of_the_state(name):
    model = small(f"model={name}").eval()
    tokens, _ = random_batch(2, 8)
    for refinement in model.refine(tokens, model.initial_memory(2)):
        if refinement.state:
            assert not refinement.read_by_head.requires_grad
            assert torch.equal(model.head(refinement.read_by_head), refinement.logits)
        else:
            assert refinement.read_by_head is None


def test_a_refinement_can_have_another_number_of_segments_than_the_model():
    model = small("model=infini_hrm", "model.num_segments=2").eval()
    tokens, _ = random_batch(2, 16)
    other = small("model=infini_hrm", "model.num_segments=3").eval()
    logits, memory = model(tokens, num_segments=3)
    expected, expected_memory = other(tokens)
    assert torch.equal(logits, expected)
    assert torch.equal(memory[0].matrix, expected_memory[0].matrix)
    assert model.num_segments == 2


VALUES = {"width": 16, "num_heads": 2, "hidden_width": 24, "num_layers": 1, "causal": True, "periods": (1, 2)}
HRM_VALUES = VALUES | {
    "num_segments": 2,
    "update": "sequential",
    "num_cycles": 1,
    "num_timesteps": 2,
    "gradient_depth": 1,
}
FAULTS = {
    ("num_heads", 3): "model.num_heads=3: must divide model.width=16 into heads of even width; try model.num_heads=2",
    ("width", 1): "model.num_heads=2: must divide model.width=1 into heads of even width; try model.width=64",
    ("gradient_depth", 3): "model.gradient_depth=3: a segment has num_cycles·num_timesteps = 2 steps; try "
    "model.gradient_depth=2",
    ("periods", (2, 3)): "model.periods=[2, 3]: each must divide num_cycles·num_timesteps = 2, the steps of a segment; "
    "try model.num_timesteps=6",
}


@pytest.mark.parametrize(("key", "value"), FAULTS)
def test_a_models_config_refuses_values_that_do_not_fit_together(key, value):
    HRM.Config(**HRM_VALUES)
    with pytest.raises(ConfigFault) as refused:
        HRM.Config(**HRM_VALUES | {key: value})
    assert refused.value.message == str(refused.value) == FAULTS[key, value]
    assert refused.value.message.startswith(f"model.{refused.value.key}=")


@pytest.mark.parametrize("name", MODELS)
def test_memory_given_back_continues_a_text_as_if_it_had_been_read_at_once(name):
    model = small(f"model={name}").eval()
    tokens, _ = random_batch(2, 32)
    whole, _ = model(tokens)
    first, memory = model(tokens[:, :16])
    second, _ = model(tokens[:, 16:], memory)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["hrm_memory", "infini_hrm"])
def test_memory_changes_what_a_later_window_says(name):
    model = small(f"model={name}").eval()
    tokens, _ = random_batch(2, 16)
    _, memory = model(tokens[:, :8])
    with_memory, _ = model(tokens[:, 8:], memory)
    without, _ = model(tokens[:, 8:])
    assert (with_memory - without).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["hrm_memory", "infini_hrm"])
def test_memory_mode_none_never_writes(name):
    model = small(f"model={name}", "memory=none").eval()
    tokens, _ = random_batch(2, 16)
    _, memory = model(tokens)
    assert all(torch.equal(part, torch.zeros_like(part)) for each in memory for part in each)


def test_models_of_one_seed_agree_wherever_they_have_the_same_parameter():
    weights = {name: small(f"model={name}").state_dict() for name in MODELS}
    shared = list(weights["hrm"].keys() & weights["infini_hrm"].keys() & weights["hrm_memory"].keys())
    assert {"embedding.weight", "levels.0.0.attention.qkv.weight", "head.weight"} <= set(shared)
    for name in shared:
        assert torch.equal(weights["hrm"][name], weights["infini_hrm"][name])
        assert torch.equal(weights["hrm"][name], weights["hrm_memory"][name])
    assert not torch.equal(weights["hrm"]["embedding.weight"], small("seed=7").state_dict()["embedding.weight"])


def test_initial_weights_have_the_published_spread():
    model = hrm_bench.build(hrm_bench.compose("data=sample", "model=infini_hrm"))
    parameters = dict(model.named_parameters())
    assert parameters["levels.0.0.feed_forward.down.weight"].std().item() == pytest.approx(1 / 8, rel=0.03)
    assert parameters["head.weight"].std().item() == pytest.approx(1 / 8, rel=0.05)
    assert parameters["embedding.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert parameters["initial_states.0"].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(parameters["infini_attention.gate"], torch.zeros(4))
