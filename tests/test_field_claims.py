"""The claims of the field's own literature: what they name, and the verdicts that the archived records give."""

import functools
import re

import hydra
import made_up
import pytest
from conftest import ROOT

from hrm_bench import claims as command
from hrm_bench.config.words import conf_folder
from hrm_bench.records import papers, store
from hrm_bench.records.facts import value_of
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, summaries
from hrm_bench.sweeps.decide import Decision

NAMES = ("tiny_recursive_model", "arc_prize_hrm", "hierarchical_vs_flat")
DOCUMENT = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.partition("## Claims of the field\n")[2]
LINES = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SECTION.splitlines() if line.startswith("| ")]
ROWS = [line for line in LINES if len(line) == 5 and line[-1] not in ("verdict", "---")]


@functools.cache
def paper(name):
    return papers.read_file(ROOT / "papers" / f"{name}.yaml")


@functools.cache
def judged(name):
    return claims.judge(frame_of(list(store.read_all(ROOT / "results" / f"{name}.jsonl"))), [paper(name)])


@functools.cache
def cases(name):
    """A made-up record of each variant of an experiment."""
    with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        sweeper = hydra.compose("config", [f"experiment={name}"], return_hydra_config=True).hydra.sweeper
    assert sweeper.params.seed == "42,43,44,45,46,47,48,49"
    return [made_up.record(f"experiment={name}", *case) for case in sweeper.cases]


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_the_field_says_where_it_stands_and_what_its_scale_does_not_allow(name):
    source = paper(name).source
    assert source.title
    assert source.date
    assert source.link
    for claim in paper(name).claims:
        assert claim.where
        assert claim.scope.startswith("tried on next characters")
        assert "That says nothing about" in claim.scope
        assert re.search(r"\d", claim.published)


@pytest.mark.parametrize("name", NAMES)
def test_the_experiment_of_a_claim_of_the_field_makes_the_cells_that_the_claim_names(name):
    records = cases(name)
    assert all(paper(name).is_about(record) for record in records)
    for claim in paper(name).claims:
        for cell in claim.cells:
            assert [record["model"] for record in records].count(cell["model"]) == 1
    for model, sizes in paper(name).sizes.items():
        (record,) = [record for record in records if record["model"] == model]
        assert {key: value_of(record["config"], f"model.{key}") for key in sizes} == sizes


@pytest.mark.parametrize("name", NAMES)
def test_each_verdict_on_a_claim_of_the_field_is_of_eight_seeds_and_as_documented(name):
    findings = list(judged(name).findings.itertuples())
    start = next(place for place, row in enumerate(ROWS) if row[0] == f"`{name}`")
    assert len(findings) == len(paper(name).claims)
    for finding, row in zip(findings, ROWS[start:], strict=False):
        assert finding.seeds == tuple(range(42, 50))
        assert row[0] in (f"`{name}`", "")
        assert row[3].removesuffix(" of it") == summaries._estimate(finding).removesuffix(" (8 seeds)")
        assert row[4] == summaries.verdict_text(finding)
        assert finding.on_plateau == ()


def test_every_documented_verdict_on_the_field_has_its_claim():
    assert len(ROWS) == sum(len(paper(name).claims) for name in NAMES)
    number, minutes = {}, {}
    for name in NAMES:
        records = list(store.read_all(ROOT / "results" / f"{name}.jsonl"))
        number[name], minutes[name] = len(records), round(sum(record["seconds"] for record in records) / 60)
        assert f"| `{name}` | {number[name]} | {minutes[name]} |" in DOCUMENT
    assert sum(number.values()) <= 80


def test_rounds_of_seeds_run_every_variant_of_an_experiment_that_lists_them(tmp_path):
    assert command._with_cases([*NAMES, "hrm_vs_lct"], []) == [*NAMES]
    own = tmp_path / "experiment"
    own.mkdir()
    (own / "mine.yaml").write_text("hydra: {sweeper: {cases: [[model=hrm]]}}\n")
    (own / "plain.yaml").write_text("experiment: {name: plain}\n")
    assert command._with_cases(["mine", "plain", "nowhere"], ["--config-dir", str(tmp_path)]) == ["mine"]
    decision = Decision(paper("arc_prize_hrm"), tmp_path, "published", most=8, with_cases=["arc_prize_hrm"])
    assert decision.commands([0, 1], 4) == [("arc_prize_hrm", ["seed=42,43,44,45"])]
