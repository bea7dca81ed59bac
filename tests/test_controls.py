"""The control architectures: as large as HRM, each against its equations unrolled by hand, gradients included."""

import pytest
import torch
from conftest import random_batch, small, train
from reference import layers as naive
from torch.func import functional_call

import hrm_bench
from hrm_bench.objectives import task_loss

PARAMETERS = {
    "model=transformer": 152_192,
    "model=transformer_refined": 152_192,
    "model=lstm": 152_460,
    "model=gated_delta_net": 151_920,
    "model=transformer_xl": 152_064,
    "model=trm": 151_936,
    "model=ut": 152_192,
    "model=trm_one_step": 151_936,
    "model=hrm_last_segment": 152_064,
    "model=hrm model.hidden_width=267 model.num_layers=2 model.periods=[1]": 152_192,
    "model=hrm model.update=simultaneous": 152_064,
    "model=lct_2layer_task": 149_952,
    "model=lct_2layer model.head_bias=true": 150_049,
    "model=lct_2layer model.objective.head_steps=8": 149_952,
}


@pytest.mark.parametrize(("words", "number"), PARAMETERS.items())
def test_a_control_has_its_exact_number_of_parameters_within_two_per_cent_of_hrm(words, number):
    ours, hrm = (
        sum(p.numel() for p in hrm_bench.build(hrm_bench.compose("data=sample", *each.split())).parameters())
        for each in (words, "model=hrm")
    )
    assert ours == number
    assert abs(ours - hrm) <= 0.02 * hrm


def gradients(loss, parameters):
    return torch.autograd.grad(loss, list(parameters), allow_unused=True)


def assert_same(ours, theirs, atol=1e-9):
    """Two lists of tensors, with None at the same positions."""
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine is None) == (reference is None)
        if mine is not None:
            torch.testing.assert_close(mine, reference, atol=atol, rtol=0)


def unreached(model, loss):
    parameters = dict(model.named_parameters())
    values = gradients(loss, parameters.values())
    return {name for name, gradient in zip(parameters, values, strict=True) if gradient is None}


def test_the_transformer_and_its_gradients_match_the_naive_loop():
    model = small("model=transformer").double()
    tokens, targets = random_batch(2, 8)
    logits, _ = model(tokens)

    parameters = dict(model.named_parameters())
    lanes = []
    for lane in tokens:
        hidden = parameters["embedding.weight"][lane]
        for index in range(2):
            hidden = naive.block(hidden, parameters, f"blocks.{index}", num_heads=2)
        lanes.append(hidden @ parameters["head.weight"].T)
    reference = torch.stack(lanes)

    torch.testing.assert_close(logits, reference, atol=1e-6, rtol=0)
    ours, theirs = (gradients(task_loss(each, targets), parameters.values()) for each in (logits, reference))
    assert_same(ours, theirs, atol=1e-6)  # the package's rotary angles are rounded to single precision
    assert all(gradient is not None for gradient in ours)


def test_each_segment_of_the_refined_transformer_reads_the_last_one_as_values_without_gradient():
    model = small("model=transformer_refined", "model.num_segments=3").double()
    tokens, targets = random_batch(2, 8)
    z = torch.zeros(2, 8, 16, dtype=torch.float64)
    seen = []
    for refinement in model.refine(tokens, ()):
        z = z.detach() + model.embedding(tokens)
        for block in model.blocks:
            z = block(z)
        logits = model.head(z)
        torch.testing.assert_close(refinement.logits, logits, atol=1e-9, rtol=0)
        ours, theirs = (gradients(task_loss(each, targets), model.parameters()) for each in (refinement.logits, logits))
        assert_same(ours, theirs)
        assert all(gradient is not None for gradient in ours)
        seen.append(refinement.logits)
    assert len(seen) == 3
    assert (seen[1] - seen[0]).abs().max() > 1e-3
    assert (seen[2] - seen[1]).abs().max() > 1e-3


def test_the_refined_transformer_starts_as_the_plain_one():
    tokens, _ = random_batch(2, 8)
    plain, refined = (small(f"model={name}") for name in ("transformer", "transformer_refined"))
    first, last = (refinement.logits for refinement in refined.refine(tokens, ()))
    assert torch.equal(first, plain(tokens)[0])
    assert torch.equal(last, refined(tokens)[0])


