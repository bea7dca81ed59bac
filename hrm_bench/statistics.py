"""Differences that are paired by seed: their mean, interval and significance.

The same seed means the same initial weights where shapes agree and the same order of the data, so a difference is taken
seed by seed, and what all cells of a seed share drops out of it.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from scipy import stats

MIN_PAIRS = 5  # fewer cannot carry a bootstrap, and no sign-flip test of theirs can reach p = 0.05
CONFIDENCE = 0.95
NUM_RESAMPLES = 9_999


class Difference(NamedTuple):
    """Ours less theirs, over the seeds of both; what too few seeds do not give is None."""

    pairs: int
    mean: float
    sd: float | None
    percent: float  # the mean, of the mean of theirs
    low: float | None  # 95 % BCa bootstrap interval of the mean (Efron 1987)
    high: float | None
    p: float | None  # two-sided, of the exact sign-flip test


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


def _interval(differences: Sequence[float]) -> tuple[float | None, float | None]:
    if len(differences) < MIN_PAIRS:
        return None, None
    if len(set(differences)) == 1:  # nothing to resample: the bootstrap would be undefined
        return differences[0], differences[0]
    found = stats.bootstrap(
        (numpy.asarray(differences),),
        numpy.mean,
        method="BCa",
        confidence_level=CONFIDENCE,
        n_resamples=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _sign_flip(differences: Sequence[float]) -> float | None:
    """How often a mean at least as far from zero comes about when each difference's sign is a coin's."""
    if len(differences) < MIN_PAIRS:
        return None
    found = stats.permutation_test(
        (numpy.asarray(differences),),
        numpy.mean,
        permutation_type="samples",
        n_resamples=NUM_RESAMPLES,
        rng=numpy.random.default_rng(0),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for being looked at together (Holm 1979); None stays None and counts for nothing."""
    given = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - rank)))
        adjusted[index] = largest
    return adjusted
