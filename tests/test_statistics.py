"""Paired differences against figures that can be checked by hand or by counting."""

import itertools
import statistics as plain

import numpy
import pytest

from hrm_bench.statistics import holm, paired_difference

OURS = [11.2, 11.9, 10.8, 11.5, 11.1, 11.7, 10.9, 11.4]
THEIRS = [11.4, 11.8, 11.3, 11.9, 11.2, 12.1, 11.5, 11.6]


def test_a_difference_is_taken_seed_by_seed():
    found = paired_difference(OURS, THEIRS)
    by_hand = [mine - other for mine, other in zip(OURS, THEIRS, strict=True)]
    assert found.pairs == 8
    assert found.mean == pytest.approx(plain.fmean(by_hand))
    assert found.sd == pytest.approx(plain.stdev(by_hand))
    assert found.percent == pytest.approx(100 * plain.fmean(by_hand) / plain.fmean(THEIRS))


def test_the_sign_flip_p_is_that_of_all_sign_patterns_counted():
    differences = [mine - other for mine, other in zip(OURS, THEIRS, strict=True)]
    observed = abs(sum(differences))
    patterns = list(itertools.product((-1, 1), repeat=8))
    as_far = sum(
        abs(sum(sign * each for sign, each in zip(signs, differences, strict=True))) >= observed - 1e-12
        for signs in patterns
    )
    assert paired_difference(OURS, THEIRS).p == pytest.approx(as_far / len(patterns))


def test_the_interval_is_around_the_mean_and_the_same_each_time():
    found = paired_difference(OURS, THEIRS)
    assert found.low < found.mean < found.high < 0
    assert found == paired_difference(OURS, THEIRS)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    stream = numpy.random.default_rng(1)
    covered = []
    for _ in range(60):
        found = paired_difference(stream.normal(0.5, 1.0, 20).tolist(), [0.0001] * 20)
        covered.append(found.low <= 0.5 <= found.high)
    assert 0.82 <= plain.fmean(covered) <= 1.0


def test_a_constant_difference_has_an_interval_of_no_width():
    found = paired_difference([2.0] * 6, [1.0] * 6)
    assert (found.low, found.high) == (1.0, 1.0)


def test_few_seeds_give_a_mean_but_no_interval():
    found = paired_difference(OURS[:4], THEIRS[:4])
    assert found.sd is not None
    assert (found.low, found.high, found.p) == (None, None, None)
    assert paired_difference([1.0], [2.0]).sd is None
    assert paired_difference([], []) is None


def test_holm_is_that_of_its_definition():
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
