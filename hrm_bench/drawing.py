"""How plots are drawn and written: self-contained SVG, the same bytes each time, in the ink of the page around it."""

import hashlib
import html
import io
import itertools
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

INK, MUTED = "#101418", "#5b6572"  # stand for the two inks of the page
STANDALONE = f"<style>svg {{ color: {INK}; --muted: {MUTED}; background: white }}</style>"
# The palette of Okabe and Ito, which the colour-blind can tell apart, without its yellow; a dash and a mark for each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 3)), (0, (10, 3)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
DIAMOND: Any = {  # of a published figure
    **{"marker": "D", "markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.7, "linestyle": "none"}
}
MEASURED, PUBLISHED = COLOURS[0], COLOURS[1]
WIDTH, TEXT_LINE, LEGEND_LINE = 4.6, 0.18, 0.21  # inches
FONT_SIZE = 10
MOST_ROWS = 8  # of a forest plot
SQUEEZED = 20  # times the median
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "font.size": FONT_SIZE,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.titlesize": FONT_SIZE,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.7,
    "figure.facecolor": "none",
}


@dataclass(frozen=True)
class Plot:
    """A drawn figure."""

    name: str  # of its file
    title: str
    svg: str  # coloured by its surroundings: currentColor and var(--muted)
    figure: Figure = field(compare=False, repr=False)

    def standalone(self) -> str:
        """Return a file of its own, on white."""
        return self.svg.replace("<defs>", f"<defs>{STANDALONE}", 1)

    def inline(self) -> str:
        """Return an element of a page: without declarations, with ids of its own, and its title for who cannot see."""
        body = self.svg[self.svg.index("<svg ") :]
        body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{self.name}-", body)
        return body.replace("<svg ", f'<svg role="img" aria-label="{html.escape(self.title)}" ', 1)


def style() -> Any:
    """Return the context in which every figure is made."""
    return matplotlib.rc_context(STYLE)


def plot(figure: Figure, name: str, title: str) -> Plot:
    """Write a figure as SVG, with a legend of its lines; no date or version changes its bytes."""
    out = io.StringIO()
    if not figure.legends and len(figure.axes) == 1:
        legend(figure, *figure.axes[0].get_legend_handles_labels())
    figure.set_dpi(72)
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(out, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue().replace(INK, "currentColor").replace(MUTED, "var(--muted)")
    return Plot(name, title, svg, figure)


def slug(name: str) -> str:
    """Return a name that serves as file name and anchor; two names never give the same one."""
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def wrapped(text: str, width: int = 50) -> str:
    """Break a text into lines that fit a plot."""
    return "\n".join(textwrap.wrap(text, width))


def empty(height: float = 3.1, title: str = "") -> tuple[Figure, Axes]:
    """Make a figure of one panel, under its title if it has one."""
    lines = wrapped(title)
    figure = Figure(figsize=(WIDTH, height + TEXT_LINE * len(lines.splitlines())))
    if title:
        figure.suptitle(lines, x=0.01, y=0.99, ha="left", va="top", fontsize=FONT_SIZE)
    return figure, figure.add_subplot()


def line_styles() -> Iterator[dict[str, Any]]:
    """Yield colour, dashes and mark of one line after another."""
    for colour, dashes, mark in itertools.cycle(zip(COLOURS, DASHES, MARKS, strict=True)):
        yield {"color": colour, "linestyle": dashes, "marker": mark}


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """Make the y axis logarithmic, with round figures as its ticks."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [step * 10**power for power in range(-4, 9) for step in steps if low <= step * 10**power <= high]
        if len(ticks) <= 7:
            break
    plain_ticks(axes.yaxis, ticks)


def plain_ticks(axis: Any, ticks: Sequence[float], text: Any = "{:g}".format) -> None:
    """Put ticks at these places of an axis and nowhere else."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def share_scale(figures: Sequence[Figure], which: Literal["x", "y"] = "y") -> None:
    """Give figures of one panel each one scale: ``y`` side by side, ``x`` below each other."""
    panels = [figure.axes[0] for figure in figures]
    if len(panels) < 2:
        return
    limits = [limit for axes in panels for limit in (axes.get_ylim() if which == "y" else axes.get_xlim())]
    for axes in panels:
        if which == "x":
            axes.set_xlim(min(limits), max(limits))
        elif axes.get_yscale() == "log":
            log_ticks(axes, min(limits), max(limits))
        else:
            axes.set_ylim(min(limits), max(limits))


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], left: float = 0.7) -> None:
    """Name the lines below the only panel, and place the panel; the figure grows by the lines of the legend.

    ``left`` is the panel's distance from the left edge, in inches. Short names are in two columns.
    """
    columns = 2 if max(map(len, labels), default=0) <= 24 and len(labels) > 1 else 1
    names = [wrapped(label, 44) for label in labels]
    num_lines = math.ceil(len(names) / 2) if columns == 2 else sum(1 + name.count("\n") for name in names)
    title = figure.get_suptitle()
    above, below = 0.1 + TEXT_LINE * len(title.splitlines()), 0.6 + LEGEND_LINE * num_lines
    height = figure.get_figheight() + LEGEND_LINE * num_lines
    figure.set_figheight(height)
    right = 1 - 0.14 / WIDTH
    figure.subplots_adjust(left=left / WIDTH, right=right, bottom=below / height, top=1 - above / height)
    look: Any = {"frameon": False, "handlelength": 3.2, "columnspacing": 1.2, "borderaxespad": 0.2}
    figure.legend(handles, names, loc="lower left", ncols=columns, **look)


