"""Quantities over seeds and articles at once: the text that a model is scored on is a draw, as its seed is.

Both variants read the same articles, so articles are paired and runs are not. The variance of a mean over seeds and
articles is at most the sum of what seeds alone and articles alone give (Owen 2007, doi:10.1214/07-AOAS122); that sum,
with Satterthwaite's degrees of freedom, makes the interval for other seeds on other articles. benchmarks/coverage.py
simulates it.

Shapes: S runs, A articles.
"""

import math
import operator
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hrm_bench.intervals import MIN_SEEDS, students_t

Matrix = Sequence[Sequence[float]]  # nats per character: S runs of a variant, each of A articles
Interval = tuple[float, float]


class Crossed(NamedTuple):
    """A quantity of some articles with its 95 % intervals; an interval is None if too few draws give none."""

    articles: int
    seeds: int  # of the variant with fewer
    estimate: float
    over_seeds: Interval | None  # other seeds on these articles
    over_articles: Interval | None  # these runs on other articles
    over_both: Interval | None  # other seeds on other articles


def level(nats: Matrix) -> Crossed:
    """Return the perplexity per character, a geometric mean over the articles."""
    return _crossed([nats], [1.0], math.exp)


def percent_difference(nats: Matrix, baseline: Matrix) -> Crossed:
    """Return the difference of two variants' perplexities in percent of the baseline's, geometric means over articles.

    Both must have read the same articles, in the same order.
    """
    if len({len(run) for run in (*nats, *baseline)}) != 1:
        raise ValueError("the runs have read different numbers of articles")
    return _crossed([nats, baseline], [1.0, -1.0], lambda change: 100 * math.expm1(change))


class _Part(NamedTuple):
    """One source of variance of a sum: its share of the variance, and the number of draws."""

    variance: float
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "_Part":
        return cls(statistics.variance(values) / len(values) if len(values) > 1 else math.nan, len(values))


def _crossed(variants: Sequence[Matrix], weights: Sequence[float], form: Callable[[float], float]) -> Crossed:
    """Return a weighted sum of the variants' mean nats, as ``form`` writes it."""
    by_article = [[statistics.fmean(column) for column in zip(*runs, strict=True)] for runs in variants]
    sums = [sum(map(operator.mul, weights, column)) for column in zip(*by_article, strict=True)]
    estimate, of_articles = statistics.fmean(sums), _Part.of(sums)
    of_runs = [_Part.of([statistics.fmean(run) for run in runs]) for runs in variants]  # a weight is 1 or −1

    def interval(*parts: _Part) -> Interval | None:
        if min(part.number for part in parts) < MIN_SEEDS:
            return None
        variance = sum(part.variance for part in parts)
        squares = sum(part.variance**2 / (part.number - 1) for part in parts)
        reach = students_t(variance**2 / squares) * math.sqrt(variance) if squares else 0.0
        return form(estimate - reach), form(estimate + reach)

    return Crossed(
        articles=of_articles.number,
        seeds=min(part.number for part in of_runs),
        estimate=form(estimate),
        over_seeds=interval(*of_runs),
        over_articles=interval(of_articles),
        over_both=interval(*of_runs, of_articles),
    )
