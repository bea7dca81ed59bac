"""Quantities over seeds with their 95 % intervals: levels, differences, shares, rates, and a single run to come.

Two figures of one run are paired, such as its scores with two memories, and so are one cell's figures in two sweeps.
Runs of different variants are not: over the archived records, the figures of two variants at the same seed have a
correlation of zero. docs/claims.md has that measurement, and benchmarks/coverage.py simulates every interval.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from scipy import special

MIN_SEEDS = 4  # fewer give no interval
CONFIDENCE = 0.95
_in_force = ContextVar("confidence", default=CONFIDENCE)


def confidence() -> float:
    """Return the probability with which an interval is to hold the truth: 95 %, or that of ``at_confidence``."""
    return _in_force.get()


@contextmanager
def at_confidence(value: float) -> Iterator[None]:
    """Compute intervals, and what follows from them, with this confidence."""
    token = _in_force.set(value)
    try:
        yield
    finally:
        _in_force.reset(token)


class Quantity(NamedTuple):
    """A quantity over seeds; None for what too few seeds do not give."""

    seeds: int  # of the variant with the fewest
    estimate: float
    sd: float | None  # of the quantity of one run of each variant: sd/√seeds is the estimate's standard error
    low: float | None  # 95 % interval of the estimate
    high: float | None
    single_low: float | None = None  # 95 % prediction interval for one more run of each variant
    single_high: float | None = None
    degrees: float | None = None  # of freedom of sd
    p: float | None = None  # two-sided t test of zero


class Difference(NamedTuple):
    """One variant minus another; None for what too few seeds do not give."""

    seeds: int  # pairs, or the seeds of the variant with fewer
    mean: float
    sd: float | None  # of the difference between one run of each
    percent: float  # the mean, in percent of the other variant's mean
    low: float | None  # 95 % interval of the mean
    high: float | None
    percent_low: float | None  # 95 % interval of percent
    percent_high: float | None
    p: float | None  # two-sided t test of no difference


class Rate(NamedTuple):
    """How many of some runs did a thing, with the exact 95 % interval of its rate (Clopper and Pearson 1934)."""

    number: int
    runs: int
    low: float
    high: float


def sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for one value, NaN if a value is not finite."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def level(values: Sequence[float]) -> Quantity:
    """Return the mean, in the unit of the values."""
    return _contrast([values], [1])


def percent_difference(values: Sequence[float], baseline: Sequence[float]) -> Quantity:
    """Return the difference of two variants' means in percent of the baseline's; their runs are not paired."""
    return _contrast([values, baseline], [1, -1], [0, 1], scale=100)


def share(first: Sequence[float], second: Sequence[float], third: Sequence[float], fourth: Sequence[float]) -> Quantity:
    """Return first minus second in percent of the gap, third minus fourth; a variant may stand in both.

    It has neither sd nor interval if the gap's own interval reaches zero: there may be no gap to explain.
    """
    variants = [*dict.fromkeys(map(tuple, (first, second, third, fourth)))]
    above, below = [0] * len(variants), [0] * len(variants)
    for weights, plus, minus in ((above, first, second), (below, third, fourth)):
        weights[variants.index(tuple(plus))] += 1
        weights[variants.index(tuple(minus))] -= 1
    gap, part = _contrast(variants, below), _contrast(variants, above)
    if gap.low is not None and gap.low > 0:
        return _contrast(variants, above, below, scale=100)
    return Quantity(gap.seeds, 100 * part.estimate / gap.estimate if gap.estimate else math.nan, None, None, None)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Compare two variants, whose runs are not paired; None if one of them has none."""
    if not values or not baseline:
        return None
    return _both(_contrast([values, baseline], [1, -1]), percent_difference(values, baseline))


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Compare two series whose entries belong together; None if they are empty."""
    differences = [value - other for value, other in zip(values, baseline, strict=True)]
    if not differences:
        return None
    unit, plain = statistics.fmean(baseline), level(differences)
    ratio = plain.estimate / unit
    scaled = [
        100 * (ratio + (change - ratio * other) / unit) for change, other in zip(differences, baseline, strict=True)
    ]
    return _both(plain, level(scaled))


def rate(number: int, runs: int) -> Rate:
    """Return how many of some runs did a thing, with its exact interval."""
    tail = (1 - confidence()) / 2
    low = float(special.betaincinv(number, runs - number + 1, tail)) if number else 0.0
    high = float(special.betaincinv(number + 1, runs - number, 1 - tail)) if number < runs else 1.0
    return Rate(number, runs, low, high)


def students_t(degrees: float) -> float:
    """Return how many standard errors the interval, by default of 95 %, reaches to either side."""
    return float(special.stdtrit(degrees, (1 + confidence()) / 2))


def _both(plain: Quantity, percent: Quantity) -> Difference:
    bounds = (plain.low, plain.high, percent.low, percent.high)
    return Difference(plain.seeds, plain.estimate, plain.sd, percent.estimate, *bounds, plain.p)


def _contrast(
    variants: Sequence[Sequence[float]],
    above: Sequence[float],
    below: Sequence[float] | None = None,
    scale: float = 1,
) -> Quantity:
    """Return a weighted sum of variants' means, or the ratio of two such sums, with Welch's interval (1947).

    Each variant has its own variance. A ratio is linearised at its estimate (Cochran 1977, 6.3).
    """
    means, numbers = [statistics.fmean(values) for values in variants], [len(values) for values in variants]
    unit = sum(weight * mean for weight, mean in zip(below, means, strict=True)) / scale if below else 1.0
    estimate = sum(weight * mean for weight, mean in zip(above, means, strict=True)) / unit
    seeds = min(numbers)
    if seeds < 2 or not math.isfinite(estimate):
        return Quantity(seeds, estimate, None, None, None)
    weights = [a - estimate * b / scale for a, b in zip(above, below or [0] * len(means), strict=True)]
    variances = [(weight / unit) ** 2 * _variance(v) for weight, v in zip(weights, variants, strict=True)]
    error, degrees = _welch([v / n for v, n in zip(variances, numbers, strict=True)], numbers)
    spread = error * math.sqrt(seeds)
    if seeds < MIN_SEEDS:
        return Quantity(seeds, estimate, spread, None, None, degrees=degrees)
    reach = students_t(degrees) * error
    single, its_degrees = _welch([v * (1 + 1 / n) for v, n in zip(variances, numbers, strict=True)], numbers)
    far = students_t(its_degrees) * single
    p = 2 * float(special.stdtr(degrees, -abs(estimate) / error)) if error else float(not estimate)
    bounds = (estimate - reach, estimate + reach, estimate - far, estimate + far)
    return Quantity(seeds, estimate, spread, *bounds, degrees=degrees, p=p)


def _variance(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _welch(variances: Sequence[float], numbers: Sequence[int]) -> tuple[float, float]:
    """Return the standard error of a sum whose parts have these variances, and its degrees of freedom."""
    total = sum(variances)
    squares = sum(variance**2 / (number - 1) for variance, number in zip(variances, numbers, strict=True))
    return math.sqrt(total), total**2 / squares if squares else float(min(numbers) - 1)
