"""Differences that are paired by seed, and other quantities over seeds: mean, interval, significance and verdict.

The same seed means the same initial weights where shapes agree and the same order of the data, so a difference is taken
seed by seed, and what all cells of a seed share drops out of it.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy
from scipy import stats

MIN_PAIRS = 5  # fewer cannot carry a bootstrap, and no sign-flip test of theirs can reach p = 0.05
CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999
MOST_FLIPPED = 16  # differences whose signs are all tried
MOST_SEEDS = 10_000  # an answer that would take more is not asked for
TOLERANCE = 0.05  # of a published level, either way
SMALLEST, LARGEST = 0.5, 2.0  # times a published difference
AT_LEAST = 50.0  # percent: the share of a gap that its reason explains

Kind = Literal["level", "difference", "share"]
Verdict = Literal["reproduced", "contradicted", "undecided"]
RULE = (
    "A claim names a quantity, measured over seeds with a 95 % BCa interval, and a range in which it must lie. It is "
    "reproduced if the interval lies wholly in the range, contradicted if wholly outside, else undecided; fewer than "
    f"{MIN_PAIRS} seeds give no interval. All is of validation perplexity a character, of cells with the reports' text "
    f"and settings. A level (mean over seeds) must be within {100 * TOLERANCE:g} % of the published one. A difference "
    f"(mean by seed, in percent of the cells compared with) must be {SMALLEST:g} to {LARGEST:g} times the published "
    f"one, or at least {SMALLEST:g} times where the claim is only which is better. A share (one difference in percent "
    f"of another, the gap) must be at least {AT_LEAST:g} %, and is undecided where the gap's own interval is not above "
    "zero. For an undecided claim stands how many seeds would decide it if mean and sd stay as they are: the fewest, "
    f"at least {MIN_PAIRS} and more than were run, whose t interval ends by the nearest bound. Cells that are not "
    "causal have seen what they were to predict: they show by the same rule whether the experiment repeats, and decide "
    "nothing about a claim, unless it is about that leak. Seeds on the unigram plateau count like any other and are "
    "named; beside them stands the same quantity over the seeds whose cells have all left it. p is of the two-sided "
    "sign-flip test of a difference, Holm over the table; of 8 seeds it is 1/128 at least, before Holm. Of 8 seeds, "
    "too, a BCa interval covers rather 89 than 95 times in 100 (normal data): what it only just decides may not last."
)


class Difference(NamedTuple):
    """Ours less theirs, over the seeds of both; what too few seeds do not give is None."""

    pairs: int
    mean: float
    sd: float | None
    percent: float  # the mean, of the mean of theirs
    low: float | None  # 95 % BCa bootstrap interval of the mean (Efron 1987)
    high: float | None
    p: float | None  # two-sided, of the sign-flip test


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference | None:
    """The difference of two equally long series whose entries are of the same seeds; None where there are none."""
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    if not differences:
        return None
    mean = statistics.fmean(differences)
    low, high = _interval(differences)
    return Difference(
        pairs=len(differences),
        mean=mean,
        sd=statistics.stdev(differences) if len(differences) > 1 else None,
        percent=100 * mean / statistics.fmean(theirs),
        low=low,
        high=high,
        p=_sign_flip(differences),
    )


class Quantity(NamedTuple):
    """What is measured over seeds; what too few seeds do not give is None."""

    seeds: int
    estimate: float
    sd: float | None  # over seeds, in the unit of the estimate; sd/√seeds is the estimate's standard error
    low: float | None  # 95 % BCa bootstrap interval of the estimate
    high: float | None
    p: float | None = None  # of a difference: two-sided, of the sign-flip test


def level(values: Sequence[float]) -> Quantity:
    """The mean, in the unit of the values."""
    return _ratio(values, [1.0] * len(values))


def percent_difference(ours: Sequence[float], theirs: Sequence[float]) -> Quantity:
    """The mean of ours less theirs, seed by seed, in percent of the mean of theirs."""
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    return _ratio(differences, theirs, scale=100)._replace(p=_sign_flip(differences))


def share(part: Sequence[float], gap: Sequence[float]) -> Quantity:
    """The mean of a part, in percent of the mean of a gap, seed by seed.

    Neither sd nor interval where the gap's own interval reaches zero: what may not be there cannot be shared out.
    """
    low, _ = _interval(gap)
    if low is not None and low > 0:
        return _ratio(part, gap, scale=100)
    whole = statistics.fmean(gap)
    return Quantity(len(part), 100 * statistics.fmean(part) / whole if whole else math.nan, None, None, None)


def published_range(kind: Kind, figure: float | None, *, direction: bool = False) -> tuple[float, float | None]:
    """The bounds of a quantity, in its unit, between which a claim with this published figure holds; None: open.

    A claim of ``direction`` says of a difference which side is the better, not by how much: its far bound is open, or
    -100 %, since nothing loses more than all of its perplexity.
    """
    if kind == "share" or figure is None:
        return AT_LEAST, None
    near = (1 - TOLERANCE, 1 + TOLERANCE) if kind == "level" else (SMALLEST, LARGEST)
    low, high = sorted(figure * factor for factor in near)
    if direction:
        return (-100.0, high) if figure < 0 else (low, None)
    return low, high


def verdict(found: Quantity, at_least: float, at_most: float | None) -> Verdict:
    """Whether the quantity lies between the two bounds (None: open), as far as its interval tells."""
    if found.low is None or found.high is None:
        return "undecided"
    top = math.inf if at_most is None else at_most
    if at_least <= found.low and found.high <= top:
        return "reproduced"
    return "contradicted" if found.high < at_least or top < found.low else "undecided"


def departure(found: Quantity, at_least: float, at_most: float | None) -> str:
    """How a quantity that lies wholly outside of its bounds departs from them; empty for any other."""
    if found.low is None or found.high is None or verdict(found, at_least, at_most) != "contradicted":
        return ""
    sign = -1 if at_least < 0 else 1  # both bounds are on one side of zero
    low, high = sorted((sign * found.low, sign * found.high))
    if low > 0:
        return "larger" if at_most is not None and low > max(sign * at_least, sign * at_most) else "smaller"
    return "the other way" if high < 0 else "none or smaller"


def seeds_to_decide(found: Quantity, at_least: float, at_most: float | None) -> int | None:
    """How many seeds, more than there are, would decide what is undecided, if estimate and sd stay as they are.

    The smallest n with t(0.975, n − 1)·sd/√n no greater than the way from the estimate to the nearest bound: Student's
    interval, for that of a bootstrap cannot be foreseen. None beyond MOST_SEEDS, where there is no sd, and where
    nothing is undecided.
    """
    if found.sd is None or verdict(found, at_least, at_most) != "undecided":
        return None
    distance = min(abs(found.estimate - at_least), math.inf if at_most is None else abs(found.estimate - at_most))
    numbers = numpy.arange(max(MIN_PAIRS, found.seeds + 1), MOST_SEEDS + 1)
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, numbers - 1) * found.sd / numpy.sqrt(numbers)
    enough = numbers[reach <= distance]
    return int(enough[0]) if len(enough) else None


def _ratio(numerators: Sequence[float], denominators: Sequence[float], scale: float = 1) -> Quantity:
    """The ratio of two means over the same seeds; its sd is of the linearised ratio (Cochran 1977, section 6.3)."""
    mean = statistics.fmean(denominators)
    ratio = statistics.fmean(numerators) / mean
    residuals = [(above - ratio * below) / mean for above, below in zip(numerators, denominators, strict=True)]
    low, high = _interval(numerators, denominators)
    return Quantity(
        seeds=len(numerators),
        estimate=scale * ratio,
        sd=scale * statistics.stdev(residuals) if len(residuals) > 1 else None,
        low=None if low is None else scale * low,
        high=None if high is None else scale * high,
    )


def _interval(
    values: Sequence[float], denominators: Sequence[float] | None = None
) -> tuple[float | None, float | None]:
    """Of the mean of the values (Efron 1987) or, where there are denominators, of its ratio to theirs, paired."""
    if len(values) < MIN_PAIRS:
        return None, None
    above = numpy.asarray(values)
    below = numpy.ones(len(above)) if denominators is None else numpy.asarray(denominators)
    ratio = float(_ratio_of_means(above, below))
    if numpy.abs(above - ratio * below).max() <= 1e-12 * numpy.abs(above).max():
        return ratio, ratio  # nothing to resample: the bootstrap would be undefined
    found = stats.bootstrap(
        (above, below),
        _ratio_of_means,
        paired=True,
        method="BCa",
        confidence_level=CONFIDENCE,
        n_resamples=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _ratio_of_means(above: Any, below: Any, axis: int = -1) -> Any:
    return numpy.mean(above, axis=axis) / numpy.mean(below, axis=axis)


def _sign_flip(differences: Sequence[float]) -> float | None:
    """How often a mean at least as far from zero comes about when each difference's sign is a coin's.

    Exact, over all signs, of up to MOST_FLIPPED differences; over a sample of them, of more.
    """
    if len(differences) < MIN_PAIRS:
        return None
    found = stats.permutation_test(
        (numpy.asarray(differences),),
        numpy.mean,
        permutation_type="samples",
        n_resamples=max(NUM_RESAMPLES, 2 ** min(len(differences), MOST_FLIPPED)),
        batch=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    )
    return float(found.pvalue)


@dataclass(frozen=True)
class PowerLaw:
    """y = factor · x^exponent, as fitted; what two x do not give is None."""

    exponent: float
    low: float | None  # 95 % t interval of the exponent
    high: float | None
    spread: float  # standard deviation around the law of the means of ln y, one at each x; of two, 0
    _middle: tuple[float, float]  # means of ln x and of ln y
    _error: float | None  # standard error of the exponent
    _points: int

    def at(self, x: float) -> tuple[float, float | None, float | None]:
        """The law's y at x, and the 95 % t interval of that."""
        away = math.log(x) - self._middle[0]
        log_y = self._middle[1] + self.exponent * away
        if self._error is None:
            return math.exp(log_y), None, None
        reach = _t(self._points - 2) * math.hypot(self.spread / math.sqrt(self._points), self._error * away)
        return math.exp(log_y), math.exp(log_y - reach), math.exp(log_y + reach)


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Fit ln y = a + exponent · ln x by least squares to the mean of ln y at each x, of which there are two at least.

    Points at one x are off the law together, so that more of them make it no surer than one: what counts is how many x.
    """
    places, group = numpy.unique(numpy.log(x), return_inverse=True)
    log_x, log_y = places, numpy.bincount(group, numpy.log(y)) / numpy.bincount(group)
    found = stats.linregress(log_x, log_y)
    free = len(places) - 2
    error = float(found.stderr) if free else None
    reach = None if error is None else _t(free) * error
    residuals = log_y - found.intercept - found.slope * log_x
    return PowerLaw(
        exponent=float(found.slope),
        low=None if reach is None else float(found.slope) - reach,
        high=None if reach is None else float(found.slope) + reach,
        spread=math.sqrt(float(residuals @ residuals) / free) if free else 0.0,
        _middle=(float(log_x.mean()), float(log_y.mean())),
        _error=error,
        _points=len(places),
    )


def _t(degrees: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for being looked at together (Holm 1979); None stays None and counts for nothing."""
    given = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - rank)))
        adjusted[index] = largest
    return adjusted
