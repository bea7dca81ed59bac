"""Statistics over seeds: paired differences, intervals, tests, verdicts and power laws.

The same seed means the same initial weights (if shapes agree) and the same order of the data. So a difference is taken
seed by seed, and what all cells of a seed share drops out of it.
"""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy
from scipy import stats

MIN_PAIRS = 5  # fewer cannot carry a bootstrap, and no sign-flip test of fewer can reach p = 0.05
CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999
MOST_FLIPPED = 16  # differences; up to here, every pattern of signs is tried
MOST_SEEDS = 10_000  # the largest number of seeds that is ever recommended
TOLERANCE = 0.05  # of a published level, either way
SMALLEST, LARGEST = 0.5, 2.0  # times a published difference
AT_LEAST = 50.0  # percent of a gap that its explanation must explain

Kind = Literal["level", "difference", "share"]
Verdict = Literal["reproduced", "contradicted", "undecided"]


class Difference(NamedTuple):
    """One variant minus another over their common seeds; None for what too few seeds do not give."""

    pairs: int
    mean: float
    sd: float | None
    percent: float  # the mean, in percent of the other variant's mean
    low: float | None  # 95 % BCa bootstrap interval of the mean (Efron 1987)
    high: float | None
    p: float | None  # two-sided sign-flip test

    def percent_interval(self, baseline: float) -> tuple[float | None, float | None]:
        """Return the interval in percent of the baseline's mean, as ``percent`` is."""
        if self.low is None or self.high is None:
            return None, None
        unit = self.percent / self.mean if self.mean else 100 / baseline
        return self.low * unit, self.high * unit


class Quantity(NamedTuple):
    """A quantity over seeds; None for what too few seeds do not give."""

    seeds: int
    estimate: float
    sd: float | None  # over seeds, in the unit of the estimate; sd/√seeds is the estimate's standard error
    low: float | None  # 95 % BCa bootstrap interval of the estimate
    high: float | None
    p: float | None = None  # of a difference: two-sided sign-flip test


