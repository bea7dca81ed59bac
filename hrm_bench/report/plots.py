"""Every plot of the report: a function of a study, of findings or of what lies beside a sweep's records."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas
from matplotlib.figure import Figure

from hrm_bench import drawing
from hrm_bench.drawing import DIAMOND, INK, MUTED, Curve, Line, Plot, line_styles, slug
from hrm_bench.records.extras import gains
from hrm_bench.records.facts import PUBLISHED, ngram, unigram
from hrm_bench.records.schema import Record
from hrm_bench.report.claims import Judged
from hrm_bench.report.frame import Study, Sweep
from hrm_bench.report.tables import TEXTS, families

MOST_LINES = 7  # of a panel
CLOSE = 1.1  # times: n-gram baselines that are closer share one text
Drawn = tuple[str, Figure]  # what the figure shows, and the figure
Series = list[float | None]


class Plots(NamedTuple):
    """Plots of one kind, side by side."""

    title: str
    caption: str
    plots: list[Plot]


class Panel(NamedTuple):
    """Variants that share a figure, by their names in it."""

    title: str
    variants: dict[str, Any]

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [record for v in self.variants.values() for record in v.records.values()]


def panels(variants: pandas.DataFrame) -> list[Panel]:
    """Put all variants into one panel if they fit; else one panel per model or per settings, whichever are fewer."""
    if len(variants) <= MOST_LINES:
        return [Panel("", {v.label: v for v in variants.itertuples()})]
    groupings = []
    for name, parts in (("model", ("memory_shown", "settings")), ("settings", ("model", "memory_shown"))):
        grouping = []
        for title, group in variants.groupby(name, sort=False):
            labelled = {}
            for v in group.itertuples():
                marks = [*(getattr(v, part) for part in parts), "" if v.causal else "(not causal)"]
                labelled[" ".join(filter(None, marks)) or v.model] = v
            numbered = _parts([*labelled.items()])
            for number, part in enumerate(numbered, start=1):
                suffix = f" ({number})" if len(numbered) > 1 else ""
                grouping.append(Panel(f"{title}{suffix}".strip(), dict(part)))
        groupings.append(grouping)
    return min(groupings, key=len)


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + MOST_LINES] for start in range(0, len(items), MOST_LINES)]


def _written(name: str, draw: Callable[[], Sequence[Drawn]], group: str, scale: Any = "y") -> Plots | None:
    """Draw figures, bring them to one scale and write them; None if there is none."""
    title, caption = TEXTS[name]["title"], TEXTS[name]["caption"]
    with drawing.style():
        drawn = draw()
        drawing.share_scale([figure for _, figure in drawn], scale)
        file = f"{slug(group)}-{name.removesuffix('_plots')}"
        plots = [drawing.plot(figure, f"{file}-{n}", f"{title}: {shown}") for n, (shown, figure) in enumerate(drawn, 1)]
    return Plots(title, caption, plots) if plots else None


def _per_panel(
    name: str,
    study: Study,
    series: Callable[[Record], Series | None],
    axes: tuple[str, str],
    finish: Callable[[Figure, Panel, list[float]], None] = lambda *_: None,
) -> Plots | None:
    """Draw the variants all of whose records have a series, by panel; a shorter series keeps its last value."""

    def curve(records: Sequence[Record], length: int) -> Curve:
        known_values = [series(record) or [] for record in records]
        held = [[*values, *values[-1:] * (length - len(values))] for values in known_values]
        columns = [[value for value in column if value is not None] for column in zip(*held, strict=False)]
        known = {place: column for place, column in enumerate(columns, start=1) if column}
        return [*known], [*known.values()]

    def draw() -> list[Drawn]:
        drawn = []
        for panel in panels(study.variants):
            length = max(len(series(record) or []) for record in panel.records)
            lines = {name: curve([*v.records.values()], length) for name, v in panel.variants.items()}
            figure, edges = drawing.curves(lines, *axes, title=panel.title)
            if edges:
                finish(figure, panel, edges)
                drawn.append((panel.title or ", ".join(panel.variants), figure))
        return drawn

    return _written(name, draw, study.name)


def learning(study: Study) -> Plots | None:
    """Draw the best validation perplexity so far, by epoch, with n-gram baselines and published figures."""

    def best_so_far(record: Record) -> Series:
        perplexities = [row["validation_perplexity"] for row in record["history"]]
        return [*accumulate(perplexities, min)]

    def finish(figure: Figure, panel: Panel, values: list[float]) -> None:
        axes, last = figure.axes[0], max(len(record["history"]) for record in panel.records)
        for text, value in _baselines(panel.records):
            axes.axhline(value, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
            where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
            axes.annotate(text, (0.93, value), (0, 2), ha="right", color=MUTED, fontsize=9.5, **where)
            values.append(value)
        published = [(v.published, look) for v, look in zip(panel.variants.values(), line_styles(), strict=False)]
        for value, look in [(value, look) for value, look in published if value is not None]:
            axes.plot(last, value, color=look["color"], clip_on=False, zorder=5, **DIAMOND)
            values.append(value)
        if any(value is not None for value, _ in published):
            axes.plot([], [], color=INK, label="published", **DIAMOND)
        drawing.log_ticks(axes, min(values) / 1.05, max(values) * 1.08)

    return _per_panel("learning", study, best_so_far, ("epoch", "best validation perplexity so far"), finish)


def _ngrams(records: Sequence[Record]) -> dict[str, set[float]]:
    """Return what n-gram models reach on validation, by name: one value per text."""
    best = [ngram(record, "window") for record in records]
    return {"unigram model": {*map(unigram, records)}, "n-gram model": {model[1] for model in best if model}}


def _baselines(records: Sequence[Record]) -> list[tuple[str, float]]:
    """Return n-gram baselines with their texts; of lines that lie close, the highest has one."""
    lines = []
    for name, values in _ngrams(records).items():
        above = math.inf
        for value in sorted(values, reverse=True):
            lines.append((f"{name} {value:.1f}" if value * CLOSE < above else "", value))
            above = value
    return lines


def position(study: Study) -> Plots | None:
    """Draw bits per character by position in the window, in ranges that double."""
    bits = [record.get("bits_by_position", {}).get("validation") for record in study.cells.record]
    edges, length = [0, 1], min((len(values) for values in bits if values), default=0)
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    ranges = list(pairwise(edges))

    def means(record: Record) -> Series | None:
        bits = record.get("bits_by_position", {}).get("validation")
        return [statistics.fmean(bits[start:stop]) for start, stop in ranges] if bits else None

    def finish(figure: Figure, panel: Panel, values: list[float]) -> None:
        names = [str(stop) if stop - start == 1 else f"{start + 1}–{stop}" for start, stop in ranges]
        figure.axes[0].set_xticks(range(1, len(ranges) + 1), names, fontsize=9.5)

    axes = ("position in the window (validation)", "bits per character")
    return _per_panel("position", study, means, axes, finish)


def gate(study: Study) -> Plots | None:
    """Draw the mean gate value by epoch."""
    return _per_panel("gate", study, lambda record: _history(record, "memory_share"), ("epoch", "gate"))


def norm(study: Study) -> Plots | None:
    """Draw the memory's norm by epoch."""
    return _per_panel("norm", study, lambda record: _history(record, "memory_norm"), ("epoch", "norm of the memory"))


