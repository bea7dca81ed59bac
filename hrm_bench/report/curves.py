"""Plots of a line a variant: mean over its seeds, with a band of one standard deviation to either side."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hrm_bench.records.schema import Record
from hrm_bench.report.drawing import (
    DIAMOND,
    FONT_SIZE,
    INK,
    MUTED,
    TEXT_LINE,
    empty,
    legend,
    log_ticks,
    looks,
    wrapped,
)
from hrm_bench.report.settings import settings_text
from hrm_bench.report.variants import Variant, counting, unigram

MOST_LINES = 7  # of a panel
CLOSE = 1.1  # times: two floors that are less apart have one text


class Panel(NamedTuple):
    """Variants that share a figure, and their names in it."""

    title: str
    variants: list[Variant]
    labels: list[str]

    def looks(self) -> list[dict[str, Any]]:
        """Colour, dashes and mark of each variant, the same in every figure of the panel."""
        return [look for _, look in zip(self.variants, looks(), strict=False)]


def panels(shown: Sequence[Variant]) -> list[Panel]:
    """All variants in one panel if they fit, else a panel a model, else a panel a model and its settings."""
    if len(shown) <= MOST_LINES:
        return [Panel("", list(shown), [variant.label for variant in shown])]
    parts, found = _of_model, _grouped(shown, _of_model)
    if any(len(group) > MOST_LINES for group in found.values()):
        finer = _grouped(shown, _of_settings)
        if len(finer) < len(shown):  # else each panel would have a line
            parts, found = _of_settings, finer
    made = []
    for title, group in sorted(found.items()):
        for start in range(0, len(group), MOST_LINES):
            few = group[start : start + MOST_LINES]
            more = f" ({start // MOST_LINES + 1})" if len(group) > MOST_LINES else ""
            made.append(Panel(title + more, few, [parts(variant)[1] for variant in few]))
    return made


def _grouped(shown: Sequence[Variant], parts: Callable[[Variant], tuple[str, str]]) -> dict[str, list[Variant]]:
    found: dict[str, list[Variant]] = {}
    for variant in shown:
        found.setdefault(parts(variant)[0], []).append(variant)
    return found


def _of_model(variant: Variant) -> tuple[str, str]:
    """The panel of a variant, and its name there, where a panel is of a model."""
    rest = " ".join(filter(None, (variant.memory, settings_text(variant.key.settings), _mark(variant))))
    return variant.key.model, rest or variant.key.model


def _of_settings(variant: Variant) -> tuple[str, str]:
    title = " ".join(filter(None, (variant.key.model, settings_text(variant.key.settings))))
    memory = f"memory {variant.memory}" if variant.memory else variant.key.model
    return title, " ".join(filter(None, (memory, _mark(variant))))


def _mark(variant: Variant) -> str:
    return "" if variant.row.causal else "(not causal)"


Series = Sequence[float | None]


def learning(panel: Panel) -> Figure:
    """The best validation perplexity so far, by epoch; a seed that has stopped keeps its best."""
    figure, axes = empty(3.1)
    drawn = _lines(axes, panel, _best_so_far, longest(panel))
    floors = _floors([record for variant in panel.variants for record in variant.seeds.values()])
    published = [variant.row.published for variant in panel.variants]
    drawn += [value for _, value in floors] + [value for value in published if value is not None]
    log_ticks(axes, min(drawn) / 1.05, max(drawn) * 1.08)
    for text, value in floors:
        axes.axhline(value, color=MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1)
        where: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
        axes.annotate(text, (0.93, value), (0, 2), ha="right", color=MUTED, fontsize=9.5, **where)
    for single, look in zip(published, panel.looks(), strict=True):
        if single is not None:
            axes.plot(longest(panel), single, color=look["color"], clip_on=False, zorder=5, **DIAMOND)
    if any(value is not None for value in published):
        axes.plot([], [], color=INK, label="published", **DIAMOND)
    _finish(figure, axes, panel, "best validation perplexity so far", "epoch")
    return figure


def by_position(panel: Panel, split: str) -> Figure | None:
    """Bits a character by place in the window; places are taken together in ranges, each twice as long as the last."""
    records = [record for variant in panel.variants for record in variant.seeds.values()]
    lengths = [len(record["bits_by_position"][split]) for record in records if "bits_by_position" in record]
    ranges = _ranges(min(lengths, default=0))

    def means(record: Record) -> Series | None:
        bits = record.get("bits_by_position", {}).get(split)
        return [statistics.fmean(bits[start:stop]) for start, stop in ranges] if bits else None

    figure, axes = empty(2.9)
    if not _lines(axes, panel, means, len(ranges)):
        return None
    names = [str(stop) if stop - start == 1 else f"{start + 1}–{stop}" for start, stop in ranges]
    axes.set_xticks(range(1, len(ranges) + 1), names, fontsize=9.5)
    _finish(figure, axes, panel, "bits a character", f"place in the window ({split})")
    return figure


def course(panel: Panel, key: str, axis: str) -> Figure | None:
    """A figure of the history by epoch; a seed that has stopped keeps its last. None where no record has it."""

    def values(record: Record) -> Series | None:
        found: list[Any] = [row.get(key) for row in record["history"]]
        return found if any(value is not None for value in found) else None

    figure, axes = empty(2.7)
    if not _lines(axes, panel, values, longest(panel)):
        return None
    _finish(figure, axes, panel, axis, "epoch")
    return figure


def longest(panel: Panel) -> int:
    """Epochs of the cell that trained longest."""
    return max(len(record["history"]) for variant in panel.variants for record in variant.seeds.values())


def _best_so_far(record: Record) -> Series:
    return list(accumulate((row["validation_perplexity"] for row in record["history"]), min))


def _lines(axes: Axes, panel: Panel, series: Callable[[Record], Series | None], length: int) -> list[float]:
    """Draw mean and band of each variant all of whose cells have a series; the values drawn."""
    drawn: list[float] = []
    for variant, label, look in zip(panel.variants, panel.labels, panel.looks(), strict=True):
        found = [each for record in variant.seeds.values() if (each := series(record))]
        if len(found) < len(variant.seeds):
            continue
        columns = _columns(found, length)
        places = [place for place, _ in columns]
        means = [statistics.fmean(values) for _, values in columns]
        sds = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in columns]
        # A band below nothing has no place on a logarithmic axis.
        low = [m - sd if m > sd else min(values) for m, sd, (_, values) in zip(means, sds, columns, strict=True)]
        high = [mean + sd for mean, sd in zip(means, sds, strict=True)]
        axes.plot(places, means, label=label, markersize=5, markevery=max(1, len(places) // 6), **look)
        axes.fill_between(places, low, high, color=look["color"], alpha=0.16, linewidth=0)
        drawn += [*low, *high]
    return drawn


def _columns(series: Iterable[Series], length: int) -> list[tuple[int, list[float]]]:
    """Places from 1 and the values there of all series, of which the shorter keep their last value."""
    held = [[*each, *[each[-1]] * (length - len(each))] for each in series]
    columns: list[tuple[int, list[float]]] = []
    for place, values in enumerate(zip(*held, strict=True), start=1):
        known = [value for value in values if value is not None]
        if known:
            columns.append((place, known))
    return columns


def _ranges(length: int) -> list[tuple[int, int]]:
    """0–1, 1–2, 2–4, 4–8 … to the length."""
    edges = [0, 1]
    while edges[-1] < length:
        edges.append(min(length, 2 * edges[-1]))
    return list(pairwise(edges))


def _floors(records: Sequence[Record]) -> list[tuple[str, float]]:
    """What counting reaches on validation, with its name; one of a text, where a panel has several.

    Of lines of a name that lie too close for a text between them, the highest has it for all.
    """
    names = {
        "unigram counts": {unigram(record) for record in records},
        "n-gram counts": {best[1] for record in records if (best := counting(record, "window"))},
    }
    found: list[tuple[str, float]] = []
    for name, values in names.items():
        close: list[float] = []  # from high to low, until one lies apart
        for value in [*sorted(values, reverse=True), 0.0]:
            if close and value * CLOSE < close[-1]:
                ends = list(dict.fromkeys(f"{each:.1f}" for each in (close[-1], close[0])))
                found += [(f"{name} {' to '.join(ends)}", close[0]), *(("", each) for each in close[1:])]
                close = []
            close.append(value)
    return found


def _finish(figure: Figure, axes: Axes, panel: Panel, y: str, x: str) -> None:
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    if x == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if panel.title:
        title = wrapped(panel.title)
        figure.suptitle(title, x=0.01, ha="left", fontsize=FONT_SIZE)
        figure.set_figheight(figure.get_figheight() + TEXT_LINE * (1 + title.count("\n")))
    legend(figure, axes)
