"""What finished cells answered to other questions (``hrm_bench.evaluate``): its file, its tables, its plots."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hrm_bench import records
from hrm_bench.report.drawing import Plot, empty, legend, log_ticks, looks, plot, slug, style
from hrm_bench.report.sheets import Sheet
from hrm_bench.report.tables import markdown_grid

FILE = "evaluation.json"
WORDS = frozenset({"variant", "split"})
TITLES = ("other questions", "segments at evaluation")
NOTE = (
    "Perplexity a character, mean ± sd over seeds, of the weights that are best on validation. sliding: each character "
    "after half a window at least; averaged seeds: one prediction, the mean of all seeds' probabilities; with counts: "
    "half the model's probabilities, half those of Kneser-Ney (order 7, within the window). None of these columns is "
    "what the results table says."
)
MOST_LINES = 7  # of a plot


class Answers(TypedDict):
    """Perplexities of a variant on one split, by seed where there is a list."""

    variant: str
    split: str
    seeds: list[int]
    scored: list[float]  # as the results table has it
    sliding: list[float] | None
    averaged_seeds: float
    with_counts: list[float]
    segments: dict[str, list[float]]  # by their number; empty where there is but one


def write(found: Sequence[Answers], folder: Path) -> list[Path]:
    """The file, and its tables in Markdown; the paths written."""
    records.write_json(folder / FILE, {"answers": found})
    text = "\n\n".join([NOTE, *(markdown_grid(*grid, words=WORDS) for grid in grids(found))])
    path = folder / Path(FILE).with_suffix(".md")
    path.write_text(f"{text}\n", encoding="utf-8")
    return [folder / FILE, path]


def read(folder: Path) -> list[Answers]:
    """What the cells in a folder answered; nothing where nothing was asked."""
    path = folder / FILE
    found: list[Answers] = json.loads(path.read_bytes())["answers"] if path.exists() else []
    return found


def grids(found: Sequence[Answers]) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and cells of two tables: the columns, and the curve over segments where there is one."""
    lines = [
        [
            each["variant"],
            each["split"],
            str(len(each["seeds"])),
            _mean(each["scored"]),
            "–" if each["sliding"] is None else _mean(each["sliding"]),
            f"{each['averaged_seeds']:.2f}",
            _mean(each["with_counts"]),
        ]
        for each in found
    ]
    headings = ["variant", "split", "seeds", "as scored", "sliding", "averaged seeds", "with counts"]
    refined = [each for each in found if each["segments"]]
    curves = [[each["variant"], each["split"], *map(_mean, each["segments"].values())] for each in refined]
    numbers = [f"{number} segment{'s' * (number != '1')}" for number in refined[0]["segments"]] if refined else []
    return [each for each in ((headings, lines), (["variant", "split", *numbers], curves)) if each[1]]


def sheets(found: Sequence[Answers], sweep: str) -> list[Sheet]:
    """The same, for the page."""
    return [
        Sheet(f"{sweep}: {title}. {NOTE}", headings, [list(line) for line in lines], [False] * len(lines), WORDS)
        for title, (headings, lines) in zip(TITLES, grids(found), strict=False)
    ]


def plots(found: Sequence[Answers], sweep: str) -> list[Plot]:
    """Perplexity on validation by the number of segments at evaluation, a line a variant."""
    refined = [each for each in found if each["segments"] and each["split"] == "validation"]
    made = []
    for start in range(0, len(refined), MOST_LINES):
        few = refined[start : start + MOST_LINES]
        with style():
            figure, axes = empty(3.1)
            for each, look in zip(few, looks(), strict=False):
                numbers = [int(number) for number in each["segments"]]
                means = [statistics.fmean(values) for values in each["segments"].values()]
                spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in each["segments"].values()]
                axes.plot(numbers, means, label=each["variant"], markersize=4, **look)
                low, high = ([m + way * sd for m, sd in zip(means, spreads, strict=True)] for way in (-1, 1))
                axes.fill_between(numbers, low, high, color=look["color"], alpha=0.15, linewidth=0)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_locator(FixedLocator(numbers))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            values = [value for each in few for seeds in each["segments"].values() for value in seeds]
            log_ticks(axes, min(values) / 1.05, max(values) * 1.05)
            axes.set_xlabel("segments at evaluation")
            axes.set_ylabel("validation perplexity")
            legend(figure, axes)
        name = f"{slug(sweep)}-segments-{start // MOST_LINES + 1}"
        made.append(plot(figure, name, f"Segments at evaluation: {', '.join(each['variant'] for each in few)}"))
    return made


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"
