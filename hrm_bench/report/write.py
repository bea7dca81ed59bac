"""Every file of the report: tables as CSV and Markdown, plots as SVG, and one self-contained HTML page of all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas
from markupsafe import Markup

from hrm_bench import intervals, statistics
from hrm_bench.drawing import Plot, slug
from hrm_bench.records import store
from hrm_bench.records.papers import Paper
from hrm_bench.records.schema import Record
from hrm_bench.report import adaptation, articles, claims, memory, plots, summaries, tables
from hrm_bench.report.answer import answers
from hrm_bench.report.frame import RESULTS, Sweep
from hrm_bench.report.how_to_report import paragraphs
from hrm_bench.report.plots import Plots
from hrm_bench.table import Table

PAGE_FILE, PLOTS_FOLDER = "report.html", "plots"
PLOTS_LIST = "files.json"  # among the plots: the files that the last page wrote, which the next one removes
# By heading: functions that make a table, plots, a list of these, or None.
Makers = Mapping[str, Sequence[Callable[[Any], Any]]]

# What the page shows. To add a table or a plot, write a function and enter it here.
CLAIMS: Makers = {"": [summaries.verdicts, plots.verdicts], "Not measured": [summaries.missing]}
STUDY: Makers = {
    "Results": [tables.results, articles.articles, tables.baselines],
    "Curves and differences": [plots.learning, plots.differences, plots.position],
    "Scaling": [plots.scaling, tables.scaling],
    "Memory": [memory.memories, plots.gate, plots.norm, tables.against_ngrams, tables.memory_use],
    "Cost": [tables.cost],
    "Audits": [tables.leaks, tables.coverage],
    "Train again": [tables.commands],
}
RESCORING: Makers = {"": [plots.rescoring, summaries.rescoring, adaptation.adaptation]}
SEARCHES: Makers = {"": [plots.search, summaries.search]}


class Section(NamedTuple):
    """A section of the page: its blocks by heading."""

    anchor: str
    title: str
    parts: list[tuple[str, list[Table | Plots]]]


def section(title: str, makers: Makers, values: Iterable[Any], anchor: str = "") -> Section:
    """Make the blocks of a section from each value; headings without blocks are left out."""
    parts = []
    for heading, functions in makers.items():
        results = [function(value) for value in values for function in functions]
        lists = [result if isinstance(result, list) else [result] for result in results]
        blocks = [block for blocks in lists for block in blocks if block is not None]
        parts += [(heading, blocks)] if blocks else []
    return Section(anchor or slug(title), title, parts)


def studies(sweep: Sweep) -> list[Section]:
    """Make one section per study; its plots and tables are made once, for every page that shows them."""
    return [section(study.name, STUDY, [study]) for study in sweep.studies]


class Report(NamedTuple):
    """The parts of a page."""

    sweeps: list[Sweep]
    sections: list[Section]  # of all studies
    judged: claims.Judged

    @classmethod
    def of(
        cls,
        sweeps: Sequence[Sweep],
        sections: Sequence[Section] | None = None,
        papers: Sequence[Paper] | None = None,
    ) -> "Report":
        """Judge the claims by all sweeps, and make the sections of their studies, unless they are made already."""
        sections = [part for sweep in sweeps for part in studies(sweep)] if sections is None else sections
        cells = pandas.concat([sweep.whole.cells for sweep in sweeps], ignore_index=True)
        return cls([*sweeps], [*sections], claims.judge(cells, papers))


def all_sections(report: Report, side: Sequence[Table] = ()) -> list[Section]:
    """Return the sections of the page: those of the studies, and those of all sweeps together."""
    sweeps = report.sweeps
    records = [record for sweep in sweeps for record in sweep.records]
    return [
        *report.sections,
        Section("comparison", "Side by side", [("Cell by cell", [*side])] if side else []),
        section("Verdicts on the published claims", CLAIMS, [report.judged], "verdicts"),
        section("Other scores", RESCORING, sweeps, "answers"),
        section("Searches", SEARCHES, sweeps, "searches"),
        section("Word perplexities", {"": [summaries.words]}, [sweeps], "words"),
        section("Cells and versions", {"Not finished": [summaries.failures]}, [records], "cells"),
    ]


def page(report: Report, folder: Path, side: Sequence[Table] = ()) -> list[Path]:
    """Write the page of some sweeps and its plots into a folder; return the paths written."""
    sweeps, shown = report.sweeps, all_sections(report, side)
    records = [record for sweep in sweeps for record in sweep.records]
    finished = [record for record in records if store.is_finished(record)]
    versions = [", ".join(f"{name} {v}" for name, v in sorted(r.get("versions", {}).items())) for r in finished]
    html = _template().render(
        sections=[part for part in shown if part.parts or part.anchor in {"verdicts", "cells"}],
        answers=[(study.name, answers(study)) for sweep in sweeps for study in sweep.studies],
        reporting=[(study.name, paragraphs(study)) for sweep in sweeps for study in sweep.studies],
        rule=statistics,
        intervals=intervals,
        glossary=tables.TEXTS["glossary"],
        finished=len(finished),
        unfinished=len(records) - len(finished),
        versions={text or "not recorded": versions.count(text) for text in sorted(set(versions))},
    )
    (folder / PAGE_FILE).write_text(html, encoding="utf-8")
    blocks = [block for part in shown for _, blocks in part.parts for block in blocks]
    _write_plots([plot for block in blocks if isinstance(block, Plots) for plot in block.plots], folder / PLOTS_FOLDER)
    return [folder / PAGE_FILE, folder / PLOTS_FOLDER]


def _write_plots(drawn: Sequence[Plot], folder: Path) -> None:
    """Write each plot as a file, and remove those of an earlier page; no other file is touched."""
    folder.mkdir(exist_ok=True)
    for name in store.read_json(folder / PLOTS_LIST) or []:
        (folder / Path(name).name).unlink(missing_ok=True)
    for plot in drawn:
        (folder / f"{plot.name}.svg").write_text(plot.standalone(), encoding="utf-8")
    store.write_json(folder / PLOTS_LIST, [f"{plot.name}.svg" for plot in drawn])


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    blanks: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment: Any = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **blanks)
    environment.filters["inline"] = lambda plot: Markup(plot.inline())  # matplotlib has escaped its texts
    return environment.get_template("page.html.jinja")


def _write(name: str, shown: Sequence[Table | None], figures: pandas.DataFrame, folder: Path) -> list[Path]:
    """Write tables as Markdown and figures as CSV."""
    text = "\n".join(table.markdown() for table in shown if table) or f"{tables.TEXTS['nothing']}\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    figures.to_csv(folder / f"{name}.csv", index=False, lineterminator="\r\n")
    return [folder / f"{name}.md", folder / f"{name}.csv"]


def write_sweep(report: Report, folder: Path) -> list[Path]:
    """Write everything about the one sweep of a report into its folder; return the paths written."""
    whole = report.sweeps[0].whole
    stuck = [" ".join(map(str, seeds)) for seeds in whole.variants.on_plateau]
    figures = whole.variants[[*RESULTS]].assign(on_plateau=stuck)
    shown = [tables.results(whole), articles.articles(whole), tables.baselines(whole)]
    paths = _write("results", shown, figures, folder)
    return [*paths, plots.overview(report.sweeps, folder / "results.svg"), *page(report, folder)]


def write_all(records: Iterable[Record], folder: Path) -> list[Path]:
    """Write everything about a sweep's records, finished or not, into its folder; return the paths written."""
    return write_sweep(Report.of([Sweep.of(records, path=folder)]), folder)


def write_together(report: Report, compared: Sequence[tuple[Table | None, Any]], folder: Path) -> list[Path]:
    """Write verdicts, plots and the page of several sweeps, and how they compare; return the paths written."""
    paths = _write("verdicts", [summaries.verdicts(report.judged)], claims.csv_frame(report.judged), folder)
    side = [table for table, _ in compared if table]
    if side:
        paths += _write("comparison", side, pandas.concat([figures for _, figures in compared]), folder)
    return [*paths, plots.overview(report.sweeps, folder / "results.svg"), *page(report, folder, side)]


def tracker_items(records: Iterable[Record], folder: Path) -> dict[str, Any]:
    """Return what a tracker shows of a report that is written: tables (headings, rows), figures, and the page."""
    sweep = Sweep.of(records)
    shown = {"results": tables.results(sweep.whole), "verdicts": summaries.verdicts(claims.judge(sweep.whole.cells))}
    learning = filter(None, map(plots.learning, sweep.studies))
    return {
        "tables": {name: ([*table.data], table.data.to_numpy().tolist()) for name, table in shown.items() if table},
        "figures": {plot.name: plot.figure for group in learning for plot in group.plots},
        "page": folder / PAGE_FILE,
    }
