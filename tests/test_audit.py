"""Which loss reaches which part: the documents' own table, measured; and the audit's command."""

import functools

import pytest
import torch
from commands import hrm_bench
from conftest import SMALL, can_compile, small

from hrm_bench.evidence.coverage import gradient_coverage
from hrm_bench.objectives import DeepSupervision, task_loss
from hrm_bench.optimizers import optimizer
from hrm_bench.steps import Step, Trained

TASK, OACD, NONE = ["task"], ["OACD"], []


def test_the_task_loss_reaches_every_part_of_hrm_and_oacd_the_body_of_lct():
    assert gradient_coverage(small("model=hrm")) == {
        "embedding": TASK,
        "levels.0": TASK,
        "levels.1": TASK,
        "initial_states.0": NONE,
        "initial_states.1": TASK,
        "head": TASK,
        "q_head": NONE,
    }
    assert gradient_coverage(small("model=lct_2layer")) == {
        "embedding": OACD,
        "levels.0": OACD,
        "levels.1": OACD,
        "head": TASK,
    }


def test_under_simultaneous_updates_no_loss_reaches_the_low_level():
    coverage = gradient_coverage(small("model=hrm", "model.update=simultaneous"))
    assert coverage["levels.0"] == NONE
    assert coverage["levels.1"] == TASK


def test_gradient_through_all_steps_reaches_the_low_levels_initial_state():
    assert gradient_coverage(small("model=hrm", "model.gradient_depth=2"))["initial_states.0"] == TASK


@pytest.mark.parametrize("mode", ["reset", "carry", "none"])
def test_the_parts_of_a_memory_are_reached(mode):
    assert gradient_coverage(small("model=infini_hrm", f"memory={mode}"))["infini_attention"] == TASK
    memories = gradient_coverage(small("model=hrm_memory", f"memory={mode}"))
    assert memories["memories.0"] == memories["memories.1"] == TASK


def test_an_objective_of_three_optimizers_has_the_losses_that_it_names():
    class ThreePhases(DeepSupervision):
        def optimizers(self, model):
            parts = (model.embedding, model.levels, model.head)
            return [optimizer(self.settings, part.parameters()) for part in parts]

        def steps(self, model, windows, memory, *, weight):
            for tokens, targets in windows:
                yield Step(0, [model.embedding.weight.square().sum()], name="small")
                *_, last = model.refine(tokens, memory)
                yield Step(2, [task_loss(model.head(last.read_by_head), targets)])
                yield Step(1, (level.square().sum() for level in last.state), len(last.state), name="small")
            return Trained([], memory)

    model = small("model=hrm", "model.num_segments=1")
    model.objective = ThreePhases(ThreePhases.Config(), model.objective.settings)
    coverage = gradient_coverage(model)
    assert coverage["embedding"] == coverage["levels.0"] == coverage["levels.1"] == ["small"]
    assert coverage["head"] == TASK
    assert coverage["q_head"] == NONE


@can_compile
def test_the_coverage_of_a_compiled_model_is_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = small("model=transformer")
    coverage = gradient_coverage(model)
    model.compile_training(2)  # lanes, as many as the audit has
    assert gradient_coverage(model) == coverage


def test_the_audit_leaves_the_model_as_it_was():
    model = small("model=lct_2layer")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    gradient_coverage(model)
    assert all(parameter.equal(before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_command_shows_both_audits_and_exits_with_1_where_a_model_is_not_causal(tmp_path):
    done = hrm_bench(*SMALL, "model=lct_2layer", cwd=tmp_path, module="hrm_bench.audit")
    assert done.returncode == 0, done.stderr
    assert "lct_2layer: causal" in done.stdout
    assert "OACD" in done.stdout
    words = [*SMALL, "model=infini_hrm", "memory.write=every_segment"]
    leaky = hrm_bench(*words, cwd=tmp_path, module="hrm_bench.audit")
    assert leaky.returncode == 1
    assert "infini_hrm: NOT CAUSAL" in leaky.stdout
    wrong = hrm_bench("model=nope", cwd=tmp_path, module="hrm_bench.audit")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
