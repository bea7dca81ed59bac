"""That a memory does not help is said only beside a control: its class has helped where a memory must."""

import math

import pytest
from claimed import cells, findings, shown, told
from conftest import ROOT
from made_up import record

from hrm_bench.records import controls, papers, store
from hrm_bench.records.facts import text_name
from hrm_bench.records.tidy import cells as cells_of
from hrm_bench.report import claims, memory, summaries
from hrm_bench.report.frame import Sweep

INFINI, HRM_MEMORY = "hrm_bench.models.infini_hrm.InfiniHRM", "hrm_bench.models.hrm_memory.HRMMemory"
BOUND = ["memory.bind=previous", "memory.features=l2", "memory.tie=true"]
SEEDS = range(42, 46)


def recall(model, own, *words, seeds=SEEDS, another=26.0):
    """Records of a memory on recall: its perplexity with its own memory, and with that of another sample."""
    made = [
        record("data=recall", f"model={model}", "memory=reset", *words, perplexity=own, seed=seed) for seed in seeds
    ]
    for number, one in enumerate(made):
        use = {"own": own + 0.01 * number, "zeroed": 26.0, "another_lane": another}
        one["memory_use"] = {"validation": use, "test": use}
    return made


def against_hrm(mean, *, spread=1, model="infini_hrm", kind=INFINI, memory="reset"):
    noise = [spread * more for more in (0.10, -0.06, 0.04, -0.09, -0.02, 0.07, -0.05, 0.01)]
    return cells("hrm", 12.10) + cells(model, mean, memory=memory, noise=noise, model={"_target_": kind})


@pytest.fixture
def nothing_shipped(monkeypatch):
    monkeypatch.setattr(controls, "shipped", list)


def test_a_memory_passes_if_its_own_content_is_worth_more_than_that_of_another_sample():
    (control,) = controls.measured(recall("infini_hrm", 1.05, *BOUND))
    assert control.passes
    assert (control.kind, control.model, control.task, control.seeds) == (INFINI, "infini_hrm", "recall", 4)
    assert control.settings == " ".join(BOUND)
    assert control.bits == pytest.approx(sum(math.log2(26 / (1.05 + 0.01 * n)) for n in range(4)) / 4)
    assert control.low < control.bits < control.high
    (published,) = controls.measured(recall("infini_hrm", 26.0))
    assert not published.passes
    assert published.settings == ""
    assert str(published).startswith("infini_hrm as published gains ")


def test_a_memory_that_any_content_serves_passes_no_control():
    (control,) = controls.measured(recall("infini_hrm", 3.76, another=3.80))
    assert not control.passes


def test_three_seeds_and_texts_without_answers_are_no_control():
    assert not controls.measured(recall("infini_hrm", 1.05, seeds=range(3)))
    text = [record("model=infini_hrm", "memory=carry", seed=seed) for seed in SEEDS]
    for one in text:
        one["memory_use"] = {"validation": {"own": 5.0, "zeroed": 9.0, "another_lane": 9.0}}
    assert not controls.measured(text)


@pytest.mark.usefixtures("nothing_shipped")
def test_level_is_equivalent_only_beside_a_control_which_the_verdict_names():
    level = against_hrm(12.10)
    (alone,) = findings(level)
    assert (alone.verdict, alone.short, alone.control) == ("undecided", "control", "")
    assert told(alone) == "undecided: no control passed"
    failed = next(iter(findings(level + recall("infini_hrm", 25.9))))
    assert told(failed) == "undecided: no control passed"
    (beside,) = findings(level + recall("infini_hrm", 1.05, *BOUND))
    assert told(beside) == "equivalent"
    assert beside.control.startswith(f"infini_hrm with {' '.join(BOUND)} gains 4.61 [")
    assert beside.control in shown(level + recall("infini_hrm", 1.05, *BOUND)).markdown()


@pytest.mark.usefixtures("nothing_shipped")
def test_a_control_speaks_for_its_own_class_only():
    level = against_hrm(12.10)
    assert told(next(iter(findings(level + recall("hrm_memory", 1.05, *BOUND))))) == "undecided: no control passed"
    renamed = against_hrm(12.10, kind=HRM_MEMORY)
    assert told(next(iter(findings(renamed + recall("hrm_memory", 1.05, *BOUND))))) == "equivalent"