Curve = tuple[Sequence[float], Sequence[Sequence[float]]]  # x, and the values of all seeds at each x


def curves(
    lines: Mapping[str, Curve], x: str, y: str, *, title: str = "", height: float = 3.1
) -> tuple[Figure, list[float]]:
    """Draw the mean of each curve that has points, with a band of ± sd; return the figure and the bands' edges."""
    figure, axes = empty(height, title)
    edges = []
    for (label, (places, values)), look in zip(lines.items(), line_styles(), strict=False):
        means = [statistics.fmean(seeds) for seeds in values]
        sds = [float(numpy.std(seeds, ddof=1)) if len(seeds) > 1 else 0.0 for seeds in values]
        # A band below zero has no place on a logarithmic axis.
        low = [mean - sd if mean > sd else min(seeds) for mean, sd, seeds in zip(means, sds, values, strict=True)]
        high = [mean + sd for mean, sd in zip(means, sds, strict=True)]
        if places:
            axes.plot(places, means, label=label, markersize=5, markevery=max(1, len(places) // 6), **look)
            axes.fill_between(places, low, high, color=look["color"], alpha=0.16, linewidth=0)
        edges += [*low, *high]
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x in {"epoch", "trials"}:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, edges


Fit = tuple[Sequence[float], Sequence[float], Callable[[float], Any]]  # x and y of points; y, low, high of the fit at x


def fits(lines: Mapping[str, Fit], x: str, y: str) -> Figure:
    """Draw points as marks, their fits as lines, and the fits' intervals as bands, on two logarithmic axes."""
    figure, axes = empty(3.4)
    values: list[float] = []
    for (label, (xs, ys, fit)), look in zip(lines.items(), line_styles(), strict=False):
        places = numpy.geomspace(min(xs), max(xs), 40)
        middle, low, high = zip(*map(fit, places), strict=True)
        axes.plot(places, middle, color=look["color"], linestyle=look["linestyle"])
        axes.plot(xs, ys, color=look["color"], marker=look["marker"], linestyle="none")
        axes.plot([], [], label=label, **look)
        if low[0] is not None:
            axes.fill_between(places, low, high, color=look["color"], alpha=0.28 / len(lines), linewidth=0)
        values += [*ys, *middle]
    axes.set_xscale("log")
    plain_ticks(axes.xaxis, sorted({x for xs, _, _ in lines.values() for x in xs}), short)
    log_ticks(axes, min(values) / 1.03, max(values) * 1.03)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure


def short(value: float) -> str:
    """Write 2500000 as 2.5M, and 20000 as 20k."""
    size, letter = (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e3 else (1, "")
    return f"{value / size:g}{letter}"


class Line(NamedTuple):
    """One difference of a forest plot, in percent."""

    label: str
    estimate: float
    low: float | None
    high: float | None
    published: float | None
    note: str = ""  # before its figures
    accepted: tuple[float, float] | None = None  # the range in which a claim holds


def forest(lines: Sequence[Line], axis: str, *, logarithmic: bool = False) -> Figure:
    """Draw differences below each other; a logarithmic axis is linear from -2 to 2 %."""
    labels = [wrapped(line.label) for line in lines]
    heights = list(accumulate(0.44 + TEXT_LINE * (1 + label.count("\n")) for label in labels))  # inches
    figure, axes = empty(0.9 + heights[-1])
    for height, label, line in zip(heights, labels, lines, strict=True):
        _forest_row(axes, height, label, line)
    axes.set_ylim(heights[-1] + 0.2, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    if logarithmic:
        axes.set_xscale("symlog", linthresh=2, linscale=0.6)
        plain_ticks(axes.xaxis, [-100, -30, -10, -3, 0, 3, 10, 30, 100, 300])
    axes.set_xlabel(axis)
    mean = Line2D([], [], color=MEASURED, marker="o", markersize=6, linewidth=1.8, label="mean, 95 % interval")
    handles: list[Any] = [mean]
    if any(line.accepted for line in lines):
        handles.append(Patch(facecolor=MUTED, alpha=0.3, label="accepted range"))
    if any(line.published is not None for line in lines):
        handles.append(Line2D([], [], color=PUBLISHED, label="published", **DIAMOND))
    legend(figure, handles, [handle.get_label() for handle in handles], left=0.14)
    return figure


def forests(lines: Sequence[Line], axis: str) -> list[tuple[str, Figure]]:
    """Draw as many forest plots as the lines need, each with the names of its lines.

    They are logarithmic for claims, or if one line would squeeze half of the others together.
    """
    sizes = [abs(line.estimate) for line in lines] or [0.0]
    is_log = any(line.accepted for line in lines) or max(sizes) > SQUEEZED * statistics.median(sizes)
    axis += " (linear up to 2, then logarithmic)" if is_log else ""
    number = math.ceil(len(lines) / MOST_ROWS)
    length = math.ceil(len(lines) / number) if number else 1  # no plot of a few left over
    parts = [lines[start : start + length] for start in range(0, len(lines), length)]
    return [(", ".join(line.label for line in part), forest(part, axis, logarithmic=is_log)) for part in parts]


def _forest_row(axes: Axes, height: float, label: str, line: Line) -> None:
    half = 0.09  # inches
    if line.accepted is not None:
        start, width = line.accepted[0], line.accepted[1] - line.accepted[0]
        axes.broken_barh([(start, width)], (height - half, 2 * half), facecolors=MUTED, alpha=0.3, linewidth=0)
    axes.plot([0, 0], [height - half, height + half], color=MUTED, linewidth=1.4, zorder=1)
    figures = f"{line.estimate:+.1f} %"
    if line.low is not None and line.high is not None:
        axes.plot([line.low, line.high], [height, height], color=MEASURED, linewidth=1.8, solid_capstyle="butt")
        figures += f" [{line.low:+.1f}, {line.high:+.1f}]"
    axes.plot(line.estimate, height, marker="o", markersize=6, color=MEASURED)
    if line.published is not None:
        axes.plot(line.published, height, color=PUBLISHED, **DIAMOND)
    where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
    axes.annotate(label, (0, height), (0, 20), color=INK, fontsize=FONT_SIZE, **where)
    axes.annotate(f"{line.note} {figures}".strip(), (0, height), (0, 8), color=MUTED, fontsize=9.5, **where)


class Dots(NamedTuple):
    """One panel of a picture of dots: rows of values, and vertical lines."""

    title: str
    rows: Mapping[str, tuple[Sequence[float], float | None]]  # by label: the values, and the published one
    lines: Mapping[str, set[float]]


def dots(panels: Sequence[Dots], axis: str) -> Figure:
    """Draw every value as a dot: one row per label, panels below each other on one scale."""
    labels = [[wrapped(label, 48) for label in panel.rows] for panel in panels]
    sizes = [[max(1.0, 0.6 * (1 + label.count("\n"))) for label in some] for some in labels]
    height = 0.9 + 0.9 * len(panels) + 0.32 * sum(map(sum, sizes))
    figure = Figure(figsize=(8, height), layout="constrained")
    grid = figure.subplots(
        len(panels), 1, squeeze=False, sharex=True, height_ratios=[0.8 + sum(some) for some in sizes]
    )
    for axes, panel, names, rows in zip(grid[:, 0], panels, labels, sizes, strict=True):
        places = [end - (size + 1) / 2 for end, size in zip(accumulate(rows), rows, strict=True)]
        for place, (values, published) in zip(places, panel.rows.values(), strict=True):
            axes.scatter(
                values, [place] * len(values), color=MEASURED, alpha=0.55, s=28, linewidths=0, label="one seed"
            )
            if published is not None:
                axes.plot(published, place, color=PUBLISHED, label="published", **DIAMOND)
        for (name, at), dashes in zip(panel.lines.items(), ("--", ":"), strict=False):
            for value in sorted(at):
                axes.axvline(value, color=MUTED, linestyle=dashes, linewidth=1.2, label=name)
        axes.set_title(panel.title, loc="left")
        axes.set_yticks(places, names)
        axes.set_ylim(sum(rows) - 0.4, -0.6)
    axes.set_xlabel(axis)
    named: dict[str, Any] = {}  # each name once
    for axes in grid[:, 0]:
        named |= {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([*named.values()], [*named], loc="outside upper right", ncols=4, frameon=False)
    return figure
