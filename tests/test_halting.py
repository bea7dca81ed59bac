"""Halting: the Q head against loops a character at a time, and controls that it must pass."""

import math

import pytest
import torch
from conftest import quick, small
from torch.nn import functional

from hrm_bench.evidence import halting
from hrm_bench.evidence.halting import SEGMENTS, Refined
from hrm_bench.training.build import load_windows


@pytest.fixture(scope="module")
def text():
    return halting.refined(small("model=hrm", "seed=3").eval(), load_windows(quick()).validation)


def text_that_is_right(correct, num_features=3):
    """A text whose states tell at which segments the likeliest character is right: (S, N) booleans."""
    num_segments, num_characters = correct.shape
    logits = torch.zeros(num_segments, num_characters, 97, dtype=torch.float64)
    logits[..., 5] = torch.where(correct, 5.0, -5.0)
    logits[..., 6] = torch.where(correct, -5.0, 5.0)
    states = torch.stack([correct.float() * 2 - 1] * num_features, dim=-1)
    return Refined(states, logits.log_softmax(dim=-1), torch.full((num_characters,), 5))


def test_every_segment_is_that_of_a_model_with_so_many(text):
    model, samples = small("model=hrm", "seed=3").eval(), load_windows(quick()).validation
    assert text.states.shape[:2] == (SEGMENTS, samples.num_characters)
    tokens, targets = samples[[*range(samples.num_whole)]]
    assert torch.equal(text.targets, targets.flatten())
    with torch.no_grad():
        for number in (1, 3):
            logits, _ = model(tokens, num_segments=number)
            expected = logits.flatten(0, 1).double().log_softmax(dim=-1)
            torch.testing.assert_close(text.log_probabilities[number - 1], expected)


@pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.02])
def test_a_character_is_predicted_by_the_first_segment_that_stops(text, threshold):
    head = torch.nn.Linear(text.states.shape[-1], 2, bias=False)
    torch.nn.init.normal_(head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    nlls, used = [], []
    for position, target in enumerate(text.targets.tolist()):
        for segment in range(SEGMENTS):
            stop, go_on = head(text.states[segment, position]).sigmoid().tolist()
            if stop - go_on > threshold or segment == SEGMENTS - 1:
                break
        used.append(segment + 1)
        nlls.append(-float(text.log_probabilities[segment, position, target]))
    halted = halting.halt(text, head, threshold)
    assert halted.mean_segments == pytest.approx(sum(used) / len(used))
    assert halted.perplexity == pytest.approx(math.exp(sum(nlls) / len(nlls)))


def test_the_head_learns_to_stop_where_the_prediction_is_right():
    stream = torch.Generator().manual_seed(0)
    correct = torch.rand(SEGMENTS, 500, generator=stream) < 0.5
    text = text_that_is_right(correct)
    halted = halting.halt(text, halting.fit(text), 0.0)
    first = torch.where(correct.any(dim=0), correct.int().argmax(dim=0) + 1, SEGMENTS)
    assert halted.mean_segments == pytest.approx(float(first.double().mean()), abs=0.05)
    never, always = (halting.halt(text, halting.fit(text), threshold) for threshold in (1.0, -1.0))
    assert (never.mean_segments, always.mean_segments) == (SEGMENTS, 1)
    assert halted.perplexity < min(never.perplexity, always.perplexity)


def test_the_values_that_are_learnt_are_those_of_the_recursion():
    text = text_that_is_right(torch.tensor([[False], [False], [True], [True]]).expand(SEGMENTS, 200))
    head = halting.fit(text)
    values = head(text.states[:, 0]).sigmoid().detach()
    assert float(values[2, 0]) > 0.9 > 0.1 > float(values[0, 0])
    loss = functional.binary_cross_entropy(values[2:3, 0], torch.ones(1))
    assert float(loss) < 0.1
    assert float(values[1, 1]) > 0.4  # before the segment that is right, going on is worth it


def test_a_decision_does_not_depend_on_what_follows():
    model, samples = small("model=hrm", "seed=3").double().eval(), load_windows(quick()).validation
    tokens, _ = samples[[0]]
    changed = tokens.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 97
    with torch.no_grad():
        ours, theirs = ([each.state[-1] for each in model.refine(text, ())] for text in (tokens, changed))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine[:, :5], other[:, :5])


def test_the_curve_goes_from_one_segment_to_all_of_them():
    model, data = small("model=hrm", "seed=3").eval(), load_windows(quick())
    curve = halting.curve(model, halting.fit(halting.refined(model, data.train)), data.validation)
    segments = [point.mean_segments for point in curve]
    assert segments[0] == 1
    assert segments[-1] == SEGMENTS
    assert segments == sorted(segments)
    assert model.num_segments == 2


def test_a_model_of_more_segments_is_refined_by_all_of_them_and_a_text_as_far_as_asked():
    model, samples = small("model=hrm", "seed=3", "model.num_segments=6").eval(), load_windows(quick()).validation
    refined = halting.refined(model, samples, num_characters=3 * model.window - 1)
    assert refined.states.shape[:2] == (6, 3 * model.window)
