"""Forest plots: differences with their intervals, one below the other, around a line at none."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hrm_bench.report.claims import Finding
from hrm_bench.report.drawing import COLOURS, DIAMOND, FONT_SIZE, INK, MUTED, TEXT_LINE, WIDTH, wrapped
from hrm_bench.report.variants import Variant, baseline
from hrm_bench.statistics import Difference

OURS, PUBLISHED = COLOURS[0], COLOURS[1]
HALF = 0.09  # inches: of a mark's height
MEAN = "mean, 95 % interval"
SQUEEZED = 20  # times the median


class Line(NamedTuple):
    """One difference, in percent."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    published: float | None
    told: str = ""  # before its figures
    between: tuple[float, float] | None = None  # where a claim on it holds


def percent_interval(difference: Difference, theirs: float) -> tuple[float, float] | None:
    """The interval of the mean in percent of the mean of theirs, as the mean itself is given."""
    if difference.low is None or difference.high is None:
        return None
    unit = difference.percent / difference.mean if difference.mean else 100 / theirs
    return difference.low * unit, difference.high * unit


def differences(shown: Sequence[Variant]) -> list[Line]:
    """A line for each variant that has a baseline."""
    found = {variant.key: variant.seeds for variant in shown}
    lines = []
    for variant in shown:
        difference = variant.row.difference
        if difference is None:
            continue
        theirs = baseline(variant.key, found)
        standard = next(v for v in shown if any(record in v.seeds.values() for record in theirs.values()))
        low, high = percent_interval(difference, standard.row.validation_mean) or (None, None)
        published = None
        if variant.row.published is not None and standard.row.published is not None:
            published = 100 * (variant.row.published / standard.row.published - 1)
        lines.append(Line(variant.label, difference.percent, low, high, published))
    return lines


def parts(lines: Sequence[Line], most: int = 8) -> list[Sequence[Line]]:
    """As many lines as a plot holds, and no plot of a few left over."""
    number = max(1, -(-len(lines) // most))
    length = max(1, -(-len(lines) // number))
    return [lines[start : start + length] for start in range(0, len(lines), length)]


def of_findings(found: Sequence[Finding], figures: Mapping[str, float | None]) -> list[Line]:
    """A line for each finding that is on a difference; ``figures`` are the published ones, by claim."""
    lines = []
    for finding in found:
        if finding.quantity == "difference" and finding.range_low is not None and finding.range_high is not None:
            recipe = "" if finding.recipe == "published" else f", recipe={finding.recipe}"
            label = f"{finding.measure}{recipe}{'' if finding.decides else ', as run'}"
            between = finding.range_low, finding.range_high
            published = figures.get(finding.claim)
            lines.append(Line(label, finding.estimate, finding.low, finding.high, published, finding.verdict, between))
    return lines


def needs_logarithm(lines: Sequence[Line]) -> bool:
    """Whether the lines are of claims, or one of them would squeeze half of the others together on a linear axis."""
    sizes = [abs(line.estimate) for line in lines]
    return any(line.between for line in lines) or max(sizes, default=0) > SQUEEZED * statistics.median(sizes or [0])


def draw(lines: Sequence[Line], axis: str, *, logarithmic: bool = False) -> Figure:
    """A row a line: its name and figures, and its mark below. A logarithmic axis is linear from -2 to 2 %."""
    of_claims = any(line.between for line in lines)
    labels = [wrapped(line.label) for line in lines]
    places = list(accumulate(0.44 + TEXT_LINE * (1 + label.count("\n")) for label in labels))  # in inches
    figure = Figure(figsize=(WIDTH, 1.1 + places[-1]), layout="constrained")
    axes = figure.add_subplot()
    for place, label, line in zip(places, labels, lines, strict=True):
        _row(axes, place, label, line)
    axes.set_ylim(places[-1] + 0.2, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    if logarithmic:
        axes.set_xscale("symlog", linthresh=2, linscale=0.6)
        axes.xaxis.set_major_locator(FixedLocator([-100, -30, -10, -3, 0, 3, 10, 30, 100, 300]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis)
    handles: list[Artist] = [Line2D([], [], color=OURS, marker="o", markersize=6, linewidth=1.8, label=MEAN)]
    if of_claims:
        handles.append(Patch(facecolor=MUTED, alpha=0.3, label="the claim holds"))
    if any(line.published is not None for line in lines):
        handles.append(Line2D([], [], color=PUBLISHED, label="published", **DIAMOND))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, columnspacing=1.2)
    return figure


def _row(axes: Axes, place: float, label: str, line: Line) -> None:
    if line.between is not None:
        low, high = line.between
        axes.broken_barh([(low, high - low)], (place - HALF, 2 * HALF), facecolors=MUTED, alpha=0.3, linewidth=0)
    axes.plot([0, 0], [place - HALF, place + HALF], color=MUTED, linewidth=1.4, zorder=1)
    if line.low is not None and line.high is not None:
        axes.plot([line.low, line.high], [place, place], color=OURS, linewidth=1.8, solid_capstyle="butt")
    axes.plot(line.estimate, place, marker="o", markersize=6, color=OURS)
    if line.published is not None:
        axes.plot(line.published, place, color=PUBLISHED, **DIAMOND)
    figures = f"{line.estimate:+.1f} %"
    if line.low is not None and line.high is not None:
        figures += f" [{line.low:+.1f}, {line.high:+.1f}]"
    where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
    axes.annotate(label, (0, place), (0, 20), color=INK, fontsize=FONT_SIZE, **where)
    axes.annotate(f"{line.told} {figures}".strip(), (0, place), (0, 8), color=MUTED, fontsize=9.5, **where)