def lstm_logits(parameters, tokens):
    """One lane's (T,) characters through an LSTM cell, a character at a time."""
    width = parameters["embedding.weight"].shape[1]
    hidden = cell = torch.zeros(width, dtype=torch.float64)
    logits = []
    for token in tokens:
        x = parameters["embedding.weight"][token]
        gates = (
            parameters["recurrent.weight_ih_l0"] @ x
            + parameters["recurrent.bias_ih_l0"]
            + parameters["recurrent.weight_hh_l0"] @ hidden
            + parameters["recurrent.bias_hh_l0"]
        )
        i, f, g, o = gates.split(width)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        logits.append(parameters["head.weight"] @ hidden)
    return torch.stack(logits)


def test_the_lstm_and_its_gradients_match_a_cell_written_by_hand():
    model = small("model=lstm").double()
    tokens, targets = random_batch(3, 8)
    logits, _ = model(tokens)
    parameters = dict(model.named_parameters())
    reference = torch.stack([lstm_logits(parameters, lane) for lane in tokens])
    torch.testing.assert_close(logits, reference, atol=1e-9, rtol=0)
    ours, theirs = (gradients(task_loss(each, targets), parameters.values()) for each in (logits, reference))
    assert_same(ours, theirs)
    assert all(gradient is not None for gradient in ours)


def test_the_lstm_forgets_at_each_window():
    model = small("model=lstm").double().eval()
    tokens, _ = random_batch(2, 16)
    whole, _ = model(tokens)
    parameters = dict(model.named_parameters())
    for lane, logits in zip(tokens, whole, strict=True):
        torch.testing.assert_close(logits[8:], lstm_logits(parameters, lane[8:]), atol=1e-9, rtol=0)
        assert (logits[8:] - lstm_logits(parameters, lane)[8:]).abs().max() > 1e-6  # had it gone on


def through_whole_text(*words):
    """Return logits and gradients of three windows in turn, and of one text read by a cell written by hand."""
    model = small("model=lstm", *words).double()
    tokens, targets = random_batch(2, 24)
    (logits, memory), parameters = model(tokens), dict(model.named_parameters())
    whole = torch.stack([lstm_logits(parameters, lane) for lane in tokens])
    found = [(one, gradients(task_loss(one, targets), parameters.values())) for one in (logits, whole)]
    return found, memory


@pytest.mark.parametrize("mode", [["memory=carry"], ["data.windows_per_sample=3"]])
def test_the_lstm_carries_its_state_from_window_to_window(mode):
    ((ours, truncated), (whole, exact)), memory = through_whole_text(*mode)
    torch.testing.assert_close(ours, whole, atol=1e-9, rtol=0)
    assert [part.shape for part in memory] == [(2, 16)] * 2
    assert not any(part.requires_grad for part in memory)
    assert max((one - other).abs().max() for one, other in zip(truncated, exact, strict=True)) > 1e-6


def test_the_gradient_of_an_lstm_goes_through_its_state_if_asked():
    words = ["memory=carry", "memory.gradient=through", "objective=through_time", "data.windows_per_sample=3"]
    ((ours, through), (whole, exact)), _ = through_whole_text(*words)
    torch.testing.assert_close(ours, whole, atol=1e-9, rtol=0)
    assert_same(through, exact)


