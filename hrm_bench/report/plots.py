"""The results of sweeps as a picture: every seed of every variant, the published figure, and what counting reaches."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hrm_bench.records.schema import Record
from hrm_bench.report.drawing import wrapped
from hrm_bench.report.variants import Variant, by_experiment, counting, perplexity, unigram, variants

LABEL_WIDTH = 48  # characters of a variant's name in a line
SEED, PUBLISHED, FLOOR = "#1f6f8b", "#c8553d", "#6b6b6b"

# Text stays text, and the same records give the same bytes.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "hrm_bench", "font.size": 10, "font.family": "sans-serif"}


def write(records: Sequence[Record], path: Path) -> Path:
    """A panel an experiment, in the order in which the records name them, as SVG; the path written."""
    experiments = by_experiment(records)
    numbers = [sum(map(_rows, _labels(variants(panel)))) for panel in experiments.values()]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.9 + 0.9 * len(experiments) + 0.32 * sum(numbers)), layout="constrained")
        figure.patch.set_facecolor("white")
        panels = figure.subplots(
            len(experiments), 1, squeeze=False, sharex=True, height_ratios=[0.8 + number for number in numbers]
        )[:, 0]
        for axes, (name, panel) in zip(panels, experiments.items(), strict=True):
            _panel(axes, name, panel)
        panels[-1].set_xlabel("validation perplexity a character, best epoch")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=4, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _panel(axes: Axes, name: str, records: Sequence[Record]) -> None:
    shown = variants(records)
    labels = _labels(shown)
    ends = list(accumulate(map(_rows, labels)))
    heights = [end - (_rows(label) + 1) / 2 for end, label in zip(ends, labels, strict=True)]
    for height, variant in zip(heights, shown, strict=True):
        first = variant is shown[0]
        reached = [perplexity(record) for record in variant.seeds.values()]
        axes.scatter(
            reached,
            [height] * len(reached),
            color=SEED,
            alpha=0.55,
            s=28,
            linewidths=0,
            label="a seed" if first else None,
        )
        if variant.row.published is not None:
            axes.scatter(
                variant.row.published,
                height,
                marker="D",
                s=60,
                facecolors="none",
                edgecolors=PUBLISHED,
                linewidths=1.6,
                label="published" if first else None,
            )
    # A line for each text, where a sweep has several; named once.
    unigrams = dict.fromkeys(unigram(record) for record in records)
    ngrams = dict.fromkeys(found[1] for record in records if (found := counting(record, "window")))
    for number, floor in enumerate(unigrams):
        label = None if number else "unigram counts"
        axes.axvline(floor, color=FLOOR, linestyle="--", linewidth=1, label=label)
    for number, floor in enumerate(ngrams):
        label = None if number else "n-gram counts"
        axes.axvline(floor, color=FLOOR, linestyle=":", linewidth=1.4, label=label)
    axes.set_title(name, loc="left", fontsize=11)
    axes.set_yticks(heights, labels)
    axes.set_ylim(ends[-1] - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _labels(shown: Sequence[Variant]) -> list[str]:
    return [wrapped(variant.label, LABEL_WIDTH) for variant in shown]


def _rows(label: str) -> float:
    """The height of a label, in those of the usual one."""
    return max(1.0, 0.6 * (1 + label.count("\n")))
