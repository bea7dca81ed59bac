"""What the page shows of one sweep: its tables and plots, made once from its records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.figure import Figure

from hrm_bench.records import store as records_
from hrm_bench.records.schema import Record
from hrm_bench.report import curves, forest, rerun, scaling, sheets, tables
from hrm_bench.report.drawing import Plot, plot, share_scale, slug, style
from hrm_bench.report.sheets import Mark, Sheet
from hrm_bench.report.variants import Variant, by_experiment, variants


class Group(NamedTuple):
    """Plots of one kind, side by side, and what they show."""

    title: str
    note: str
    plots: list[Plot]

    @property
    def is_alone(self) -> bool:
        """Whether its one plot may stand beside those of other kinds."""
        return len(self.plots) == 1


class Failure(NamedTuple):
    """A cell that is not finished."""

    cell: str
    reason: str


@dataclass(frozen=True)
class Section:
    """An experiment of a sweep."""

    name: str
    anchor: str
    command: str | None  # of the whole experiment
    shown: list[Variant]
    results: Sheet
    caption: str
    groups: list[Group]  # of any model
    scaling: Sheet | None
    memory: list[Group]
    memory_use: list[Sheet]
    cost: Sheet | None
    leaks: Sheet | None
    coverage: Sheet | None
    commands: Sheet | None

    @property
    def plots(self) -> list[Plot]:
        """All of them."""
        return [each for group in (*self.groups, *self.memory) for each in group.plots]


def sections(records: Sequence[Record], sweep: str = "") -> list[Section]:
    """A section an experiment, of finished records; ``sweep`` is told where it is not the experiment's name."""
    found = by_experiment(record for record in records if records_.is_finished(record))
    return [section(its, name if sweep in ("", name) else f"{name} ({sweep})") for name, its in found.items()]


def section(records: Sequence[Record], name: str) -> Section:
    """The section of one experiment's finished records."""
    shown = variants(records)
    anchor = slug(name)
    families = scaling.families(shown)
    return Section(
        name=name,
        anchor=anchor,
        command=rerun.whole(records[0]["config"]["experiment"]["name"]),
        shown=shown,
        results=results(records, shown),
        caption=tables.caption(records),
        groups=[*_groups(shown, anchor), *_scaling(families, anchor)],
        scaling=scaling.table(families),
        memory=_memory(shown, anchor),
        memory_use=[*filter(None, [sheets.against_counts(shown)]), *sheets.memory_use(shown)],
        cost=sheets.cost(shown),
        leaks=sheets.leaks(shown),
        coverage=sheets.coverage(shown),
        commands=_commands(shown),
    )


def failures(records: Sequence[Record]) -> list[Failure]:
    """The cells that are not finished, and why."""
    told = []
    for record in records:
        if not records_.is_finished(record):
            memory = [] if record["memory"] == "none" else [record["memory"]]
            cell = " ".join([record["model"], *memory, f"seed {record['seed']}", record["identity"]])
            status = record["status"] if record["status"] != "finished" else "finished by another version of hrm_bench"
            told.append(Failure(cell, ": ".join(filter(None, (status, record.get("reason", ""))))))
    return told


def results(records: Sequence[Record], shown: Sequence[Variant]) -> Sheet:
    """The results table."""
    headings, lines = tables.grid(records)
    faint = [not variant.row.causal for variant in shown]
    return Sheet("", headings, [list(line) for line in lines], faint, frozenset(tables.TEXT))


def _groups(shown: Sequence[Variant], anchor: str) -> list[Group]:
    made = [
        Group(
            "Learning curves",
            "Best validation perplexity so far, by epoch: mean over all seeds, band ± sd. A seed that has stopped "
            "keeps its best. Dotted lines: what counting the training characters reaches. Diamonds at the right edge, "
            "where there are any: the published figures.",
            _panels(curves.learning, shown, f"{anchor}-learning", "Learning curves"),
        ),
        Group(
            "Differences to the baseline",
            "Validation perplexity, paired by seed, in percent of the baseline's: mean and 95 % interval, where there "
            "are seeds enough. Below zero is better than the baseline.",
            _differences(shown, f"{anchor}-differences"),
        ),
        Group(
            "Bits a character by place in the window",
            "On validation, by the character's place in its window: mean over seeds, band ± sd. A memory can help most "
            "where a window begins.",
            _panels(
                lambda panel: curves.by_position(panel, "validation"),
                shown,
                f"{anchor}-position",
                "Bits a character by place in the window",
            ),
        ),
    ]
    return [group for group in made if group.plots]


def _scaling(found: Sequence[scaling.Family], anchor: str) -> list[Group]:
    note = (
        "Bits a character by characters of training text: a mark a cell, the fitted power law, and the band of its "
        "95 % interval."
    )
    return [Group("Scaling", note, scaling.plots(found, f"{anchor}-scaling"))] if found else []


def _memory(shown: Sequence[Variant], anchor: str) -> list[Group]:
    made = [
        Group(
            "Course of the gate",
            "What the gates give to the memory, mean over the validation text, by epoch: mean over seeds, band ± sd.",
            _panels(
                lambda panel: curves.course(panel, "memory_share", "share given to the memory"),
                shown,
                f"{anchor}-share",
                "Share that the gates give to the memory",
            ),
        ),
        Group(
            "Course of the memory's norm",
            "Of a memory's matrix at the end of the validation text, mean over its heads, by epoch.",
            _panels(
                lambda panel: curves.course(panel, "memory_norm", "norm of the memory"),
                shown,
                f"{anchor}-norm",
                "Norm of the memory",
            ),
        ),
    ]
    return [group for group in made if group.plots]


def _panels(
    draw: Callable[[curves.Panel], Figure | None], shown: Sequence[Variant], name: str, title: str
) -> list[Plot]:
    """A plot for each panel that has something to show."""
    panels = curves.panels(shown)
    with style():
        figures = {number: figure for number, panel in enumerate(panels) if (figure := draw(panel)) is not None}
        share_scale(list(figures.values()))
    return [
        plot(figure, f"{name}-{number + 1}", f"{title}: {panels[number].title or ', '.join(panels[number].labels)}")
        for number, figure in figures.items()
    ]


def _differences(shown: Sequence[Variant], name: str) -> list[Plot]:
    return forest_plots(forest.differences(shown), name, "Differences to the baseline", "difference to the baseline, %")


def forest_plots(lines: Sequence[forest.Line], name: str, title: str, axis: str) -> list[Plot]:
    """As many forest plots as the lines need, on one scale."""
    logarithmic = forest.needs_logarithm(lines)
    axis += " (linear up to 2, then logarithmic)" if logarithmic else ""
    parts = forest.parts(lines)
    with style():
        figures = [forest.draw(few, axis, logarithmic=logarithmic) for few in parts]
        share_scale(figures, "x")
    return [
        plot(figure, f"{name}-{number}", f"{title}: {', '.join(line.label for line in few)}")
        for number, (figure, few) in enumerate(zip(figures, parts, strict=True), start=1)
    ]


def _commands(shown: Sequence[Variant]) -> Sheet | None:
    lines: list[dict[str, str | Mark]] = []
    for variant in shown:
        typed = rerun.command(list(variant.seeds.values()))
        told = Mark(typed, "code") if typed else "none: conf/ does not have this model, memory or data any more"
        lines.append({"variant": variant.label, "command": told})
    return sheets.sheet("", lines, words=["command"])
