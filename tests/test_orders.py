"""Random draws depend on the seed, the epoch and the batch; no two of these places share their draws."""

import itertools

import pytest
import torch
from conftest import MODELS, random_batch, small, train

from hrm_bench.data.windows import TrainingBatches

SEEDS, EPOCHS = range(8), range(8)


def orders(num_offsets=1):
    """Return the order of the samples and the offset of every (seed, epoch)."""
    drawn = {}
    for seed in SEEDS:
        batches = TrainingBatches(50, batch_size=8, order="shuffled", seed=seed, num_offsets=num_offsets)
        for epoch in EPOCHS:
            batches.set_epoch(epoch)
            drawn[seed, epoch] = tuple(itertools.chain.from_iterable(batches)), batches.offset
    return drawn


def test_every_seed_and_epoch_has_an_order_of_its_own():
    drawn = [order for order, _ in orders().values()]
    assert all(sorted(order) == list(range(50)) for order in drawn)
    assert len(set(drawn)) == len(SEEDS) * len(EPOCHS)
    assert orders() == orders()


def test_every_seed_and_epoch_has_an_offset_of_its_own():
    drawn = [offset for _, offset in orders(num_offsets=10**9).values()]
    assert len(set(drawn)) == len(SEEDS) * len(EPOCHS)


def test_offsets_leave_the_order_as_it_is():
    assert [order for order, _ in orders(num_offsets=8).values()] == [order for order, _ in orders().values()]


WITH_DRAWS = {
    "characters": ["model=hrm", "recipe.character_dropout=0.5"],
    "embedding": ["model=hrm", "recipe.embedding_dropout=0.5"],
    "feed-forward": ["model=hrm", "recipe.feed_forward_dropout=0.5"],
    "attention": ["model=transformer", "recipe.attention_dropout=0.5"],
    "head": ["model=lstm", "recipe.head_dropout=0.5"],
    "states": ["model=lct_2layer", "model.state_std=1"],
}
STANDING_STILL = [
    *("recipe.learning_rate=0", "model.objective.body_learning_rate=0", "model.objective.head_learning_rate=0"),
    *("model.num_segments=1", "model.periods=[1,1]"),
]


def first_logits(*words, seed=None, epochs=3):
    """Return the logits of each of two equal batches per epoch, in training that changes no weight."""
    standing_still = [word for word in STANDING_STILL if "objective" not in word or "model=lct_2layer" in words]
    model = small(*words, *standing_still)
    model.seed = model.seed if seed is None else seed
    seen = []
    model.head.register_forward_hook(lambda _, __, logits: seen.append(logits.detach().clone()))
    train(model, [random_batch(4, 8)] * 2, epochs)
    num_calls = len(seen) // (2 * epochs)  # per batch: an objective of two phases calls the head twice
    return seen[::num_calls]


@pytest.mark.parametrize("words", WITH_DRAWS.values(), ids=WITH_DRAWS)
def test_every_seed_epoch_and_batch_has_draws_of_its_own(words):
    drawn = [logits for seed in (0, 1, 2) for logits in first_logits(*words, seed=seed)]
    assert len(drawn) == 3 * 3 * 2
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    again = first_logits(*words, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(drawn[6:12], again, strict=True))


def test_without_draws_all_batches_are_the_same():
    first, *others = first_logits("model=hrm")
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("name", MODELS)
def test_no_two_parameters_begin_with_the_same_values(name):
    drawn = [p for p in small(f"model={name}").parameters() if p.numel() > 8 and p.std() > 0]
    assert len(drawn) >= 3
    rows = [p.flatten()[: min(map(torch.numel, drawn))] / p.std() for p in drawn]
    for one, other in itertools.combinations(rows, 2):
        assert (one - other).abs().mean() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_no_parameter_begins_with_the_values_of_another_seed(name):
    models = [dict(small(f"model={name}", f"seed={seed}").named_parameters()) for seed in (1, 2, 3)]
    for one, other in itertools.combinations(models, 2):
        equal = {key for key in one if torch.equal(one[key], other[key])}
        assert all(one[key].numel() == 1 or one[key].std() == 0 for key in equal)
        assert len(equal) < len(one)
