"""Rules over seeds: verdicts on claims, the seeds that they need, p-values looked at together, and power laws."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy
from scipy import special, stats

from hrm_bench.intervals import MIN_SEEDS, Quantity, Rate, confidence, rate, students_t

MOST_SEEDS = 10_000  # the largest number of seeds that is ever recommended
TOLERANCE = 0.05  # of a published level, either way
SMALLEST, LARGEST = 0.5, 2.0  # times a published difference
AT_LEAST, AT_MOST = 50.0, 150.0  # percent of a gap that its explanation must explain
MARGIN = 1.0  # percent: two variants that differ by less are equivalent
MOST_RUNS = 0.5  # the rate at which runs must leave the plateau, or stay on it, as the published run did

FEWEST_SEEDS = next(n for n in range(1, MOST_SEEDS) if rate(n, n).low >= MOST_RUNS)  # that can reproduce a claim

Kind = Literal["level", "difference", "share", "property"]
Verdict = Literal["reproduced", "contradicted", "equivalent", "undecided"]


class Bounds(NamedTuple):
    """What decides about a quantity, in its unit."""

    low: float
    high: float | None  # None: no upper bound
    margin: float | None = None  # of a difference: an interval within it, either way, shows that there is none


def published_range(kind: Kind, figure: float | None, *, direction: bool = False, margin: float = MARGIN) -> Bounds:
    """Return the accepted range of a quantity with this published figure.

    A claim of ``direction`` says which side is better, not by how much. Its far bound is open, or -100 %: nothing loses
    more than all of its perplexity.
    """
    if kind == "property":
        return Bounds(100.0, 100.0)  # percent of the runs
    if kind == "share" or figure is None:
        return Bounds(AT_LEAST, AT_MOST)
    near = (1 - TOLERANCE, 1 + TOLERANCE) if kind == "level" else (SMALLEST, LARGEST)
    low, high = sorted(figure * factor for factor in near)
    if kind == "level":
        return Bounds(low, high)
    if direction:
        return Bounds(-100.0, high, margin) if figure < 0 else Bounds(low, None, margin)
    return Bounds(low, high, margin)


def verdict(measured: Quantity, bounds: Bounds) -> Verdict:
    """Compare the interval of a quantity with its bounds."""
    low, high = measured.low, measured.high
    if low is None or high is None:
        return "undecided"
    top = math.inf if bounds.high is None else bounds.high
    if bounds.low <= low and high <= top:
        return "reproduced"
    if bounds.margin is not None and -bounds.margin <= low and high <= bounds.margin:
        return "equivalent"
    return "contradicted" if high < bounds.low or top < low else "undecided"


def verdict_on_rate(measured: Rate) -> Verdict:
    """Say whether most runs end as the published run did: on the plateau, or off it."""
    if measured.low >= MOST_RUNS:
        return "reproduced"
    return "contradicted" if measured.high < MOST_RUNS else "undecided"


def combined(on_quantity: Verdict, on_rates: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim: it fails on its quantity or on any rate, and holds on all of them."""
    verdicts = {on_quantity, *on_rates}
    return next((some for some in ("contradicted", "undecided", "equivalent") if some in verdicts), "reproduced")


def departure(measured: Quantity, bounds: Bounds) -> str:
    """Say how a quantity whose whole interval lies outside its range departs from it; empty for any other."""
    if measured.low is None or measured.high is None or verdict(measured, bounds) != "contradicted":
        return ""
    if bounds.low < 0 and (bounds.high is None or bounds.high > 0):
        return "larger"
    sign = -1 if bounds.low < 0 else 1  # both bounds are on one side of zero
    low, high = sorted((sign * measured.low, sign * measured.high))
    if low > 0:
        return "larger" if bounds.high is not None and low > max(sign * bounds.low, sign * bounds.high) else "smaller"
    return "the other way" if high < 0 else "none or smaller"


def seeds_to_decide(measured: Quantity, bounds: Bounds) -> int | None:
    """Return how many seeds would decide an undecided quantity if its estimate and sd stayed the same.

    None beyond MOST_SEEDS, without sd, or if decided.
    """
    if measured.sd is None or verdict(measured, bounds) != "undecided":
        return None
    degrees = (measured.degrees or measured.seeds - 1) / (measured.seeds - 1)
    return _seeds(_distance(measured.estimate, bounds), measured.sd, degrees, measured.seeds + 1)


def seeds_for_rates(rates: Iterable[Rate]) -> int | None:
    """Return how many seeds would decide every rate that is undecided if each stayed the same; 0 if all are decided."""
    needed = 0
    for undecided in (some for some in rates if verdict_on_rate(some) == "undecided"):
        fraction, numbers = undecided.number / undecided.runs, numpy.arange(undecided.runs + 1, MOST_SEEDS + 1)
        hits = numpy.rint(numpy.maximum(fraction, 1 - fraction) * numbers)
        tail = special.betaincinv(hits, numbers - hits + 1, (1 - confidence()) / 2)
        enough = numbers[tail >= MOST_RUNS]
        if not len(enough):
            return None
        needed = max(needed, int(enough[0]))
    return needed


def seeds_to_reproduce(kind: Kind, figure: float | None, bounds: Bounds, spread: float) -> int | None:
    """Return how many seeds a claim needs to be reproduced if its published figure is exactly true.

    ``spread`` is the sd of a run's perplexity, in percent of it. 0 if there is no figure; None beyond MOST_SEEDS.
    """
    if figure is None or kind == "share":
        return 0
    sd = spread / 100 * figure if kind == "level" else spread * math.sqrt(2) * (1 + figure / 100)
    return _seeds(_distance(figure, bounds._replace(margin=None)), sd, 1 if kind == "level" else 2, FEWEST_SEEDS)


def _distance(estimate: float, bounds: Bounds) -> float:
    """Return how far the interval may reach from this estimate and still decide."""
    above = math.inf if bounds.high is None else abs(estimate - bounds.high)
    within = -math.inf if bounds.margin is None else bounds.margin - abs(estimate)
    return max(min(abs(estimate - bounds.low), above), within)


def _seeds(distance: float, sd: float, degrees: float, fewest: int) -> int | None:
    """Return the smallest number of seeds whose interval reaches no farther; its degrees of freedom are per seed."""
    numbers = numpy.arange(max(MIN_SEEDS, fewest), MOST_SEEDS + 1)
    reach = special.stdtrit(degrees * (numbers - 1), (1 + confidence()) / 2) * sd / numpy.sqrt(numbers)
    enough = numbers[reach <= distance]
    return int(enough[0]) if len(enough) else None


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
        reach = students_t(self._points - 2) * math.hypot(self.spread / math.sqrt(self._points), self._error * away)
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
    reach = None if error is None else students_t(free) * error
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


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for being looked at together (Holm 1979); None stays None and counts for nothing."""
    given = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - rank)))
        adjusted[index] = largest
    return adjusted
