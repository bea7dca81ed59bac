"""How the loss falls with the length of the training text: a power law for each model at each size, fitted and drawn.

Bits a character on validation against characters of training text, in the form that Kaplan et al. found for language
models (arXiv 2001.08361, section 3), within the lengths that were trained on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hrm_bench.report.curves import MOST_LINES
from hrm_bench.report.drawing import Plot, empty, legend, log_ticks, looks, plot, style
from hrm_bench.report.settings import settings_text
from hrm_bench.report.sheets import Sheet, sheet
from hrm_bench.report.variants import Variant
from hrm_bench.statistics import PowerLaw, power_law

LENGTH = "data.train_chars"
FEWEST_LENGTHS = 3  # to tell a curve from a line between two points


class Family(NamedTuple):
    """A model at one size and with the same settings, trained on texts of several lengths."""

    label: str
    parameters: int
    lengths: list[int]  # characters of training text, of each cell
    bits: list[float]  # a character on validation, of each cell
    law: PowerLaw


def families(shown: Sequence[Variant]) -> list[Family]:
    """Those that have enough lengths, in the order in which the variants name them first."""
    found: dict[tuple[str, str], list[Variant]] = {}
    for variant in shown:
        rest = settings_text(item for item in variant.key.settings if item[0] != LENGTH)
        label = " ".join(filter(None, (variant.key.model, variant.memory, rest)))
        if LENGTH in dict(variant.key.settings) and dict(variant.key.settings)[LENGTH] is not None:
            found.setdefault((label, str(variant.row.causal)), []).append(variant)
    made = []
    for (label, _), its in found.items():
        points = [
            (int(dict(variant.key.settings)[LENGTH]), record["validation"]["bits_per_character"])
            for variant in its
            for record in variant.seeds.values()
        ]
        if len({length for length, _ in points}) >= FEWEST_LENGTHS:
            lengths, bits = [length for length, _ in points], [bits for _, bits in points]
            made.append(Family(label, its[0].row.parameters, lengths, bits, power_law(lengths, bits)))
    return made


def table(found: Sequence[Family]) -> Sheet | None:
    """The fitted laws."""
    lines = []
    for each in found:
        shortest, longest = min(each.lengths), max(each.lengths)
        lines.append(
            {
                "variant": each.label,
                "parameters": f"{each.parameters:,}",
                "cells": str(len(each.bits)),
                "training characters": f"{shortest:,} to {longest:,}",
                "fitted bits at the shortest": _interval(each.law.at(shortest)),
                "at the longest": _interval(each.law.at(longest)),
                "a text ten times as long": _gain(each.law),
                "off the law": f"{100 * each.law.spread:.1f} %",
            }
        )
    caption = (
        "Bits a character on validation as a power of the length of the training text, by least squares in logarithms "
        "to the mean over seeds at each length, within the lengths trained on. In brackets 95 % intervals (Student's "
        "t), which only more lengths make narrower. A text ten times as long changes bits by so much; off the law: "
        "standard deviation of the means around it, in percent of bits. Where that is large, the law is not one."
    )
    return sheet(caption, lines, words=["training characters"])


def plots(found: Sequence[Family], name: str) -> list[Plot]:
    """Cells as marks, laws as lines and their intervals as bands."""
    made = []
    for start in range(0, len(found), MOST_LINES):
        few = found[start : start + MOST_LINES]
        lengths = sorted({length for each in few for length in each.lengths})
        with style():
            figure, axes = empty(3.4)
            drawn: list[float] = []
            for each, look in zip(few, looks(), strict=False):
                places = numpy.geomspace(min(each.lengths), max(each.lengths), 40)
                middle, low, high = zip(*map(each.law.at, places), strict=True)
                label = f"{each.label}, {each.parameters:,} parameters"
                axes.plot(places, middle, color=look["color"], linestyle=look["linestyle"])
                axes.plot(each.lengths, each.bits, color=look["color"], marker=look["marker"], linestyle="none")
                axes.plot([], [], label=label, **look)
                if low[0] is not None:
                    axes.fill_between(places, low, high, color=look["color"], alpha=0.28 / len(few), linewidth=0)
                drawn += [*each.bits, *middle]
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(lengths))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
            axes.xaxis.set_minor_locator(NullLocator())
            log_ticks(axes, min(drawn) / 1.03, max(drawn) * 1.03)
            axes.set_xlabel("characters of training text")
            axes.set_ylabel("bits a character, validation")
            legend(figure, axes)
        labels = ", ".join(each.label for each in few)
        made.append(plot(figure, f"{name}-{start // MOST_LINES + 1}", f"Scaling: {labels}"))
    return made


def _interval(found: tuple[float, float | None, float | None]) -> str:
    middle, low, high = found
    return f"{middle:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _gain(law: PowerLaw) -> str:
    told = f"{_percent(law.exponent):+.1f} %"
    if law.low is None or law.high is None:
        return told
    return f"{told} [{_percent(law.low):+.1f}, {_percent(law.high):+.1f}]"


def _percent(exponent: float) -> float:
    return float(100 * (10**exponent - 1))


def _short(value: float) -> str:
    """2500000 as 2.5M, 20000 as 20k."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