def sd(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for one value, NaN if a value is not finite."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference | None:
    """Compare two series whose entries have the same seeds; None if they are empty."""
    differences = tuple(value - other for value, other in zip(values, baseline, strict=True))
    if not differences:
        return None
    mean = statistics.fmean(differences)
    low, high = _interval(differences)
    return Difference(
        pairs=len(differences),
        mean=mean,
        sd=sd(differences),
        percent=100 * mean / statistics.fmean(baseline),
        low=low,
        high=high,
        p=_sign_flip(differences),
    )


def level(values: Sequence[float]) -> Quantity:
    """Return the mean, in the unit of the values."""
    return _ratio(values, [1.0] * len(values))


def percent_difference(values: Sequence[float], baseline: Sequence[float]) -> Quantity:
    """Return the mean difference, paired by seed, in percent of the baseline's mean."""
    differences = tuple(value - other for value, other in zip(values, baseline, strict=True))
    return _ratio(differences, baseline, scale=100)._replace(p=_sign_flip(differences))


def share(part: Sequence[float], gap: Sequence[float]) -> Quantity:
    """Return the mean of a part in percent of the mean of a gap, paired by seed.

    It has neither sd nor interval if the gap's own interval reaches zero: there may be no gap to explain.
    """
    low, _ = _interval(tuple(gap))
    if low is not None and low > 0:
        return _ratio(part, gap, scale=100)
    whole = statistics.fmean(gap)
    return Quantity(len(part), 100 * statistics.fmean(part) / whole if whole else math.nan, None, None, None)


def published_range(kind: Kind, figure: float | None, *, direction: bool = False) -> tuple[float, float | None]:
    """Return the accepted range of a quantity with this published figure, in its unit; None: no upper bound.

    A claim of ``direction`` says which side is better, not by how much. Its far bound is open, or -100 %: nothing loses
    more than all of its perplexity.
    """
    if kind == "share" or figure is None:
        return AT_LEAST, None
    near = (1 - TOLERANCE, 1 + TOLERANCE) if kind == "level" else (SMALLEST, LARGEST)
    low, high = sorted(figure * factor for factor in near)
    if direction:
        return (-100.0, high) if figure < 0 else (low, None)
    return low, high


def verdict(measured: Quantity, at_least: float, at_most: float | None) -> Verdict:
    """Compare the interval of a quantity with its accepted range; ``at_most=None`` means no upper bound."""
    if measured.low is None or measured.high is None:
        return "undecided"
    top = math.inf if at_most is None else at_most
    if at_least <= measured.low and measured.high <= top:
        return "reproduced"
    return "contradicted" if measured.high < at_least or top < measured.low else "undecided"


def departure(measured: Quantity, at_least: float, at_most: float | None) -> str:
    """Say how a quantity whose whole interval lies outside its range departs from it; empty for any other."""
    if measured.low is None or measured.high is None or verdict(measured, at_least, at_most) != "contradicted":
        return ""
    sign = -1 if at_least < 0 else 1  # both bounds are on one side of zero
    low, high = sorted((sign * measured.low, sign * measured.high))
    if low > 0:
        return "larger" if at_most is not None and low > max(sign * at_least, sign * at_most) else "smaller"
    return "the other way" if high < 0 else "none or smaller"


def seeds_to_decide(measured: Quantity, at_least: float, at_most: float | None) -> int | None:
    """Return how many seeds would decide an undecided quantity if its estimate and sd stayed the same.

    The smallest n, above the seeds there are, with t(0.975, n - 1)·sd/√n at most the distance to the nearest bound. It
    uses Student's interval, since a bootstrap cannot be foreseen. None beyond MOST_SEEDS, without sd, or if decided.
    """
    if measured.sd is None or verdict(measured, at_least, at_most) != "undecided":
        return None
    above = math.inf if at_most is None else abs(measured.estimate - at_most)
    distance = min(abs(measured.estimate - at_least), above)
    numbers = numpy.arange(max(MIN_PAIRS, measured.seeds + 1), MOST_SEEDS + 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, numbers - 1) * measured.sd / numpy.sqrt(numbers)
    enough = numbers[reach <= distance]
    return int(enough[0]) if len(enough) else None


def _ratio(numerators: Sequence[float], denominators: Sequence[float], scale: float = 1) -> Quantity:
    """Return the ratio of two means over the same seeds; its sd is of the linearised ratio (Cochran 1977, 6.3)."""
    mean = statistics.fmean(denominators)
    ratio = statistics.fmean(numerators) / mean
    residuals = [(above - ratio * below) / mean for above, below in zip(numerators, denominators, strict=True)]
    low, high = _interval(tuple(numerators), tuple(denominators))
    spread = sd(residuals)
    return Quantity(
        seeds=len(numerators),
        estimate=scale * ratio,
        sd=None if spread is None else scale * spread,
        low=None if low is None else scale * low,
        high=None if high is None else scale * high,
    )


@functools.lru_cache(maxsize=4096)  # the tables of a page ask for the same data again
def _interval(
    values: tuple[float, ...], denominators: tuple[float, ...] | None = None
) -> tuple[float | None, float | None]:
    """Return the BCa interval of the mean (Efron 1987), or of its ratio to the denominators' mean, paired."""
    if len(values) < MIN_PAIRS:
        return None, None
    above = numpy.asarray(values)
    below = numpy.ones(len(above)) if denominators is None else numpy.asarray(denominators)
    ratio = float(_ratio_of_means(above, below))
    if numpy.abs(above - ratio * below).max() <= 1e-12 * numpy.abs(above).max():
        return ratio, ratio  # nothing to resample: the bootstrap would be undefined
    interval = stats.bootstrap(
        (above, below),
        _ratio_of_means,
        paired=True,
        method="BCa",
        confidence_level=CONFIDENCE,
        n_resamples=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _ratio_of_means(above: Any, below: Any, axis: int = -1) -> Any:
    return numpy.mean(above, axis=axis) / numpy.mean(below, axis=axis)


@functools.lru_cache(maxsize=4096)
def _sign_flip(differences: tuple[float, ...]) -> float | None:
    """Return the p-value of the mean under random signs: all patterns up to MOST_FLIPPED differences, else a sample."""
    if len(differences) < MIN_PAIRS:
        return None
    test = stats.permutation_test(
        (numpy.asarray(differences),),
        numpy.mean,
        permutation_type="samples",
        n_resamples=max(NUM_RESAMPLES, 2 ** min(len(differences), MOST_FLIPPED)),
        batch=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    )
    return float(test.pvalue)


@dataclass(frozen=True)
class PowerLaw:
    """The fit y = factor · x^exponent; None for what two values of x do not give."""

    exponent: float
    low: float | None  # 95 % t interval of the exponent
    high: float | None
    spread: float  # standard deviation around the law of the means of ln y, one per x; 0 for two x
    _middle: tuple[float, float]  # means of ln x and of ln y
    _error: float | None  # standard error of the exponent
    _points: int

    def at(self, x: float) -> tuple[float, float | None, float | None]:
        """Return the law's y at x and its 95 % t interval."""
        away = math.log(x) - self._middle[0]
        log_y = self._middle[1] + self.exponent * away
        if self._error is None:
            return math.exp(log_y), None, None
        reach = _t(self._points - 2) * math.hypot(self.spread / math.sqrt(self._points), self._error * away)
        return math.exp(log_y), math.exp(log_y - reach), math.exp(log_y + reach)


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit ln y = a + exponent · ln x by least squares to the mean of ln y at each x, of at least two x.

    Points at one x depart from the law together. So the number of x counts, and not the number of points.
    """
    log_x, group = numpy.unique(numpy.log(x), return_inverse=True)
    log_y = numpy.bincount(group, numpy.log(y)) / numpy.bincount(group)
    fit = stats.linregress(log_x, log_y)
    free = len(log_x) - 2
    error = float(fit.stderr) if free else None
    reach = None if error is None else _t(free) * error
    residuals = log_y - fit.intercept - fit.slope * log_x
    return PowerLaw(
        exponent=float(fit.slope),
        low=None if reach is None else float(fit.slope) - reach,
        high=None if reach is None else float(fit.slope) + reach,
        spread=math.sqrt(float(residuals @ residuals) / free) if free else 0.0,
        _middle=(float(log_x.mean()), float(log_y.mean())),
        _error=error,
        _points=len(log_x),
    )


def _t(degrees: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for being looked at together (Holm 1979); None stays None and counts for nothing."""
    given = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - rank)))
        adjusted[index] = largest
    return adjusted
