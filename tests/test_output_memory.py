"""The memory on a model's output: against plain loops, with gradients; causal; and that it learns what it can gain."""

import pytest
import torch
from reference.output_memory import distributions

from hrm_bench.evidence.output_memory import OutputMemory, learn, remembered
from hrm_bench.evidence.reading import Reading

WINDOW, WIDTH, SYMBOLS = 4, 3, 5


def memory_of(features=6, seed=1):
    memory = OutputMemory(WIDTH, SYMBOLS, seed=seed, features=features).double()
    with torch.no_grad():
        memory.gate.weight.copy_(torch.tensor([[0.3, -0.5, 0.2]]))
        memory.growth.fill_(0.4)
        memory.features.bias.copy_(torch.linspace(-1, 1, features))
    return memory


def text(windows=5, seed=2):
    stream = torch.Generator().manual_seed(seed)
    states = torch.randn(1, windows, WINDOW, WIDTH, generator=stream, dtype=torch.float64)
    models = torch.rand(1, windows, WINDOW, SYMBOLS, generator=stream, dtype=torch.float64).softmax(dim=-1)
    targets = torch.randint(SYMBOLS, (1, windows, WINDOW), generator=stream)
    return states, targets, models


def given(models, targets):
    return models.gather(3, targets[..., None])[..., 0]


def plain(memory, states, targets, models):
    parts = (memory.features.weight, memory.features.bias, memory.gate.weight[0])
    weights, bias, gate = (part.tolist() for part in parts)
    numbers = memory.gate.bias.item(), memory.growth.item()
    return distributions(weights, bias, gate, *numbers, states[0].tolist(), targets[0].tolist(), models[0].tolist())


def test_an_output_memory_is_a_loop_over_windows_and_symbols():
    memory, (states, targets, models) = memory_of(), text()
    found = memory(states, targets, given(models, targets)).flatten().tolist()
    expected = plain(memory, states, targets, models)
    assert found == pytest.approx(
        [all_[symbol] for all_, symbol in zip(expected, targets.flatten().tolist(), strict=True)]
    )
    assert all(sum(distribution) == pytest.approx(1) for distribution in expected)


def test_its_gradients_go_through_reads_and_writes():
    memory, (states, targets, models) = memory_of(), text()

    def loss():
        return -memory(states, targets, given(models, targets)).log().mean()

    loss().backward()
    for parameter in memory.parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(0, len(flat), 5):
            old, losses = float(flat[place]), []
            for step in (1e-6, -1e-6):
                flat[place] = old + step
                losses.append(float(loss().detach()))
            flat[place] = old
            assert float(gradient[place]) == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-9)
    assert memory.features.weight.grad.abs().min() > 0


def test_an_empty_memory_is_the_model_and_lanes_are_apart():
    memory, (states, targets, models) = memory_of(), text()
    own = given(models, targets)
    first = memory(states[:, :1], targets[:, :1], own[:, :1])
    assert torch.equal(first, own[:, :1])
    other = text(seed=3)
    both = [torch.cat(parts) for parts in zip((states, targets, own), (*other[:2], given(*other[:0:-1])), strict=True)]
    assert memory(*both)[0].flatten().tolist() == pytest.approx(memory(states, targets, own).flatten().tolist())


def test_no_probability_depends_on_later_characters_or_states():
    memory, (states, targets, models) = memory_of(), text()
    before = memory(states, targets, given(models, targets))
    for window in range(5):
        changed, later = targets.clone(), states.clone()
        changed[:, window:] = (changed[:, window:] + 1) % SYMBOLS
        later[:, window + 1 :] += 1
        after = memory(later, changed, given(models, targets))
        assert torch.equal(before[:, :window], after[:, :window])
        assert window == 0 or not torch.equal(before[:, window:], after[:, window:])


def reading(repeats, seed=4, windows=120):
    """A text in which a state says which character follows, for each text its own; or which says nothing."""
    stream = torch.Generator().manual_seed(seed)
    kinds = torch.randint(8, (windows * WINDOW,), generator=stream)
    code = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(0)).double() * 2
    follows = torch.randint(SYMBOLS, (8,), generator=stream)
    noise = torch.randint(SYMBOLS, (len(kinds),), generator=stream)
    return Reading(follows[kinds] if repeats else noise, torch.full((len(kinds),), 0.2).double(), code[kinds], WINDOW)


def test_it_learns_to_remember_what_repeats_and_to_be_silent_where_nothing_does():
    memory = learn(reading(repeats=True), SYMBOLS, seed=1, steps=150)
    for seed in (5, 6):  # texts with other rules, which only a memory can know
        text = reading(repeats=True, seed=seed)
        assert float(remembered(memory, text).log().mean()) > float(text.probabilities.log().mean()) + 0.5
    silent = learn(reading(repeats=False), SYMBOLS, seed=1, steps=150)
    text = reading(repeats=False, seed=7)
    assert float(remembered(silent, text).log().mean()) == pytest.approx(
        float(text.probabilities.log().mean()), abs=0.02
    )


def test_the_seed_decides_the_memory():
    one, again, other = (learn(reading(repeats=True), SYMBOLS, seed=seed, steps=3) for seed in (1, 1, 2))
    states = [memory.features.weight for memory in (one, again, other)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert one.state_size == 128 * (SYMBOLS + 1)
