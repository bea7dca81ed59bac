"""How the recipe of each model of a sweep was searched for (``hrm_bench.tuning``): its file, its table, its plot."""

from collections.abc import Sequence
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Any, TypedDict

from matplotlib.ticker import MaxNLocator

from hrm_bench.records import store
from hrm_bench.report.curves import MOST_LINES
from hrm_bench.report.drawing import Plot, empty, legend, looks, plot, share_scale, slug, style
from hrm_bench.report.sheets import Sheet

FILE = "search.json"
NOTE = (
    "Validation perplexity a character at the best epoch, of one seed. The first trial is the recipe as it stood, "
    "where that is in the space; the best trial's values stand beside it."
)


class Trial(TypedDict):
    """Values that were tried, and what came of them."""

    values: dict[str, Any]  # by key of the recipe
    perplexity: float | None  # None where the cell failed
    cell: str  # its folder


class Study(TypedDict):
    """The trials of one model."""

    study: str  # model, memory, seed
    validation_start: int  # of the characters that are chosen on
    validation_chars: int | None
    trials: list[Trial]


class Search(TypedDict):
    """All studies, and what they had in common."""

    seed: int
    space: dict[str, dict[str, Any]]
    studies: list[Study]


def read(folder: Path) -> Search | None:
    """What was searched for in a sweep's folder; None where nothing was."""
    found: Search | None = store.read_json(folder / FILE)
    return found


def sheet(found: Search, sweep: str) -> Sheet:
    """A line a study: how many trials, the first, the best and its values."""
    headings = ["study", "trials", "first trial", "best trial", *found["space"]]
    lines: list[Any] = []
    for study in found["studies"]:
        trials = study["trials"]
        best = min(trials, key=perplexity)
        lines.append(
            [
                study["study"],
                str(len(trials)),
                _told(trials[0]),
                _told(best),
                *(f"{best['values'].get(key, '')}" for key in found["space"]),
            ]
        )
    chosen_on = {where(study["validation_start"], study["validation_chars"]): None for study in found["studies"]}
    caption = f"{sweep}: Chosen {', or '.join(chosen_on)}. {NOTE}"
    return Sheet(caption, headings, lines, [False] * len(lines), frozenset({"study"}))


def where(start: int, number: int | None) -> str:
    """Which characters of the validation text were chosen on, in prose."""
    end = "its end" if number is None else f"{start + number:,}"
    return f"on validation characters {start + 1:,} to {end}, which no result is to be of"


def plots(found: Search, sweep: str) -> list[Plot]:
    """The best perplexity so far, against that of the first trial that finished, by trial; a line a study."""
    finished = [study for study in found["studies"] if any(trial["perplexity"] for trial in study["trials"])]
    made, figures = [], []
    for start in range(0, len(finished), MOST_LINES):
        few = finished[start : start + MOST_LINES]
        with style():
            figure, axes = empty(3.1)
            for study, look in zip(few, looks(), strict=False):
                course = zip(*gained(study["trials"]), strict=True)
                axes.plot(*course, label=study["study"], markersize=4, **look)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.set_xlabel("trials")
            axes.set_ylabel("best so far, % under\nthe first trial")
            legend(figure, axes)
        figures.append(figure)
        made.append(
            (f"{slug(sweep)}-search-{start // MOST_LINES + 1}", f"Search: {', '.join(study['study'] for study in few)}")
        )
    share_scale(figures)
    return [plot(figure, *names) for figure, names in zip(figures, made, strict=True)]


def gained(trials: Sequence[Trial]) -> list[tuple[int, float]]:
    """By the number of a trial: how far the best up to it is under the first that finished, in percent of that."""
    course = [(n, value) for n, value in enumerate(accumulate(map(perplexity, trials), min), start=1) if value < inf]
    return [(n, 100 * (1 - value / course[0][1])) for n, value in course]


def perplexity(trial: Trial) -> float:
    """What trials are compared by: of one that failed, infinite."""
    return inf if trial["perplexity"] is None else trial["perplexity"]


def _told(trial: Trial) -> str:
    return "failed" if trial["perplexity"] is None else f"{trial['perplexity']:.2f}"
