"""What all plots share: their look, and how one becomes a file of its own or a part of a page.

A figure is drawn once, in two colours that stand for the reader's: ink and muted ink. A file of its own has them in
black and grey on white, and a page in the page's own colours, light or dark.
"""

import hashlib
import html
import io
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

INK, MUTED = "#101418", "#5b6572"
# Okabe and Ito's palette, which the colour-blind can tell apart, less its yellow, with a line style each.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 3)), (0, (10, 3)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
# Of what was published.
DIAMOND: Any = {
    "marker": "D",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgewidth": 1.7,
    "linestyle": "none",
}
WIDTH = 4.6  # inches
TEXT_LINE = 0.18
FONT_SIZE = 10

# Text stays text, and the same records give the same bytes.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hrm_bench",
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
    "savefig.facecolor": "none",
}


OURS = 'style="background: white"'  # in the tag of each file that a page writes


def is_ours(svg: str) -> bool:
    """Whether the text of a file is that of a plot that a page has written."""
    return f"<svg {OURS} " in svg


class Plot(NamedTuple):
    """A drawn figure."""

    name: str  # of its file
    title: str
    svg: str  # with the two inks as they were drawn

    def standalone(self) -> str:
        """As a file: on white."""
        head, tag, rest = self.svg.partition("<svg ")
        return f"{head}{tag}{OURS} {rest}"

    def inline(self) -> str:
        """As a part of a page: no declarations, its ids its own, its inks the page's, its title for who cannot see."""
        text = self.svg[self.svg.index("<svg ") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
        text = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{self.name}-", text)
        text = text.replace(INK, "var(--ink)").replace(MUTED, "var(--muted)")
        text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # the page's own
        size = re.search(r'width="[\d.]+pt" height="[\d.]+pt" ', text)
        assert size is not None, "matplotlib writes its size"
        text = text.replace(size.group(), "", 1)
        label = html.escape(self.title, quote=True)
        return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def style() -> Any:
    """The context in which every figure is drawn."""
    return matplotlib.rc_context(STYLE)


def plot(figure: Figure, name: str, title: str) -> Plot:
    """A figure as SVG text."""
    out = io.StringIO()
    with style():
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return Plot(name, title, out.getvalue())


def slug(name: str) -> str:
    """A name as the name of a file and of a place on a page; two names never give the same one."""
    plain = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def empty(height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure of one panel."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def looks() -> Iterator[dict[str, Any]]:
    """Colour, dashes and mark of one line after another."""
    for colour, dashes, mark in itertools.cycle(zip(COLOURS, DASHES, MARKS, strict=True)):
        yield {"color": colour, "linestyle": dashes, "marker": mark}


def log_ticks(axes: Axes, low: float, high: float) -> None:
    """A logarithmic y axis with round figures as its ticks."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        ticks = [step * 10**power for power in range(-4, 9) for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 7:
            break
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def share_scale(figures: Sequence[Figure], which: Literal["x", "y"] = "y") -> None:
    """Give figures of one panel each one scale: ``y`` of those side by side, ``x`` of those one below the other."""
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


def legend(figure: Figure, axes: Axes) -> None:
    """The names of the lines, below the panel, in two columns where they are short; the figure grows by their lines."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels), default=0) <= 24 and len(labels) > 1 else 1
    names = [wrapped(label, 44) for label in labels]
    num_lines = -(-len(names) // 2) if columns == 2 else sum(1 + name.count("\n") for name in names)
    figure.set_figheight(figure.get_figheight() + TEXT_LINE * num_lines)
    figure.legend(
        handles, names, loc="outside lower left", ncols=columns, frameon=False, handlelength=3.2, columnspacing=1.2
    )


def wrapped(text: str, width: int = 50) -> str:
    """A text in as many lines as it needs in the width of a plot."""
    return "\n".join(textwrap.wrap(text, width))
