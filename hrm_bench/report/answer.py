"""The answer of a study in a sentence: which variant is best, by how much, and what is not told apart from it."""

from collections.abc import Sequence
from typing import Any

from hrm_bench.intervals import MIN_SEEDS, difference
from hrm_bench.records.facts import text_name
from hrm_bench.report.frame import Study, by_text
from hrm_bench.statistics import holm
from hrm_bench.table import count

DECIDED = 0.05  # the largest p, adjusted by Holm's method, that tells two variants apart
MOST_NAMES = 4


def answers(study: Study) -> list[str]:
    """Return one answer per text; only causal variants whose seeds all left the plateau are compared."""
    groups = by_text(v for v in study.variants.itertuples() if v.causal)
    starts = [f"On {text_name(group[0].first['config']['data'])}: " if len(groups) > 1 else "" for group in groups]
    return [start + _answer(group) for start, group in zip(starts, groups, strict=True)] or ["No variant is causal."]


def _answer(group: Sequence[Any]) -> str:
    stuck = [v for v in group if v.on_plateau]
    left = f" Stuck on the plateau, near what counting characters gives: {_stuck(stuck)}." if stuck else ""
    best, *others = sorted((v for v in group if not v.on_plateau), key=lambda v: v.validation_mean) or [None]
    if best is None:
        return f"No variant left the plateau with every seed.{left}"
    start = (
        f"{best.label} reaches a validation perplexity of {best.validation_mean:.2f} over {count(best.seeds, 'seed')}"
    )
    if not others:
        return f"{start}.{left}"
    compared = [difference(_values(v), _values(best)) for v in others]
    nearest = compared[0]
    assert nearest is not None  # each variant has a run
    interval = "" if nearest.low is None else f" [{nearest.percent_low:+.1f}, {nearest.percent_high:+.1f}]"
    text = f"{start}, the lowest here; the next, {others[0].label}, is at {nearest.percent:+.1f} %{interval}."
    p_values = holm([some.p if some else None for some in compared])
    few = [v for v, p in zip(others, p_values, strict=True) if p is None]
    level = [v for v, p in zip(others, p_values, strict=True) if p is not None and p > DECIDED]
    if level:
        text += f" Not told apart from the best: {_names(level)}."
    elif not few:
        text += " It is told apart from every other."
    if few:
        text += f" Too few seeds to decide (fewer than {MIN_SEEDS}): {_names(few)}."
    return text + left


def _stuck(variants: Sequence[Any]) -> str:
    """Return some variants with how many of their seeds stayed on the plateau."""
    more = len(variants) - MOST_NAMES
    names = [f"{v.label} ({len(v.on_plateau)} of {count(v.seeds, 'seed')})" for v in variants[:MOST_NAMES]]
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _values(v: Any) -> list[float]:
    return [record["validation"]["perplexity"] for record in v.records.values()]


def _names(variants: Sequence[Any]) -> str:
    more = len(variants) - MOST_NAMES
    return ", ".join(v.label for v in variants[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
