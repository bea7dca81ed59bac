"""Transformer-XL: it reads the characters before a window as those inside it, as far as its cache goes."""

import pytest
import torch
from conftest import SMALL, compose, fitting, random_batch, small

import hrm_bench
from hrm_bench.errors import UsageError
from hrm_bench.layers import carried
from hrm_bench.models.transformer_xl import by_key
from hrm_bench.objectives import task_loss

XL = ["model=transformer_xl", "memory=carry"]


def test_a_text_read_in_pieces_of_any_length_is_read_as_the_whole_if_the_cache_holds_it():
    model = small(*XL, "data.window=24", "model.cache_length=24").double().eval()
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


@pytest.mark.parametrize(("cache_length", "num_layers"), [(3, 1), (3, 2), (8, 2), (11, 1)])
def test_a_window_reads_as_far_back_as_the_caches_of_all_layers_reach_and_no_further(cache_length, num_layers):
    model = small(*XL, f"model.cache_length={cache_length}", f"model.num_layers={num_layers}").double().eval()
    tokens, _ = random_batch(1, 32)
    whole, _ = model(tokens)
    first = 24  # that the first character of the last window reads; each layer goes a cache further back
    for _ in range(num_layers):
        first = first // 8 * 8 - cache_length  # a cached state has read its own window up to itself, and its cache
    for changed in range(24):
        other = tokens.clone()
        other[0, changed] = (other[0, changed] + 1) % 97
        difference = (model(other)[0] - whole)[0, 24].abs().max()
        assert (difference > 1e-9) == (changed >= first), changed


def test_positions_into_which_nothing_was_written_are_never_read():
    model = small(*XL, "model.cache_length=12").double().eval()
    tokens, _ = random_batch(2, 8)
    memory = model(tokens[:, :5])[1]
    assert memory.is_filled.tolist() == [[0.0] * 7 + [1.0] * 5] * 2
    logits, after = model(tokens, memory)
    noise = torch.randn(memory.states.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = memory._replace(states=torch.where(memory.is_filled[:, None, :, None] == 0, noise, memory.states))
    assert torch.equal(model(tokens, noisy)[0], logits)
    assert after.is_filled.all()
    replaced = memory._replace(states=torch.where(memory.is_filled[:, None, :, None] == 1, noise, memory.states))
    assert (model(tokens, replaced)[0] - logits).abs().max() > 1e-3


def test_lanes_with_an_empty_and_a_full_cache_are_read_together_as_they_are_alone():
    model = small(*XL).double().eval()
    tokens, _ = random_batch(2, 16)
    _, full = model(tokens[:1])
    mixed, _ = model(tokens[:, :8], carried.join([full, model.initial_memory(1)]))
    torch.testing.assert_close(mixed[:1], model(tokens[:1, :8], full)[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(mixed[1:], model(tokens[1:, :8])[0], atol=1e-12, rtol=0)


def gradients_of_the_second_window(*words):
    """Return the gradients of a loss on characters from 50 on, read after a window of characters before 40."""
    model = hrm_bench.build(compose(*fitting(*SMALL, *XL, *words))).double()
    tokens, targets = random_batch(2, 16)
    tokens = torch.cat((tokens[:, :8] % 40, 50 + tokens[:, 8:] % 40), dim=1)
    logits, _ = model(tokens)
    task_loss(logits[:, 8:], targets[:, 8:]).backward()
    _, keys, values = model.blocks[0].attention.qkv.weight.grad.chunk(3)
    return model.embedding.weight.grad[:40].abs().max(), keys, values


def test_keys_and_values_of_cached_states_are_trained_and_the_states_themselves_only_if_asked():
    through = ["objective=through_time", "data.windows_per_sample=2", "memory.gradient=through"]
    (earlier, *ours), (deep, *_), (_, *alone) = (
        gradients_of_the_second_window(*words) for words in ([], through, ["memory=none"])
    )
    assert earlier == 0
    assert deep > 0
    # Without the cache, keys and values are those of the window alone, and their gradient is another one.
    assert all((one - other).abs().max() > 1e-6 for one, other in zip(ours, alone, strict=True))


@pytest.mark.parametrize(("length", "num_keys"), [(1, 1), (1, 4), (4, 4), (3, 7)])
def test_scores_by_distance_are_put_where_their_keys_are(length, num_keys):
    distances = torch.arange(num_keys - 1, -1, -1).expand(2, length, num_keys)
    ordered = by_key(distances)
    for query in range(length):
        position = num_keys - length + query
        assert ordered[1, query, : position + 1].tolist() == list(range(position, -1, -1))


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("model.num_heads=3", r"model\.num_heads=3: must divide model\.width=64 .* try model\.num_heads=2"),
        (
            "model.width=12",
            r"model\.num_heads=4: must divide model\.width=12 into heads of even .* try model\.num_heads=3",
        ),
        ("model.width=7", r"model\.num_heads=4: must divide model\.width=7 .* try model\.width=64"),
        ("model.cache_length=0", r"model\.cache_length=0: must be at least 1"),
        ("model.cache_lenght=8", r"model\.cache_lenght.*cache_length"),
    ],
)
def test_values_that_it_cannot_have_are_refused_in_one_line(word, line):
    with pytest.raises(UsageError, match=line) as caught:
        hrm_bench.compose("data=sample", "model=transformer_xl", word)
    assert len(caught.value.faults) == 1
