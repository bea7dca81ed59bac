"""Which loss reaches which part: the documents' own table, measured; and the audit's command."""

import pytest
from commands import hrm_bench
from conftest import SMALL, small

from hrm_bench.audit import gradient_coverage

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


def test_the_audit_leaves_the_model_as_it_was():
    model = small("model=lct_2layer")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    descend = model.objective.descend
    gradient_coverage(model)
    assert model.objective.descend == descend
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
    wrong = hrm_bench("model=gru", cwd=tmp_path, module="hrm_bench.audit")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
