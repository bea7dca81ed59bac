"""Where a claim was made and what its cells do not show, beside its verdict."""

import made_up
import pytest
from conftest import ROOT

from hrm_bench import cli
from hrm_bench.errors import UsageError
from hrm_bench.records import papers
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, summaries, write
from hrm_bench.report.frame import Sweep

SOURCE = 'source: {title: Less, date: 2025-10-06, arxiv: "2510.04870", link: "https://example.org/less", where: p. 4}'
CLAIM = "quantity: level, cells: [{model: hrm}], experiments: [custom], figure: 12"


def paper(source, *rests, title="A made-up paper"):
    listed = ", ".join(f"{{claim: Claim {number}., {CLAIM}{rest}}}" for number, rest in enumerate(rests))
    return papers.read(f"{{title: {title}, text: {{source: sample}}, {source}, claims: [{listed}]}}")


def judged(*judges):
    records = [made_up.record("data=sample", "model=hrm", seed=seed) for seed in range(42, 50)]
    return claims.judge(frame_of(records), judges)


def test_source_and_scope_stand_in_the_terminal(capsys):
    cli.show(summaries.verdicts(judged(paper(SOURCE, ", where: table 1, scope: not tested above 2 M parameters"))))
    printed = capsys.readouterr().out
    assert "Claim 0." in printed
    assert "Scope: not tested above 2 M parameters" in printed
    assert "arXiv 2510.04870, table 1" in printed
    assert "Sources: Less (2025-10-06), arXiv 2510.04870, https://example.org/less." in printed


def test_source_and_scope_stand_on_the_page_and_in_the_files(tmp_path):
    records = [made_up.record("data=sample", "model=hrm", seed=seed) for seed in range(42, 50)]
    made = paper(SOURCE, ", where: table 1, scope: not tested above 2 M parameters")
    report = write.Report.of([Sweep.of(records)], papers=[made])
    write.write_together(report, [], tmp_path)
    page, table = ((tmp_path / name).read_text(encoding="utf-8") for name in ("report.html", "verdicts.csv"))
    for text in ("Scope: not tested above 2 M parameters", "arXiv 2510.04870, table 1", "Less (2025-10-06)"):
        assert text in page
    assert "not tested above 2 M parameters" in table


def test_a_claim_without_a_place_of_its_own_has_that_of_its_source_and_no_scope():
    row = summaries.verdicts(judged(paper(SOURCE, ""))).data.iloc[0]
    assert row["claim"] == "Claim 0."
    assert row["published"] == "no figure\narXiv 2510.04870, p. 4"


def test_claims_of_two_papers_with_one_text_have_a_row_each():
    first, second = paper(SOURCE, ""), paper("source: {title: More}", "", title="Another")
    table = summaries.verdicts(judged(first, second))
    assert table.data.published.tolist() == ["no figure\narXiv 2510.04870, p. 4", "no figure\nMore"]
    assert "https://example.org/less; More." in table.caption


def test_a_file_without_a_source_says_nothing_about_one():
    table = summaries.verdicts(judged(paper("margin: 1", "")))
    assert table.data.published.tolist() == ["no figure"]
    assert "Sources" not in table.caption


def test_a_claim_of_a_numbered_report_names_its_number():
    (own,) = (paper for paper in papers.PAPERS if "experiment reports" in paper.title)
    assert {own.place(claim) for claim in own.claims} == {"report 1", "report 2"}


def test_what_is_not_measured_names_its_source_too():
    (row,) = claims.judge(frame_of([]), [paper(SOURCE, ", where: table 1")]).missing
    assert row["where"] == "arXiv 2510.04870, table 1"


FAULTS = {
    "source: {arxiv: 2510.04870}": r"source\.arxiv=2510\.0487: must be text; write it in quotes",
    "source: {author: me}": r"source\.author: no such key; allowed are title, date, link, arxiv, where",
    "figures: [{experiments: [a]}]": r"figures\.0: must have experiments and figures, each a list",
    "figures: [{experiments: [a], figures: [{model: hrm}]}]": r"figures\.0\.figures\.0: must have model, memory, .*",
    "figures: [{experiments: [a], figures: [{model: hrm, memory: none, perplexity: low}]}]": (
        r"figures\.0\.figures\.0\.perplexity=low: must be a number"
    ),
    "references: [{model: A, perplexity: 3}]": r"references\.0: must have model, perplexity, text",
}


@pytest.mark.parametrize("source", FAULTS)
def test_a_fault_of_a_source_or_a_figure_is_one_line(source):
    with pytest.raises(UsageError, match=f"^{FAULTS[source]}$"):
        paper(source, "")


def test_the_documented_example_of_a_source_is_read():
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    (line,) = [line.strip() for line in text.splitlines() if line.startswith("    source: ")]
    assert paper(line, "").source.citation == "A paper (2025-10-06), arXiv 2510.04871, https://example.org"
