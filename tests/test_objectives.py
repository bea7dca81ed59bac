"""The objectives: their losses, and which parameters each of their steps touches, bit for bit."""

import pytest
import torch
from conftest import FEW, MODELS, SMALL, compose, fitting, random_batch, small, train
from reference import training as naive

import hrm_bench
from hrm_bench import optimizers
from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.config.words import conf_folder
from hrm_bench.errors import UsageError
from hrm_bench.objectives import dispersion_loss, task_loss


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model, before):
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_oacd_and_its_gradient_match_the_naive_sum():
    hidden = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours = dispersion_loss(hidden, anchor_weight=0.1)
    theirs = naive.dispersion_loss(hidden.reshape(-1, 7), anchor_weight=0.1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, hidden)[0] for loss in (ours, theirs)))


def test_deep_supervision_takes_an_optimizer_step_each_segment():
    model = small("model=hrm", "model.num_segments=4")
    train(model, [random_batch(4, 16)] * 3)  # two windows a sample
    assert model.trainer.global_step == 3 * 2 * 4


@pytest.mark.parametrize("update", ["sequential", "simultaneous"])
def test_deep_supervision_leaves_what_its_loss_does_not_reach_bitwise_as_it_was(update):
    model = small("model=hrm", f"model.update={update}")
    before = snapshot(model)
    train(model, [random_batch(4, 8)] * 3)
    untouched = set(before) - changed(model, before)
    expected = {"initial_states.0", "q_head.weight"}
    if update == "simultaneous":
        expected |= {name for name in before if name.startswith("levels.0.")}
    assert untouched == expected


@pytest.mark.parametrize("name", ["lct_1layer", "lct_2layer"])
def test_phase_one_trains_the_body_and_never_the_head(name):
    model = small(f"model={name}", "model.objective.head_learning_rate=0")
    before = snapshot(model)
    train(model, [random_batch(4, 8)] * 3)
    assert changed(model, before) == set(before) - {"head.weight"}


@pytest.mark.parametrize("name", ["lct_1layer", "lct_2layer"])
def test_phase_two_trains_the_head_and_never_the_body(name):
    model = small(f"model={name}", "model.objective.body_learning_rate=0")
    before = snapshot(model)
    train(model, [random_batch(4, 8)] * 3)
    assert changed(model, before) == {"head.weight"}


def test_oacd_takes_a_step_a_segment_on_the_body_and_one_a_window_on_the_head():
    model = small("model=lct_2layer", "model.num_segments=4")
    train(model, [random_batch(4, 8)] * 3)
    assert model.trainer.global_step == 3 * (4 + 1)


def test_a_head_given_time_takes_more_steps_on_the_same_states():
    words = ["model=lct_2layer", "model.num_segments=4", "model.objective.body_learning_rate=0"]
    batch = random_batch(4, 8)
    heads = {}
    for steps in (1, 8):
        torch.manual_seed(0)  # for the same random states in all
        model = small(*words, f"model.objective.head_steps={steps}")
        train(model, [batch])
        assert model.trainer.global_step == 4 + steps
        heads[steps] = model.head.weight.detach()
    torch.manual_seed(0)
    model = small(*words)
    hidden = []
    handle = model.head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    train(model, [batch])
    handle.remove()
    assert torch.equal(model.head.weight, heads[1])
    head = small(*words).head
    objective = model.objective
    rate = objective.config.head_learning_rate
    optimizer = optimizers.optimizer(objective.settings, head.parameters(), learning_rate=rate)
    for _ in range(8):
        loss = task_loss(head(hidden[3]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(head.weight.detach(), heads[8], rtol=0, atol=1e-6)


def test_a_head_with_a_bias_starts_as_one_without():
    plain, biased = (small("model=lct_2layer", f"model.head_bias={value}") for value in ("false", "true"))
    assert torch.equal(plain.head.weight, biased.head.weight)
    assert biased.head.bias.count_nonzero() == 0
    before = biased.head.bias.clone()
    train(biased, [random_batch(4, 8)])
    assert not torch.equal(before, biased.head.bias)


def test_oacd_never_sees_the_targets_in_its_body():
    tokens, targets = random_batch(4, 8)
    torch.manual_seed(0)  # for the same random states in both
    one = train(small("model=lct_2layer"), [(tokens, targets)] * 3)
    torch.manual_seed(0)
    other = train(small("model=lct_2layer"), [(tokens, targets.flip(1))] * 3)
    for name, value in snapshot(one).items():
        assert torch.equal(value, snapshot(other)[name]) == (name != "head.weight")


def test_gradients_are_clipped_before_each_step(monkeypatch):
    norms = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters, limit):
        clip(parameters, limit)
        norms.append(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item())

    monkeypatch.setattr("hrm_bench.charlm.nn.utils.clip_grad_norm_", watched)
    train(small("model=hrm", "recipe.gradient_clip=0.01"), [random_batch(4, 8)])
    assert len(norms) == 2
    assert all(norm == pytest.approx(0.01, rel=1e-3) for norm in norms)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_training_loss_is_the_mean_over_lanes_that_cannot_be_shared_out_equally(number):
    whole, parts = (small("model=hrm", f"trainer.micro_batches={n}") for n in (1, number))
    for model in (whole, parts):
        train(model, [random_batch(5, 16)])
    assert float(parts.train_nll.compute()) == pytest.approx(float(whole.train_nll.compute()), rel=1e-6)


def test_the_training_loss_of_oacd_is_that_before_the_head_has_learned_from_the_window():
    losses = []
    for steps in (1, 5):
        model = small(
            "model=lct_2layer", "model.objective.head_learning_rate=0.1", f"model.objective.head_steps={steps}"
        )
        train(model, [random_batch(4, 8)])
        losses.append(float(model.train_nll.compute()))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("objective", sorted(path.stem for path in (conf_folder() / "objective").glob("*.yaml")))
def test_every_objective_trains_every_model_or_is_refused_in_one_line(model, objective, tmp_path):
    words = fitting(*SMALL, *FEW, f"model={model}", f"objective={objective}", "logger=none")
    cell = Cell.of(compose(*words), tmp_path)
    built = hrm_bench.build(cell.config)
    first = next(built.refine(torch.zeros(1, 8, dtype=torch.long), built.initial_memory(1)))
    if objective == "oacd" and first.read_by_head is None:  # as that of the LSTM
        name = type(built).__name__
        line = (
            rf"^objective=oacd: trains the states between segments, and {name} has none; try objective=deep_super\w+$"
        )
        with pytest.raises(UsageError, match=line):
            preflight.check(cell)
    else:
        preflight.check(cell)  # with a training step and the audit of coverage
