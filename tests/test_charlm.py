"""The order of windows, segments and memory: causality above all."""

import functools

import pytest
import torch
from conftest import MODELS, SMALL, can_compile, fitting, having, keys, random_batch, small, train, trainer

import hrm_bench
from hrm_bench.config.identity import uses_memory
from hrm_bench.evidence import causality
from hrm_bench.training.build import load_windows

WITH_MEMORY = [name for name in MODELS if uses_memory(hrm_bench.compose("data=sample", f"model={name}"))]


def modes():
    """Every model with every memory mode that makes a difference to it."""
    return [
        (name, mode) for name in MODELS for mode in (("none", "reset", "carry") if name in WITH_MEMORY else ("reset",))
    ]


def variants():
    """Each of these with every update order and write rule that it has."""
    return [
        pytest.param(name, mode, update, rule, id=f"{name}-{mode}-{update}-{rule}")
        for name, mode in modes()
        for update in (("sequential", "simultaneous") if "update" in keys(name) else ("sequential",))
        for rule in (("linear", "delta") if name in WITH_MEMORY else ("linear",))
    ]


@pytest.mark.parametrize(("name", "mode", "update", "rule"), variants())
def test_no_logit_moves_when_a_later_character_does(name, mode, update, rule):
    for num_segments, num_windows in ((1, 4), (2, 1), (2, 4), (4, 4)):
        settings = [f"model={name}", f"memory={mode}", f"model.update={update}", f"memory.rule={rule}"]
        model = small(*settings, f"model.num_segments={num_segments}")
        assert causality.is_causal(causality.leak(model, num_windows=num_windows))
        train(model, [random_batch(4, 8 * num_windows, seed) for seed in range(2)])
        assert causality.is_causal(causality.leak(model, num_windows=num_windows))


def assert_both_ways_see(leak):
    assert min(leak.values()) > causality.TOLERANCE
    assert not causality.is_causal(leak)


@pytest.mark.parametrize("name", having("causal"))
def test_the_audit_catches_a_missing_causal_mask(name):
    assert_both_ways_see(causality.leak(small(f"model={name}", "model.causal=false"), num_windows=2))


@pytest.mark.parametrize("name", [name for name in WITH_MEMORY if small(f"model={name}").num_segments > 1])
def test_the_audit_catches_a_memory_written_in_every_segment(name):
    assert_both_ways_see(causality.leak(small(f"model={name}", "memory.write=every_segment"), num_windows=1))


@pytest.mark.parametrize("name", MODELS)
def test_the_audit_catches_a_planted_leak_of_one_character(name):
    class Leaky(type(small(f"model={name}"))):
        def segment(self, tokens, state, memory, index):
            logits, state, update = super().segment(tokens, state, memory, index)
            leak = torch.zeros_like(logits)
            leak[:, 2, 0] = 1e-6 * tokens[:, 3]
            return logits + leak, state, update

    model = small(f"model={name}")
    model.__class__ = Leaky
    assert not causality.is_causal(causality.leak(model, num_windows=1))


@pytest.mark.parametrize("name", MODELS)
def test_both_audits_catch_a_planted_leak_of_one_embedding_even_without_gradient(name):
    class Leaky(type(small(f"model={name}"))):
        def segment(self, tokens, state, memory, index):
            logits, state, update = super().segment(tokens, state, memory, index)
            with torch.no_grad():
                future = self.embedding(tokens)[:, 3, 0].detach()
            leak = torch.zeros_like(logits)
            leak[:, 2, 0] = 1e-6 * future
            return logits + leak, state, update

    model = small(f"model={name}")
    model.__class__ = Leaky
    assert_both_ways_see(causality.leak(model, num_windows=2))


def test_a_model_that_embeds_nothing_is_told_that_its_gradient_cannot_be_audited():
    class OneHot(type(small("model=lstm"))):
        def segment(self, tokens, state, memory, index):
            return torch.nn.functional.one_hot(tokens, 97).float(), state, memory

    model = small("model=lstm")
    model.__class__ = OneHot
    with pytest.raises(ValueError, match=r"reads no nn\.Embedding"):
        causality.leak(model, num_windows=1)


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_the_audit_by_gradient_sees_through_a_memory_that_is_written_without_gradient(name):
    model = small(f"model={name}", "memory=carry")
    text = torch.arange(16)[None]
    with causality._AllPathsOpen() as paths:
        _, memory = model(text[:, :8])
        logits, _ = model(text[:, 8:], memory)
    read_by_the_written_segment = paths.embedded[model.num_segments - 1]
    (gradient,) = torch.autograd.grad(logits[0, 4].sum(), read_by_the_written_segment)
    assert gradient.abs().sum() > 0
    assert torch.is_grad_enabled()
    assert not model(text)[0].detach().requires_grad


def test_all_segments_of_a_window_read_the_memory_as_it_stood_before_it(monkeypatch):
    model = small("model=infini_hrm", "model.num_segments=4")
    read = []
    segment = model.segment

    def watched(tokens, state, memory, index):
        read.append(memory[0].matrix)
        return segment(tokens, state, memory, index)

    monkeypatch.setattr(model, "segment", watched)
    model(random_batch(2, 24)[0])
    windows = [read[index : index + 4] for index in (0, 4, 8)]
    for window in windows:
        assert all(torch.equal(matrix, window[0]) for matrix in window)
    assert torch.equal(windows[0][0], torch.zeros_like(windows[0][0]))
    assert not torch.equal(windows[1][0], windows[0][0])
    assert not torch.equal(windows[2][0], windows[1][0])