@pytest.mark.usefixtures("nothing_shipped")
@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [
        (11.53, 1, "reproduced"),  # the claimed gain
        (11.98, 1, "contradicted: smaller"),
        (9.0, 1, "contradicted: larger"),
        (12.9, 1, "contradicted: the other way"),  # a harm
        (12.2, 3, "undecided: no control passed"),  # neither, and not the gain that was claimed
    ],
)
def test_a_decided_gain_and_a_decided_harm_need_no_control(mean, spread, verdict):
    assert told(next(iter(findings(against_hrm(mean, spread=spread))))) == verdict


@pytest.mark.usefixtures("nothing_shipped")
def test_claims_about_two_modes_of_a_memory_need_no_control():
    made = cells("hrm_memory", 12.0, memory="reset") + cells("hrm_memory", 12.0, memory="carry", noise=[0.0] * 8)
    found = [finding for finding in findings(made) if "than one that is carried" in finding.claim]
    assert [told(finding) for finding in found] == ["equivalent"]


@pytest.mark.usefixtures("nothing_shipped")
def test_a_harm_that_is_claimed_needs_no_control():
    degraded = against_hrm(22.61, model="hrm_memory", kind=HRM_MEMORY)
    assert told(next(iter(findings(degraded)))) == "reproduced"


@pytest.mark.parametrize(
    ("words", "reads"),
    [
        (["memory=reset"], "nothing"),
        (["memory=reset", "memory.write=every_segment"], "its own window"),
        (["memory=carry"], "unrelated text in training"),
        (["memory=carry", "data.order=contiguous"], ""),
        (["memory=reset", "data.windows_per_sample=4"], ""),
        (["memory=reset", "data=recall"], ""),
    ],
)
def test_what_a_memory_holds_when_a_window_begins(words, reads):
    made = record("model=infini_hrm", *words)
    assert controls.what_it_reads(made["config"], made["memory"]) == reads


@pytest.mark.usefixtures("nothing_shipped")
def test_each_memory_says_which_gain_is_excluded_and_whether_it_is_a_test_at_all():
    made = [record("model=hrm", perplexity=12 + 0.1 * (seed % 3), seed=seed) for seed in SEEDS]
    for words in (["memory=reset"], ["memory=carry", "data.order=contiguous"]):
        made += [record("model=infini_hrm", *words, perplexity=11.9 + 0.1 * (seed % 3), seed=seed) for seed in SEEDS]
    shown = memory.memories(Sweep.of(made).whole).data
    assert len(shown) == 2
    of_reset = shown[shown.variant.str.contains("reset")].iloc[0]
    assert of_reset["a window begins with"] == "nothing: no test of a memory"
    assert of_reset.control == "none passed"
    high = float(of_reset.gain.split(", ")[1].rstrip("]"))
    assert of_reset.excluded == f"a gain above {high:.2f}"


def test_the_controls_that_are_shipped_are_those_of_the_archived_records():
    archive = list(store.read_all(ROOT / "results" / "recall.jsonl"))
    for found, shipped in zip(controls.measured(archive), controls.shipped(), strict=True):
        assert found[:5] == shipped[:5]
        assert found[5:] == pytest.approx(shipped[5:], abs=1e-9)
    assert {control.kind for control in controls.shipped() if control.passes} >= {INFINI}
    assert {text_name(one["config"]["data"]) for one in archive} == {"recall"}


def test_hugging_faces_finding_is_reproduced_as_published_beside_a_control():
    paper = papers.read_file(ROOT / "papers" / "infini_attention_hf.yaml")
    archive = list(store.read_all(ROOT / "results" / "recall.jsonl"))
    (finding,) = claims.judge(cells_of(archive), [paper]).findings.itertuples()
    assert (finding.verdict, finding.seeds) == ("reproduced", tuple(range(42, 50)))
    assert summaries._estimate(finding) == "+0.0 [-0.1, +0.1] % (8 seeds)"
    assert "memory.bind=previous" in finding.control