def test_the_lstms_own_draw_is_decided_by_the_seed():
    first, again, other = (small("model=lstm", f"seed={seed}").state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


TRM = ["model=trm", "model.num_latent_updates=3"]


@pytest.mark.parametrize("num_cycles", [1, 3])
def test_a_trm_segment_and_its_gradients_match_the_unrolled_updates(num_cycles):
    model = small(*TRM, f"model.num_cycles={num_cycles}").double()
    tokens, targets = random_batch(2, 8)
    logits, state, _ = model.segment(tokens, model.initial_state(2, 8), (), 0)

    x = model.embedding(tokens)
    y, z = (initial.repeat(2, 1, 1) for initial in model.initial_states)
    with torch.no_grad():
        for _ in range(num_cycles - 1):
            z = model.net(x + y + z)
            z = model.net(x + y + z)
            z = model.net(x + y + z)
            y = model.net(y + z)
    z = model.net(x + y + z)
    z = model.net(x + y + z)
    z = model.net(x + y + z)
    y = model.net(y + z)
    reference = model.head(y)

    assert_same((logits, *state), (reference, y, z))
    ours, theirs = (gradients(task_loss(each, targets), model.parameters()) for each in (logits, reference))
    assert_same(ours, theirs)
    unread = {"initial_states.0", "initial_states.1"}
    assert unreached(model, task_loss(model(tokens)[0], targets)) == unread  # the second segment starts from the first
    first = next(iter(model.refine(tokens, ()))).logits
    assert unreached(model, task_loss(first, targets)) == (set() if num_cycles == 1 else unread)


def test_trms_gradient_flows_through_every_update_of_the_last_cycle_and_none_of_the_earlier():
    model = small(*TRM, "model.num_cycles=2").double()
    tokens, targets = random_batch(2, 8)
    logits, _, _ = model.segment(tokens, model.initial_state(2, 8), (), 0)
    ours = gradients(task_loss(logits, targets), model.net.parameters())

    # The same with a copy of the network for each of the 2 · (3 + 1) updates, so that each has a gradient of its own.
    copies = [
        {name: parameter.detach().clone().requires_grad_() for name, parameter in model.net.named_parameters()}
        for _ in range(8)
    ]

    def updated(index, inputs):
        return functional_call(model.net, copies[index], (inputs,))

    x = model.embedding(tokens)
    y, z = model.initial_state(2, 8)
    for first in (0, 4):
        y, z = y.detach(), z.detach()
        for index in range(first, first + 3):
            z = updated(index, x + y + z)
        y = updated(first + 3, y + z)
    loss = task_loss(model.head(y), targets)
    size = len(ours)
    flat = gradients(loss, [parameter for copy in copies for parameter in copy.values()])
    per_update = [flat[start : start + size] for start in range(0, len(flat), size)]

    assert all(gradient is None for early in per_update[:4] for gradient in early)
    assert all(gradient.abs().max() > 1e-6 for late in per_update[4:] for gradient in late)
    assert_same(ours, [sum(parts) for parts in zip(*per_update[4:], strict=True)])
    without_the_first = [sum(parts) for parts in zip(*per_update[5:], strict=True)]
    assert any((mine - less).abs().max() > 1e-6 for mine, less in zip(ours, without_the_first, strict=True))


def test_supervision_of_the_last_segment_takes_one_optimizer_step_a_window():
    model = small("model=hrm_last_segment", "model.num_segments=4")
    train(model, [random_batch(4, 16)] * 3)  # two windows a sample
    assert model.trainer.global_step == 3 * 2


def last_gradients(*settings):
    """The gradients of the last step of one window, at weights that no step has changed."""
    model = train(small("recipe.learning_rate=0", *settings), [random_batch(4, 8)])
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("num_segments", [2, 4])
def test_its_gradient_is_that_of_deep_supervisions_last_segment_at_the_same_weights(num_segments):
    segments = f"model.num_segments={num_segments}"
    ours, deep = (last_gradients(f"model={name}", segments) for name in ("hrm_last_segment", "hrm"))
    assert_same(ours.values(), deep.values(), atol=0)
    first = last_gradients("model=hrm", "model.num_segments=1")
    assert not torch.equal(ours["head.weight"], first["head.weight"])


def test_it_leaves_what_only_an_earlier_segment_reads_bitwise_as_it_was():
    model = small("model=hrm_last_segment")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, [random_batch(4, 8)] * 3)
    untouched = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert untouched == {"initial_states.0", "initial_states.1", "q_head.weight"}


def test_it_reports_the_loss_of_the_last_segment():
    model = small("model=hrm_last_segment", "recipe.learning_rate=0")
    tokens, targets = random_batch(4, 8)
    expected = task_loss(model(tokens)[0], targets).item()
    train(model, [(tokens, targets)])
    assert model.train_nll.compute().item() == pytest.approx(expected, rel=1e-6)