def _history(record: Record, key: str) -> Series | None:
    series: list[Any] = [row.get(key) for row in record["history"]]
    return series if any(value is not None for value in series) else None


def overview(sweeps: Sequence[Sweep], path: Path) -> Path:
    """Write a picture of every seed of every variant, with published figures and n-gram baselines."""
    panels = []
    for study in [study for sweep in sweeps for study in sweep.studies]:
        rows = {}
        for v in study.variants.itertuples():
            rows[v.label] = [record["validation"]["perplexity"] for record in v.records.values()], v.published
        panels.append(drawing.Dots(study.name, rows, _ngrams(study.cells.record)))
    with drawing.style():
        picture = drawing.dots(panels, "validation perplexity per character, best epoch")
        path.write_text(drawing.plot(picture, "results", "Every seed").standalone(), encoding="utf-8")
    return path


def differences(study: Study) -> Plots | None:
    """Draw each variant's difference to its baseline."""
    lines = difference_lines(study)
    return _written("differences", lambda: drawing.forests(lines, "difference to the baseline, %"), study.name, "x")


def difference_lines(study: Study) -> list[Line]:
    """Return one line per variant that has a baseline."""
    lines = []
    for v in study.variants[study.variants.difference_mean.notna()].itertuples():
        baseline = study.variants.loc[v.baseline]
        both = v.published is not None and baseline.published is not None
        published = 100 * (v.published / baseline.published - 1) if both else None
        lines.append(
            Line(v.label, v.difference_percent, v.difference_percent_low, v.difference_percent_high, published)
        )
    return lines


