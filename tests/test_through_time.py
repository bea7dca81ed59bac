"""Backpropagation through what earlier windows wrote: its steps, its gradients, and what it refuses."""

import pytest
import torch
from conftest import FEW, QUICK, SMALL, compose, figures, fitting, random_batch, small, stopped_after, weights
from reference.training import reference

import hrm_bench
from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.errors import UsageError
from hrm_bench.evidence import causality
from hrm_bench.training.bare import without_trainer

SAMPLE = ["objective=through_time", "data.windows_per_sample=4"]
THROUGH = [*SAMPLE, "memory.gradient=through"]
CASES = {
    "infini_hrm": ["model=infini_hrm"],
    "infini_hrm bound": ["model=infini_hrm", "memory.bind=previous", "memory.features=l2", "memory.rule=delta"],
    "infini_hrm with positions": ["model=infini_hrm", "model.local_positions=rotary"],
    "hrm_memory": ["model=hrm_memory"],
    "hrm_memory tied": ["model=hrm_memory", "memory.features=l2", "memory.tie=true", "model.num_segments=1"],
    "hrm": ["model=hrm"],
    "lstm": ["model=lstm"],
    "gated_delta_net": ["model=gated_delta_net"],
    "transformer_xl": ["model=transformer_xl"],
    "transformer_xl of less than a window": ["model=transformer_xl", "model.cache_length=5"],
}


@pytest.mark.parametrize("gradient", ["none", "through"])
@pytest.mark.parametrize("unroll", ["null", "3"])
@pytest.mark.parametrize("words", CASES.values(), ids=CASES)
def test_training_through_time_matches_the_naive_loop(words, unroll, gradient):
    config = compose(*fitting(*SMALL, *SAMPLE, *words, f"memory.unroll={unroll}", f"memory.gradient={gradient}"))
    model = hrm_bench.build(config).double()
    naive = reference(config, dict(model.named_parameters()))
    train = without_trainer(model)
    for seed in range(2):  # the second loss shows what the first steps of the optimizer did
        batch = random_batch(3, 32, seed)
        trained = train(batch)
        torch.testing.assert_close(trained.losses[-1], naive.train(*batch), atol=1e-9, rtol=0)
    expected = {name: p.grad for name, p in naive.model.parameters.items() if p.grad is not None}
    assert expected.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, atol=1e-9, rtol=0)


def gradient_in_keys(*words):
    """Return the gradient in the projections of HRM+Memory's lower level after one step on four windows."""
    model = small("model=hrm_memory", "recipe.gradient_clip=null", *words)
    without_trainer(model)(random_batch(2, 32))
    return model.memories[0].qkv.weight.grad[16:].norm()  # of keys and values, without queries


def test_a_loss_reaches_the_keys_and_values_of_earlier_windows_only_through_the_write():
    assert gradient_in_keys(*SAMPLE) == 0
    assert gradient_in_keys(*THROUGH) > 0
    assert gradient_in_keys(*THROUGH, "memory.unroll=1") == 0
    assert gradient_in_keys(*THROUGH, "memory=none") == 0


@pytest.mark.parametrize(("unroll", "steps"), [("null", 1), ("1", 4), ("3", 2), ("4", 1)])
def test_one_step_is_taken_per_unroll(unroll, steps):
    model = small("model=infini_hrm", *THROUGH, f"memory.unroll={unroll}")
    tokens, targets = random_batch(2, 32)
    windows = [*zip(tokens.split(8, dim=1), targets.split(8, dim=1), strict=True)]
    taken = []
    for step in model.objective.steps(model, windows, model.initial_memory(2), weight=1.0):
        taken.append([loss.detach() for loss in step.losses])
    assert len(taken) == steps


def test_an_unroll_of_one_window_and_segment_is_deep_supervision_to_the_bit():
    results = []
    for words in (["data.windows_per_sample=4"], [*SAMPLE, "memory.unroll=1"], [*THROUGH, "memory.unroll=1"]):
        model = small("model=infini_hrm", "model.num_segments=1", *words)
        losses = [without_trainer(model)(random_batch(3, 32, seed)).losses for seed in range(2)]
        results.append(torch.cat([torch.tensor(losses).flatten(), *(p.detach().flatten() for p in model.parameters())]))
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("words", [THROUGH, [*THROUGH, "memory.unroll=2"]])
def test_lanes_in_parts_train_as_lanes_together(words):
    whole, parts = (small("model=infini_hrm", *words, f"trainer.micro_batches={n}").double() for n in (1, 3))
    trained = [without_trainer(model)(random_batch(5, 32)) for model in (whole, parts)]
    torch.testing.assert_close(*(torch.stack(one.losses) for one in trained), atol=1e-9, rtol=0)
    torch.testing.assert_close(*(one.memory[0].matrix for one in trained), atol=1e-9, rtol=0)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["infini_hrm", "hrm_memory", "hrm", "lstm", "gated_delta_net", "transformer_xl"])
def test_a_model_trained_through_time_keeps_the_contract_and_sees_no_later_character(name, tmp_path):
    words = fitting(*SMALL, f"model={name}", *THROUGH, "memory=carry")
    preflight.check(Cell.of(compose(*words), tmp_path))
    assert causality.is_causal(causality.leak(small(f"model={name}", *THROUGH), num_windows=3))


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        (2, ["model=hrm_memory", *THROUGH, "memory.unroll=2"]),
        (4, ["model=lstm", *THROUGH]),
        (2, ["model=transformer_xl", *THROUGH]),
        (2, ["model=infini_hrm", "model.local_positions=rotary", *THROUGH]),
        (3, ["model=lstm", "data.windows_per_sample=4"]),
    ],
)
def test_a_cell_that_was_stopped_goes_on_to_the_bit(looks, words, tmp_path, monkeypatch):
    more = ["memory=carry", "data.order=contiguous", "recipe.batch_size=2", "logger=none"]
    cfg = compose(*fitting(*QUICK, *FEW, *words, *more))
    record = run_cell(cfg, tmp_path / "whole")
    with monkeypatch.context() as during:
        stopped_after(looks, during)
        assert run_cell(cfg, tmp_path / "parts")["status"] == "interrupted"
    assert figures(run_cell(cfg, tmp_path / "parts")) == figures(record)
    one, other = (weights(cell_folder(cfg, tmp_path / folder)) for folder in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["memory.gradient=through", "data.windows_per_sample=4"], r"DeepSupervision takes .* add objective=through_t"),
        (["memory.gradient=through", "objective=through_time"], r"a sample has one window .* data\.windows_per_sample"),
        ([*THROUGH, "memory.write=every_segment"], r"needs memory\.write=after_window, not every_segment"),
        (["memory.unroll=2"], r"memory\.unroll=2: is for objective=through_time; add that, or leave"),
        ([*SAMPLE, "memory.unroll=8"], r"memory\.unroll=8: a sample has fewer windows; try data\.windows_per_sample=8"),
        ([*SAMPLE, "memory.unroll=0"], r"memory\.unroll=0: must be at least 1"),
    ],
)
def test_a_gradient_that_cannot_go_back_is_refused_in_one_line(words, line):
    with pytest.raises(UsageError, match=line) as caught:
        hrm_bench.compose("data=sample", "model=infini_hrm", *words)
    assert len(caught.value.faults) == 1
