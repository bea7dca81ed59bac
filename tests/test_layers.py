"""The layers against their naive references: outputs and gradients."""

import pytest
import torch
from reference import layers as naive

from hrm_bench.layers import carried
from hrm_bench.layers.attention import SelfAttention
from hrm_bench.layers.block import BlockConfig, stack
from hrm_bench.layers.compressive_memory import Association, empty_memory, retrieve, write
from hrm_bench.layers.mean import Mean
from hrm_bench.models.infini_hrm import InfiniAttention

WIDTH, HEADS, LENGTH = 8, 2, 5


def gradients_of(output, parameters):
    """Gradients of an arbitrary weighting of the output."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return torch.autograd.grad((output * weights).sum(), list(parameters), retain_graph=True)


@pytest.fixture(autouse=True)
def doubles():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_with_rotary_positions_matches_the_naive_loop(causal):
    layer = SelfAttention(width=WIDTH, num_heads=HEADS, window=LENGTH, causal=causal).double()
    hidden = torch.randn(3, LENGTH, WIDTH)
    ours = layer(hidden)
    theirs = torch.stack(
        [naive.self_attention(lane, layer.qkv.weight, layer.output.weight, HEADS, causal) for lane in hidden]
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    parameters = list(layer.parameters())
    for mine, reference in zip(gradients_of(ours, parameters), gradients_of(theirs, parameters), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-6, rtol=0)


def test_a_stack_of_two_blocks_matches_the_naive_loop():
    config = BlockConfig(num_layers=2, width=WIDTH, num_heads=HEADS, hidden_width=12, causal=True)
    blocks = stack(config, window=LENGTH)
    for parameter in blocks.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(2, LENGTH, WIDTH)
    parameters = {f"stack.{name}": parameter for name, parameter in blocks.named_parameters()}
    theirs = torch.stack(
        [naive.block(naive.block(lane, parameters, "stack.0", HEADS), parameters, "stack.1", HEADS) for lane in hidden]
    )
    ours = blocks(hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for mine, reference in zip(
        gradients_of(ours, blocks.parameters()), gradients_of(theirs, blocks.parameters()), strict=True
    ):
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)


def test_attention_sees_order_through_its_positions():
    layer = SelfAttention(width=WIDTH, num_heads=HEADS, window=LENGTH, causal=False)
    hidden = torch.randn(1, LENGTH, WIDTH)
    flipped = layer(hidden.flip(1)).flip(1)
    assert (layer(hidden) - flipped).abs().max() > 1e-3


@pytest.mark.parametrize("gradient", ["none", "through"])
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("features", ["elu", "l2"])
@pytest.mark.parametrize("bind", ["same", "previous"])
@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_infini_attention_matches_the_naive_loop_over_several_windows(rule, bind, features, tie, gradient):
    how = {"rule": rule, "bind": bind, "features": features, "tie": tie, "gradient": gradient}
    layer = InfiniAttention(width=WIDTH, num_heads=HEADS, causal=True, how=Association(**how))
    torch.nn.init.normal_(layer.gate)
    windows = torch.randn(4, 2, LENGTH, WIDTH)  # four windows of two lanes
    memory = layer.empty(2)
    pairs = naive.PairMemory(how)
    for window in windows:
        ours, update, gate = layer(window, memory)
        theirs = naive.infini_attention(window, pairs, layer.qkv.weight, layer.output.weight, layer.gate)
        pairs.commit(rule)
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
        assert torch.equal(gate.flatten(), layer.gate.sigmoid())
        for mine, reference in zip(
            gradients_of(ours, layer.parameters()), gradients_of(theirs, layer.parameters()), strict=True
        ):
            torch.testing.assert_close(mine, reference, atol=1e-9, rtol=1e-9)
        memory = carried.added(memory, update)


def test_an_empty_memory_answers_nothing():
    memory = empty_memory(2, HEADS, 4, like=torch.zeros(()))
    assert torch.equal(retrieve(memory, torch.randn(2, HEADS, 3, 4)), torch.zeros(2, HEADS, 3, 4))


def test_the_delta_rule_does_not_write_again_what_the_memory_already_answers():
    keys, values = torch.randn(1, 1, 1, 4), torch.randn(1, 1, 1, 4)
    memory = empty_memory(1, 1, 4, like=torch.zeros(()))
    delta = Association(rule="delta")
    once = carried.added(memory, write(memory, keys, values, delta))
    torch.testing.assert_close(retrieve(once, keys), values, atol=1e-5, rtol=0)
    assert write(once, keys, values, delta).matrix.abs().max() < 1e-5
    assert write(once, keys, values).matrix.abs().max() > 1e-2


def test_what_is_written_carries_no_gradient():
    keys = torch.randn(1, 1, 3, 4, requires_grad=True)
    update = write(empty_memory(1, 1, 4, like=keys), keys, keys)
    assert not update.matrix.requires_grad
    assert not update.normalizer.requires_grad


def test_a_mean_weighs_its_batches_and_is_nan_without_any():
    mean = Mean()
    assert mean.compute().isnan()
    mean.update(torch.tensor([1.0, 2.0]), weight=3)
    mean.update(torch.tensor(5.0), weight=2)
    assert float(mean.compute()) == pytest.approx((3 * 1 + 3 * 2 + 2 * 5) / 8)
    mean.update(torch.tensor(torch.nan))
    assert mean.compute().isnan()  # a loss that is not a number is not passed over
    mean.reset()
    mean.update(torch.tensor(0.1, dtype=torch.float32), weight=3)
    assert mean.sums.dtype == torch.float64
    assert float(mean.sums[0]) == float(torch.tensor(0.1, dtype=torch.float32) * 3)  # a batch in its own precision