def verdicts(judged: Judged) -> Plots | None:
    """Draw the differences that claims are about, with their accepted ranges."""
    findings, lines = judged.findings, []
    for finding in findings[findings.quantity == "difference"].itertuples():
        if finding.range_high is not None and finding.range_low > -math.inf:
            recipe = "" if finding.recipe == PUBLISHED else f", recipe={finding.recipe}"
            label = f"{finding.measure}{recipe}{'' if finding.decides else ', as run'}"
            figures = (finding.estimate, finding.low, finding.high, finding.figure)
            lines.append(Line(label, *figures, finding.verdict, (finding.range_low, finding.range_high)))
    return _written("verdict_plots", lambda: drawing.forests(lines, "difference, %"), "claims", "x")


def scaling(study: Study) -> Plots | None:
    """Draw cells as marks, fitted power laws as lines, and their intervals as bands."""

    def draw() -> list[Drawn]:
        drawn = []
        for part in _parts(families(study)):
            labels = [f"{family['label']}, {family['parameters']:,} parameters" for family in part]
            points = [(family["lengths"], family["bits"], family["law"].at) for family in part]
            lines = dict(zip(labels, points, strict=True))
            figure = drawing.fits(lines, "characters of training text", "bits per character, validation")
            drawn.append((", ".join(family["label"] for family in part), figure))
        return drawn

    return _written("scaling_plots", draw, study.name)


def rescoring(sweep: Sweep) -> list[Plots | None]:
    """Draw validation perplexity by the number of segments: a fixed one, and the mean that halting uses."""
    fixed: dict[str, Curve] = {}
    halting: dict[str, Curve] = {}
    for scores in [scores for scores in sweep.rescoring if scores["split"] == "validation"]:
        fixed[scores["variant"]] = [*map(float, scores["segments"])], [*scores["segments"].values()]
        used = [statistics.fmean(point["mean_segments"]) for point in scores["halting"]]
        halting[scores["variant"]] = used, [point["perplexity"] for point in scores["halting"]]
    named = (("segments_plots", fixed, "segments at evaluation"), ("halting_plots", halting, "mean segments used"))
    return [_segments(name, curves, sweep.name, axis) for name, curves, axis in named]


def _segments(name: str, curves: Mapping[str, Curve], sweep: str, axis: str) -> Plots | None:
    def draw() -> list[Drawn]:
        drawn = []
        for part in _parts([(label, curve) for label, curve in curves.items() if curve[0]]):
            figure, edges = drawing.curves(dict(part), axis, "validation perplexity")
            figure.axes[0].set_xscale("log", base=2)
            drawing.plain_ticks(figure.axes[0].xaxis, [1, 2, 3, 4, 6, 8, 12, 16])
            if max(edges) > 1.5 * min(edges):  # below, a logarithmic axis has hardly a round figure
                drawing.log_ticks(figure.axes[0], min(edges) / 1.02, max(edges) * 1.02)
            drawn.append((", ".join(label for label, _ in part), figure))
        return drawn

    return _written(name, draw, sweep)


def search(sweep: Sweep) -> Plots | None:
    """Draw the best perplexity so far, in percent below the first finished trial: one line per study."""
    lines = {study["study"]: gains(study["trials"]) for study in (sweep.search["studies"] if sweep.search else [])}
    curves = [(name, ([n for n, _ in line], [[gain] for _, gain in line])) for name, line in lines.items() if line]
    axes = ("trials", "best so far, % below\nthe first trial")

    def draw() -> list[Drawn]:
        return [(", ".join(dict(part)), drawing.curves(dict(part), *axes)[0]) for part in _parts(curves)]

    return _written("search_plots", draw, sweep.name)
