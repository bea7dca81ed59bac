"""Gated DeltaNet: its memory goes on exactly from character to character, overwrites and forgets."""

import pytest
import torch
from conftest import compose, random_batch, small
from torch.nn import functional

from hrm_bench.errors import UsageError
from hrm_bench.layers import carried
from hrm_bench.models.gated_delta_net import gated_delta_rule


def heads(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_text_read_in_pieces_of_any_length_is_read_as_the_whole():
    model = small("model=gated_delta_net", "memory=carry", "data.window=24").double().eval()
    tokens, _ = random_batch(2, 24)
    whole, after = model(tokens)
    for length in (1, 2, 5, 23):
        memory, logits = None, []
        for piece in tokens.split(length, dim=1):
            some, memory = model(piece, memory)
            logits.append(some)
        torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-9, rtol=0)
        for one, other in zip(carried.tensors(memory), carried.tensors(after), strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


def test_a_key_that_is_written_again_answers_with_its_last_value():
    first, second = torch.eye(4, dtype=torch.float64)[:2]
    keys = torch.stack([first, second, first])[None, None]
    values, ones = heads(1, 1, 3, 4), torch.ones(1, 1, 3, dtype=torch.float64)
    empty = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    outputs, matrix = gated_delta_rule(keys, keys, values, ones, 0 * ones, empty)
    torch.testing.assert_close(outputs, values)
    torch.testing.assert_close(keys[0, 0] @ matrix[0, 0], values[0, 0, [2, 1, 2]])  # under a sum it were values 0 + 2


def test_a_head_forgets_at_its_rate_even_where_nothing_of_the_past_is_left():
    matrix, zeros = heads(1, 1, 4, 4), torch.zeros(1, 1, 6, 4, dtype=torch.float64)
    for log_alpha in (-0.5, -800.0):  # of which a quotient of products were 0 / 0
        rates = torch.full((1, 1, 6), log_alpha, dtype=torch.float64, requires_grad=True)
        queries = heads(1, 1, 6, 4, seed=1)
        outputs, after = gated_delta_rule(queries, zeros, zeros, rates.sigmoid(), rates, matrix)
        torch.testing.assert_close(after, matrix * rates.sum().exp())
        past = (log_alpha * torch.arange(1, 7, dtype=torch.float64)).exp()[:, None]
        torch.testing.assert_close(outputs[0, 0], past * (queries[0, 0] @ matrix[0, 0]))
        (gradient,) = torch.autograd.grad(outputs.sum(), rates)
        assert gradient.isfinite().all()


def test_heads_begin_to_forget_at_rates_of_their_own_from_a_thousandth_to_one():
    layers = [block.delta for block in small("model=gated_delta_net", "model.num_heads=8").blocks]
    rates = torch.cat([layer.log_scale.exp() * functional.softplus(layer.bias) for layer in layers])
    assert 0.001 <= rates.min() < 0.1 < rates.max() <= 1.6
    assert len(rates.unique()) == 16


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(UsageError, match=r"model\.num_heads=3: must divide model\.width=16; try model\.num_heads=2"):
        small("model=gated_delta_net", "model.num_heads=3")
    assert compose("data=sample", "model=gated_delta_net").model.hidden_width == 249
