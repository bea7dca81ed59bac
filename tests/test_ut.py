"""The universal transformer: one block in a loop is a deep transformer whose layers are tied."""

import pytest
import torch
from conftest import FEW, QUICK, SMALL, compose, figures, random_batch, small, stopped_after, train, weights

from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.evidence import causality
from hrm_bench.objectives import task_loss


def without_signals(num_loops):
    """A universal transformer whose loops have no signals, and an untied transformer of equal weights and depth."""
    looped = small("model=ut", f"model.num_loops={num_loops}").double()
    deep = small("model=transformer", f"model.num_layers={num_loops}").double()
    with torch.no_grad():
        for signal in looped.loop_signals:
            signal.zero_()
    block = looped.blocks[0].state_dict()
    rest = {name: value for name, value in looped.state_dict().items() if name in ("embedding.weight", "head.weight")}
    deep.load_state_dict(rest | {f"blocks.{n}.{name}": block[name] for n in range(num_loops) for name in block})
    return looped, deep


@pytest.mark.parametrize("num_loops", [1, 2, 5])
def test_loops_are_the_layers_of_a_transformer_and_their_gradient_is_the_sum_over_layers(num_loops):
    looped, deep = without_signals(num_loops)
    tokens, targets = random_batch(2, 8)
    (ours, _), (theirs, _) = looped(tokens), deep(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    task_loss(ours, targets).backward()
    task_loss(theirs, targets).backward()
    for name, parameter in looped.blocks[0].named_parameters():
        layers = torch.stack([block.get_parameter(name).grad for block in deep.blocks])
        torch.testing.assert_close(parameter.grad, layers.sum(dim=0), atol=1e-12, rtol=0)
        assert all(gradient.abs().max() > 1e-9 for gradient in layers)
    torch.testing.assert_close(looped.embedding.weight.grad, deep.embedding.weight.grad, atol=1e-12, rtol=0)


def test_each_loop_has_a_signal_of_its_own_that_the_loss_trains():
    model = small("model=ut", "model.num_loops=3")
    tokens, targets = random_batch(2, 8)
    before, _ = model(tokens)
    assert len({tuple(signal.tolist()) for signal in model.loop_signals}) == 3
    task_loss(before, targets).backward()
    assert all(signal.grad.abs().max() > 0 for signal in model.loop_signals)
    with torch.no_grad():
        model.loop_signals[1].add_(torch.linspace(-1, 1, 16))
    assert (model(tokens)[0] - before).abs().max() > 1e-3


def test_more_segments_refine_the_last_output_with_a_step_each():
    model = small("model=ut", "model.num_segments=2", "model.num_loops=2").double()
    tokens, _ = random_batch(2, 8)
    first, second = model.refine(tokens, ())
    hidden = first.state[0].detach() + model.embedding(tokens)
    for signal in model.loop_signals:
        hidden = model.blocks(hidden + signal)
    torch.testing.assert_close(second.logits, model.head(hidden), atol=1e-12, rtol=0)
    assert (second.logits - first.logits).abs().max() > 1e-3
    trained = train(small("model=ut", "model.num_segments=2"), [random_batch(4, 16)] * 3)  # two windows a sample
    assert trained.trainer.global_step == 3 * 2 * 2


def test_a_window_passes_through_as_many_blocks_as_in_hrm():
    ut, hrm = (compose("data=sample", f"model={name}").model for name in ("ut", "hrm"))
    steps = hrm.num_cycles * hrm.num_timesteps
    of_hrm = hrm.num_segments * hrm.num_layers * sum(steps // period for period in hrm.periods)
    assert ut.num_segments * ut.num_loops * ut.num_layers == of_hrm == 6


def test_it_keeps_the_contract_and_sees_no_later_character_unless_asked(tmp_path):
    preflight.check(Cell.of(compose(*SMALL, "model=ut"), tmp_path))
    assert causality.is_causal(causality.leak(small("model=ut"), num_windows=1))
    assert not causality.is_causal(causality.leak(small("model=ut", "model.causal=false"), num_windows=1))


def test_a_cell_that_was_stopped_goes_on_to_the_bit(tmp_path, monkeypatch):
    cfg = compose(*QUICK, *FEW, "model=ut", "recipe=tuned_by_hand", "recipe.max_epochs=3", "logger=none")
    record = run_cell(cfg, tmp_path / "whole")
    with monkeypatch.context() as during:
        stopped_after(2, during)
        assert run_cell(cfg, tmp_path / "parts")["status"] == "interrupted"
    assert figures(run_cell(cfg, tmp_path / "parts")) == figures(record)
    one, other = (weights(cell_folder(cfg, tmp_path / folder)) for folder in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
