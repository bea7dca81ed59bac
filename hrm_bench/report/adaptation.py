"""The table of what a model gains from the text that it has read so far."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from hrm_bench import intervals
from hrm_bench.records.schema import Adaptation
from hrm_bench.report.frame import Sweep
from hrm_bench.report.tables import table
from hrm_bench.table import Table, mean_sd

ALONE = ["model"]


def adaptation(sweep: Sweep) -> Table | None:
    """Show one row per variant and mixture, with its gain over the model alone."""
    alone = {row["variant"]: row["perplexity"] for row in sweep.adaptation if row["predictors"] == ALONE}
    rows = []
    for row in sweep.adaptation:
        values: dict[str, Any] = {
            "variant": row["variant"],
            "num_seeds": len(row["seeds"]),
            "mixture": _mixture(row),
            "settings": _settings(row),
        }
        for split, perplexity in row["perplexity"].items():
            values[split] = mean_sd(perplexity)
            if row["predictors"] != ALONE:
                values[f"{split}_gain"] = _gain(alone[row["variant"]][split], perplexity)
        rows.append(values)
    return table("adaptation", rows, sweep=sweep.name) if rows else None


def _mixture(row: Adaptation) -> str:
    """Return the predictors, each with its mean weight over the seeds if there are several."""
    if len(row["predictors"]) == 1:
        return row["predictors"][0]
    means = [statistics.fmean(values) for values in zip(*row["weights"], strict=True)]
    return " + ".join(f"{mean:.2f} {name}" for mean, name in zip(means, row["predictors"], strict=True))


def _settings(row: Adaptation) -> str:
    """Return what was chosen of the predictors, with the number of seeds if they chose differently."""
    chosen = [", ".join(settings.values()) for settings in row["settings"]]
    numbers = {text: chosen.count(text) for text in dict.fromkeys(chosen)}
    if len(numbers) == 1:
        return chosen[0]
    return "; ".join(f"{text} ({number})" for text, number in numbers.items())


def _gain(alone: Sequence[float], mixed: Sequence[float]) -> str:
    """Return the mean gain in perplexity with its interval, and in bits."""
    gains = intervals.level([before - after for before, after in zip(alone, mixed, strict=True)])
    bits = statistics.fmean(math.log2(before / after) for before, after in zip(alone, mixed, strict=True))
    interval = "" if gains.low is None else f" [{gains.low:+.2f}, {gains.high:+.2f}]"
    return f"{gains.estimate:+.2f}{interval} ({bits:+.2f})"
