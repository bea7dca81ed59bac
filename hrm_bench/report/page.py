"""One HTML page of all that the records say, whole in itself: no script, nothing fetched, the same bytes each time."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hrm_bench.records import store as records_
from hrm_bench.records.schema import Record
from hrm_bench.report import claims, forest, sheets, verdicts
from hrm_bench.report.beside import Beside
from hrm_bench.report.drawing import Plot, is_ours
from hrm_bench.report.sections import Failure, Section, failures, forest_plots, sections
from hrm_bench.report.sheets import Mark, Sheet

PLOTS_FOLDER = "plots"
SIGNS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?"}


def write(
    records: Sequence[Record],
    path: Path,
    *,
    sweeps: Mapping[str, Sequence[Record]] | None = None,
    made: Sequence[Section] | None = None,
    comparison: Sequence[Sheet] = (),
    beside: Sequence[Beside] = (),
) -> Path:
    """Write the page of these records, finished or not, and its plots as files into plots/ beside it; its path.

    ``sweeps`` are the records of each sweep by its name, where there are several; ``made`` their sections, where they
    are drawn already; ``beside``, what lies beside their records.
    """
    made = drawn(records, sweeps) if made is None else made
    finished = [record for record in records if records_.is_finished(record)]
    found = claims.findings(finished)
    verdict_plots = _verdict_plots(found)
    curves = [plot for each in beside for plot in each.answer_plots()]
    courses = [plot for each in beside for plot in each.search_plots()]
    more = {
        "answers": [sheet for each in beside for sheet in each.answer_sheets()],
        "answer_plots": curves,
        "searches": [sheet for each in beside for sheet in each.search_sheets()],
        "search_plots": courses,
    }
    text = _html(records, made, found, verdict_plots, comparison, more)
    path.write_text(text, encoding="utf-8")
    plots = [*verdict_plots, *curves, *courses, *(plot for section in made for plot in section.plots)]
    _write_plots(plots, path.parent / PLOTS_FOLDER)
    return path


def drawn(records: Sequence[Record], sweeps: Mapping[str, Sequence[Record]] | None = None) -> list[Section]:
    """The sections of a page."""
    if sweeps is None:
        return sections(records)
    return [section for name, its in sweeps.items() for section in sections(its, name)]


def _html(
    records: Sequence[Record],
    made: Sequence[Section],
    found: Sequence[claims.Finding],
    verdict_plots: Sequence[Plot],
    comparison: Sequence[Sheet],
    more: Mapping[str, Any],
) -> str:
    finished = [record for record in records if records_.is_finished(record)]
    return _template().render(
        sections=made,
        rule=verdicts.RULE,
        verdicts=_verdicts(found),
        verdict_plots=verdict_plots,
        missing=_missing(finished),
        comparison=comparison,
        **more,
        words=sheets.word_perplexities(finished, [variant for each in made for variant in each.shown]),
        train_chars=_train_chars(finished),
        versions=_versions(finished),
        finished=len(finished),
        failures=_failed(failures(records)),
    )


def _write_plots(plots: Sequence[Plot], folder: Path) -> None:
    """Each plot as a file of its own; those of an earlier page are removed, and no other's."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        if is_ours(old.read_text(encoding="utf-8", errors="replace")):
            old.unlink(missing_ok=True)
    for each in plots:
        (folder / f"{each.name}.svg").write_text(each.standalone(), encoding="utf-8")


def _verdict_plots(found: Sequence[claims.Finding]) -> list[Plot]:
    lines = forest.of_findings(found, {claim.claim: claim.figure for claim in claims.CLAIMS})
    title = "Differences that the claims are about"
    return forest_plots(lines, "verdicts", title, "difference, %") if lines else []


def _verdicts(found: Sequence[claims.Finding]) -> Sheet | None:
    """The table of findings, each verdict with a sign, so that colour is not needed to tell them apart."""
    headings, lines = verdicts.grid(found)
    if not found:
        return None
    place = headings.index("verdict")
    cells: list[list[str | Mark]] = []
    for finding, line in zip(found, lines, strict=True):
        told: list[str | Mark] = list(line)
        kind = finding.verdict if finding.decides else f"{finding.verdict} as-run"
        told[place] = Mark(f"{SIGNS[finding.verdict]} {line[place]}", kind)
        cells.append([told[place], *told[:place], *told[place + 1 :]])
    order = ["verdict", *headings[:place], *headings[place + 1 :]]
    words = frozenset(order) - {"seeds", "p"}
    return Sheet("", order, cells, [not finding.causal for finding in found], words)


def _missing(records: Sequence[Record]) -> Sheet | None:
    lines: list[dict[str, str | Mark]] = [
        {
            "claim": each.claim,
            "experiment": each.experiment,
            "command that would measure it": Mark(each.command, "code"),
            "reason": each.reason,
        }
        for each in claims.missing(records)
    ]
    return sheets.sheet("", lines, words=["experiment", "command that would measure it", "reason"])


def _train_chars(records: Sequence[Record]) -> str:
    """How many characters the cells on WikiText-2 were trained on."""
    data = [record["config"]["data"] for record in records]
    counts = {each["train_chars"] for each in data if each["source"] == "wikitext2"}
    return " or ".join("all" if count is None else f"{count:,}" for count in sorted(counts, key=lambda n: n or 0))


def _failed(found: Sequence[Failure]) -> Sheet | None:
    return sheets.sheet("", [{"cell": each.cell, "reason": each.reason} for each in found], words=["reason"])


def _versions(records: Sequence[Record]) -> list[str]:
    """Each set of versions that cells ran with, and how many did."""
    counted: dict[str, int] = {}
    for record in records:
        told = ", ".join(f"{name} {version}" for name, version in sorted(record.get("versions", {}).items()))
        counted[told] = counted.get(told, 0) + 1
    return [f"{told or 'not recorded'} ({number:,} cells)" for told, number in sorted(counted.items())]


def _inline(plot: Plot) -> Markup:
    """A plot of ours; its texts have been escaped by matplotlib, which writes them as XML."""
    return Markup(plot.inline())


@cache
def _template() -> jinja2.Template:
    environment: Any = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = _inline
    template: jinja2.Template = environment.get_template("page.html.jinja")
    return template