def carried(model, batches, epochs=1):
    """The memory that each training window of a fit starts from, as its matrices."""
    started = []
    refine = model.refine

    def watched(tokens, memory):
        started.append(memory[0].matrix.clone())
        return refine(tokens, memory)

    model.refine = watched
    train(model, batches, epochs)
    return started


def is_empty(matrix):
    return torch.equal(matrix, torch.zeros_like(matrix))


def test_reset_is_empty_at_each_batch_and_hands_on_within_a_sample():
    started = carried(small("model=infini_hrm", "memory=reset"), [random_batch(4, 24)] * 2)
    assert [is_empty(matrix) for matrix in started] == [True, False, False] * 2


def test_carry_is_handed_on_between_batches_and_empty_at_each_epoch():
    started = carried(small("model=infini_hrm", "memory=carry"), [random_batch(4, 8)] * 3, epochs=2)
    assert [is_empty(matrix) for matrix in started] == [True, False, False] * 2


def test_carry_belongs_to_a_lane():
    batches = [random_batch(4, 8, seed=0), random_batch(4, 8, seed=1)]
    other = [(batches[0][0].clone(), batches[0][1]), batches[1]]
    other[0][0][2] = (other[0][0][2] + 1) % 97  # another text in lane 2 alone
    # Without learning, so that the lanes are not bound by shared weights.
    ours, theirs = (
        carried(small("model=infini_hrm", "memory=carry", "recipe.learning_rate=0"), each)[1]
        for each in (batches, other)
    )
    assert [torch.equal(ours[lane], theirs[lane]) for lane in range(4)] == [True, True, False, True]


def test_a_smaller_batch_keeps_the_memory_of_the_lanes_that_it_has():
    batches = [random_batch(4, 8), random_batch(2, 8)]
    whole = [random_batch(4, 8), random_batch(4, 8)]
    settings = ("model=infini_hrm", "memory=carry", "recipe.learning_rate=0")
    assert torch.equal(carried(small(*settings), batches)[1], carried(small(*settings), whole)[1][:2])


def score(settings, batch_size):
    cfg = hrm_bench.compose(
        *fitting(*SMALL, "data.validation_chars=1000", *settings), f"recipe.evaluation_batch_size={batch_size}"
    )
    model, data = hrm_bench.build(cfg), load_windows(cfg)
    for parameter in model.parameters():
        parameter.data += 0.05  # away from the symmetric start: a memory that matters
    trainer().validate(model, datamodule=data, verbose=False)
    return model.nll.compute().item()


@pytest.mark.parametrize("windows_per_sample", [1, 4])
@pytest.mark.parametrize(("name", "mode"), modes())
def test_a_score_does_not_depend_on_the_batch_size(name, mode, windows_per_sample):
    settings = [f"model={name}", f"memory={mode}", f"data.windows_per_sample={windows_per_sample}"]
    scores = [score(settings, batch_size) for batch_size in (1, 7, 16, 78)]
    assert max(scores) - min(scores) < 1e-5


def test_evaluation_follows_the_memory_mode():
    none, reset, carry = (score(["model=infini_hrm", f"memory={mode}"], 16) for mode in ("none", "reset", "carry"))
    assert none == pytest.approx(reset, abs=1e-6)  # one window a sample: nothing to remember
    assert abs(carry - reset) > 1e-4
    samples = score(["model=infini_hrm", "memory=reset", "data.windows_per_sample=4"], 16)
    assert abs(samples - reset) > 1e-4
    as_published = score(["model=infini_hrm", "memory=carry", "memory.evaluation=reset"], 16)
    assert as_published == pytest.approx(reset, abs=1e-6)


def test_evaluation_in_carry_starts_empty_each_time():
    cfg = hrm_bench.compose(*SMALL, "model=infini_hrm", "memory=carry")
    model, data = hrm_bench.build(cfg), load_windows(cfg)
    scores = []
    for _ in range(2):
        trainer().validate(model, datamodule=data, verbose=False)
        scores.append(model.nll.compute().item())
    assert scores[0] == scores[1]


def test_without_its_causal_mask_perplexity_falls_far_under_what_reading_forward_reaches():
    batches = [random_batch(16, 8, seed) for seed in range(20)]  # random text: nothing can be foretold
    losses = {}
    for causal in ("true", "false"):
        model = small("model=hrm", f"model.causal={causal}", "recipe.learning_rate=0.01")
        train(model, batches, epochs=15)
        losses[causal] = model.train_nll.compute().item()
    assert losses["true"] > 4.0  # ln 97 = 4.57
    assert losses["false"] < losses["true"] - 1.0


@can_compile
def test_compiled_training_is_eager_training_to_rounding_and_evaluation_is_not_compiled(monkeypatch):
    # All of compiling but the making of machine code, which takes a minute; the benchmark compares that, too.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    models = [small("model=hrm", "model.num_segments=1") for _ in range(2)]
    models[1].compile_training(4)
    for tokens, _ in (random_batch(4, 8), random_batch(3, 8), random_batch(4, 5)):  # compiled; too few lanes; too short
        eager, compiled = ([*model.train().refine(tokens, ())][-1].logits for model in models)
        torch.testing.assert_close(compiled, eager, atol=1e-6, rtol=1e-5)
        for logits, model in ((eager, models[0]), (compiled, models[1])):
            model.zero_grad()
            logits.square().sum().backward()
        for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
            if theirs.grad is not None:
                torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    models[1]._compiled = lambda *_: pytest.fail("it is compiled")
    models[1].eval()(random_batch(4, 8)[0])
