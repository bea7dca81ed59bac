"""What finished cells answered to other questions (``hrm_bench.evaluate``): its file, its tables, its plots."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hrm_bench.records import store
from hrm_bench.report.curves import MOST_LINES
from hrm_bench.report.drawing import Plot, empty, legend, log_ticks, looks, plot, slug, style
from hrm_bench.report.sheets import Sheet
from hrm_bench.report.tables import markdown_grid

FILE = "evaluation.json"
WORDS = frozenset({"variant", "split"})
TITLES = ("other questions", "segments at evaluation", "halting")
NOTE = (
    "Perplexity a character, mean ± sd over seeds, of the weights that are best on validation. sliding: each character "
    "after half a window at least; averaged seeds: one prediction, the mean of all seeds' probabilities; with counts: "
    "half the model's probabilities, half those of Kneser-Ney (order 7, within the window); halting: each character is "
    "predicted by the first segment at which the Q head rates stopping above going on, by so much. None of these is "
    "what the results table says."
)


class Halting(TypedDict):
    """What stopping at a threshold gives, by seed."""

    threshold: float
    mean_segments: list[float]
    perplexity: list[float]


class Answers(TypedDict):
    """Perplexities of a variant on one split, by seed where there is a list."""

    variant: str
    split: str
    seeds: list[int]
    scored: list[float]  # as the results table has it
    sliding: list[float] | None
    averaged_seeds: float
    with_counts: list[float] | None  # None where the training text is too long to be counted
    segments: dict[str, list[float]]  # by their number; empty where there is but one
    halting: list[Halting]  # empty where there is no Q head


def write(found: Sequence[Answers], folder: Path) -> list[Path]:
    """The file, and its tables in Markdown; the paths written."""
    store.write_json(folder / FILE, {"answers": found})
    text = "\n\n".join([NOTE, *(markdown_grid(*grid, words=WORDS) for grid in grids(found))])
    path = folder / Path(FILE).with_suffix(".md")
    with store.replacing(path) as file:
        file.write(f"{text}\n".encode())
    return [folder / FILE, path]


def read(folder: Path) -> list[Answers]:
    """What the cells in a folder answered; nothing where nothing was asked."""
    found: list[Answers] = (store.read_json(folder / FILE) or {"answers": []})["answers"]
    return found


def grids(found: Sequence[Answers]) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and cells of three tables: the columns, and the curves over segments and of halting where there are."""
    lines = [
        [
            each["variant"],
            each["split"],
            str(len(each["seeds"])),
            _mean(each["scored"]),
            _mean(each["sliding"]),
            f"{each['averaged_seeds']:.2f}",
            _mean(each["with_counts"]),
        ]
        for each in found
    ]
    headings = ["variant", "split", "seeds", "as scored", "sliding", "averaged seeds", "with counts"]
    refined = [each for each in found if each["segments"]]
    curves = [[each["variant"], each["split"], *map(_mean, each["segments"].values())] for each in refined]
    numbers = [f"{number} segment{'s' * (number != '1')}" for number in refined[0]["segments"]] if refined else []
    stops = [
        [
            each["variant"],
            each["split"],
            f"{point['threshold']:+g}",
            _mean(point["mean_segments"]),
            _mean(point["perplexity"]),
        ]
        for each in found
        for point in each["halting"]
    ]
    halting = ["variant", "split", "threshold", "mean segments", "perplexity"]
    return [each for each in ((headings, lines), (["variant", "split", *numbers], curves), (halting, stops)) if each[1]]


def sheets(found: Sequence[Answers], sweep: str) -> list[Sheet]:
    """The same, for the page."""
    return [
        Sheet(f"{sweep}: {title}. {NOTE}", headings, [list(line) for line in lines], [False] * len(lines), WORDS)
        for title, (headings, lines) in zip(TITLES, grids(found), strict=False)
    ]


def plots(found: Sequence[Answers], sweep: str) -> list[Plot]:
    """Perplexity on validation by the number of segments at evaluation: a fixed one, and what the Q head makes it."""
    validation = [each for each in found if each["split"] == "validation"]
    fixed = {
        each["variant"]: [([float(number)], values) for number, values in each["segments"].items()]
        for each in validation
        if each["segments"]
    }
    halting = {
        each["variant"]: [(point["mean_segments"], point["perplexity"]) for point in each["halting"]]
        for each in validation
        if each["halting"]
    }
    return [
        *_curves(fixed, f"{slug(sweep)}-segments", "Segments at evaluation", "segments at evaluation"),
        *_curves(halting, f"{slug(sweep)}-halting", "Halting", "mean segments used"),
    ]


Points = Sequence[tuple[Sequence[float], Sequence[float]]]  # segments and perplexities, by seed


def _curves(found: Mapping[str, Points], name: str, title: str, axis: str) -> list[Plot]:
    """A line a variant, mean over seeds, with a band of one standard deviation to either side."""
    made = []
    labels = [*found]
    for start in range(0, len(labels), MOST_LINES):
        few = labels[start : start + MOST_LINES]
        with style():
            figure, axes = empty(3.1)
            for label, look in zip(few, looks(), strict=False):
                numbers = [statistics.fmean(numbers) for numbers, _ in found[label]]
                means = [statistics.fmean(values) for _, values in found[label]]
                spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in found[label]]
                axes.plot(numbers, means, label=label, markersize=4, **look)
                low, high = ([m + way * sd for m, sd in zip(means, spreads, strict=True)] for way in (-1, 1))
                axes.fill_between(numbers, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator([1, 2, 3, 4, 6, 8, 12, 16]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            every = [value for label in few for _, values in found[label] for value in values]
            if max(every) > 1.5 * min(every):  # below, a logarithmic axis has hardly a round figure
                log_ticks(axes, min(every) / 1.02, max(every) * 1.02)
            axes.set_xlabel(axis)
            axes.set_ylabel("validation perplexity")
            legend(figure, axes)
        made.append(plot(figure, f"{name}-{start // MOST_LINES + 1}", f"{title}: {', '.join(few)}"))
    return made


def _mean(values: Sequence[float] | None) -> str:
    if values is None:
        return "–"
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
