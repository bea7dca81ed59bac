"""Paired differences and other quantities against figures that can be checked by hand or by counting."""

import itertools
import math
import statistics as plain

import numpy
import pytest
from scipy import stats

from hrm_bench.statistics import (
    MIN_PAIRS,
    Quantity,
    departure,
    holm,
    level,
    paired_difference,
    percent_difference,
    power_law,
    published_range,
    seeds_to_decide,
    share,
    verdict,
)

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


def between(low, high, *, estimate=None, sd=1.0, seeds=8):
    """A quantity with this interval."""
    return Quantity(seeds, (low + high) / 2 if estimate is None else estimate, sd, low, high)


def test_a_level_is_a_mean_with_an_interval_near_students():
    found = level(OURS)
    assert (found.seeds, found.p) == (8, None)
    assert found.estimate == pytest.approx(plain.fmean(OURS))
    assert found.sd == pytest.approx(plain.stdev(OURS))
    error = found.sd / 8**0.5
    assert found.estimate - 2.4 * error < found.low < found.estimate - 1.2 * error
    assert found.estimate + 1.2 * error < found.high < found.estimate + 2.4 * error


def test_a_difference_in_percent_is_that_of_the_means_and_has_the_p_of_the_plain_one():
    found = percent_difference(OURS, THEIRS)
    assert found.estimate == pytest.approx(100 * (plain.fmean(OURS) / plain.fmean(THEIRS) - 1))
    assert found.p == paired_difference(OURS, THEIRS).p
    assert found.low < found.estimate < found.high < 0


def test_a_share_is_that_of_hand_computation_and_its_interval_brackets_it():
    part, gap = [9.0, 8.0, 10.0, 7.5, 9.5, 8.5], [18.0, 20.0, 19.0, 17.0, 21.0, 19.0]
    found = share(part, gap)
    assert found.estimate == pytest.approx(100 * 52.5 / 114)
    assert found.low < found.estimate < found.high
    assert found.low > 40
    assert found.high < 52
    assert found.p is None


def test_a_share_that_is_the_same_in_every_seed_has_no_spread_however_much_the_gap_has():
    gap = [10.0, 20.0, 15.0, 12.0, 18.0]
    found = share([0.25 * each for each in gap], gap)
    assert (found.low, found.high) == (pytest.approx(25), pytest.approx(25))
    assert found.sd == pytest.approx(0, abs=1e-9)


def test_part_and_gap_of_a_share_are_drawn_together_by_seed():
    gap = [10.0, 30.0, 15.0, 25.0, 12.0, 28.0, 20.0, 18.0]
    found = share([0.5 * each + more for each, more in zip(gap, [0.1, -0.1] * 4, strict=True)], gap)
    assert found.low < 50 < found.high
    assert found.high - found.low < 1


def test_the_sd_of_a_share_gives_the_spread_that_the_share_has_when_it_is_measured_again():
    stream = numpy.random.default_rng(2)

    def again():
        gap = stream.normal(19, 2, 50)
        return share((0.6 * gap + stream.normal(0, 1, 50)).tolist(), gap.tolist())

    found = [again() for _ in range(40)]
    spread = plain.stdev(each.estimate for each in found)
    assert plain.fmean(each.sd for each in found) / 50**0.5 == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize("gap", [[1.0, -1.2, 0.8, -0.9, 1.1, -0.5], [-19.0, -18.0, -20.0, -19.5, -18.5, -19.0]])
def test_what_may_be_no_gap_is_not_shared_out(gap):
    found = share([9.0, 8.0, 10.0, 7.5, 9.5, 8.5], gap)
    assert (found.sd, found.low, found.high) == (None, None, None)
    assert verdict(found, 50, None) == "undecided"
    assert seeds_to_decide(found, 50, None) is None


def test_ranges_follow_from_the_published_figure():
    assert published_range("level", 11.31) == (pytest.approx(11.31 * 0.95), pytest.approx(11.31 * 1.05))
    assert published_range("difference", -4.7) == (pytest.approx(-9.4), pytest.approx(-2.35))
    assert published_range("difference", 86.9) == (pytest.approx(43.45), pytest.approx(173.8))
    assert published_range("share", None) == (50, None)
    assert published_range("difference", -4.2, direction=True) == (-100, pytest.approx(-2.1))
    assert published_range("difference", 4.2, direction=True) == (pytest.approx(2.1), None)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-9.0, -3.0, "reproduced"),
        (-9.4, -2.35, "reproduced"),  # the bounds belong to the range
        (-9.41, -3.0, "undecided"),
        (-9.0, -2.34, "undecided"),
        (-20.0, 20.0, "undecided"),
        (-2.35, 4.0, "undecided"),  # touches the range
        (-2.34, 4.0, "contradicted"),
        (-20.0, -9.4, "undecided"),
        (-20.0, -9.41, "contradicted"),
    ],
)
def test_the_verdict_follows_from_interval_and_range(low, high, expected):
    assert verdict(between(low, high), -9.4, -2.35) == expected


def test_an_open_range_has_no_upper_bound():
    assert verdict(between(50.0, 1e9), 50, None) == "reproduced"
    assert verdict(between(49.9, 1e9), 50, None) == "undecided"
    assert verdict(between(-1e9, 49.9), 50, None) == "contradicted"


def test_without_an_interval_nothing_is_decided():
    few = level(OURS[: MIN_PAIRS - 1])
    assert (few.low, few.high) == (None, None)
    assert verdict(few, 0, 100) == "undecided"
    assert verdict(level(OURS[:MIN_PAIRS]), 0, 100) == "reproduced"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-20.0, -10.0, "larger"), (-2.0, -1.0, "smaller"), (-2.0, 1.0, "none or smaller"), (1.0, 2.0, "the other way")],
)
def test_a_contradiction_tells_how_it_departs(low, high, expected):
    assert departure(between(low, high), -9.4, -2.35) == expected
    assert departure(between(-high, -low), 2.35, 9.4) == expected
    assert departure(between(-5.0, -4.0), -9.4, -2.35) == ""
    assert departure(between(-5.0, 0.0), -9.4, -2.35) == ""


@pytest.mark.parametrize("estimate", [-12.0, -9.0, -5.0, -2.0, 3.0])
def test_the_seeds_needed_are_the_first_whose_students_interval_ends_before_the_bound(estimate):
    t = {n: stats.t.ppf(0.975, n - 1) for n in range(MIN_PAIRS, 2_000)}

    def decides(n, sd):
        low, high = estimate - t[n] * sd / n**0.5, estimate + t[n] * sd / n**0.5
        return (low >= -9.4 and high <= -2.35) or high <= -9.4 or low >= -2.35

    for sd in (0.1, 0.5, 1.0, 1.7, 2.4, 3.1, 3.8, 4.5, 5.2):
        for seeds in (2, 8):
            found = between(-20.0, 20.0, estimate=estimate, sd=sd, seeds=seeds)
            first = next(n for n in t if n > seeds and decides(n, sd))
            assert seeds_to_decide(found, -9.4, -2.35) == first


def test_the_seeds_needed_are_at_least_enough_for_an_interval_and_none_when_out_of_reach():
    assert seeds_to_decide(Quantity(2, -5.0, 0.01, None, None), -9.4, -2.35) == MIN_PAIRS
    assert seeds_to_decide(between(-20.0, 20.0, estimate=-2.35), -9.4, -2.35) is None  # on the bound
    assert seeds_to_decide(between(-20.0, 20.0, estimate=-2.4, sd=10.0), -9.4, -2.35) is None
    assert seeds_to_decide(Quantity(1, -5.0, None, None, None), -9.4, -2.35) is None
    assert seeds_to_decide(between(-9.0, -3.0), -9.4, -2.35) is None  # decided


def test_a_power_law_that_is_there_is_found_to_the_digit():
    x = [20_000, 100_000, 500_000, 2_500_000]
    found = power_law(x, [3 * each**-0.07 for each in x])
    assert found.exponent == pytest.approx(-0.07)
    assert (found.low, found.high) == pytest.approx((-0.07, -0.07))
    assert found.at(1000) == pytest.approx([3 * 1000**-0.07] * 3)
    assert found.spread == pytest.approx(0, abs=1e-9)


def test_the_intervals_of_a_power_law_cover_it_as_often_as_they_say():
    draw = numpy.random.default_rng(3)
    x = numpy.repeat([1.0, 10.0, 100.0, 1000.0], 2)
    exponents = curves = 0
    for _ in range(1_000):
        found = power_law(x, 2 * x**-0.1 * numpy.exp(draw.normal(scale=0.05, size=8)))
        exponents += found.low <= -0.1 <= found.high
        _, low, high = found.at(300.0)
        curves += low <= 2 * 300**-0.1 <= high
    assert 930 <= exponents <= 970
    assert 930 <= curves <= 970


def test_more_seeds_at_the_same_lengths_do_not_make_a_law_any_surer():
    x, y = [20_000, 100_000, 500_000, 2_500_000], [4.0, 3.2, 2.75, 2.5]
    once, often = power_law(x, y), power_law(x * 8, y * 8)
    assert (once.exponent, once.low, once.high) == pytest.approx((often.exponent, often.low, often.high))
    assert once.at(1_000_000) == pytest.approx(often.at(1_000_000))


def test_a_power_law_is_fitted_to_the_mean_of_the_logarithms_at_each_x():
    once = power_law([10.0, 1000.0], [4.0, 1.0])
    assert power_law([10.0, 10.0, 1000.0], [2.0, 8.0, 1.0]).exponent == pytest.approx(once.exponent)


def test_the_sign_flip_test_of_sixteen_seeds_tries_all_signs():
    found = paired_difference([2.0 + each for each in range(16)], [1.0] * 16)
    assert found.p == 2 / 2**16


def test_two_points_give_a_power_law_and_no_interval():
    found = power_law([10.0, 1000.0], [4.0, 1.0])
    assert found.exponent == pytest.approx(-math.log10(2))
    assert (found.low, found.high, found.spread) == (None, None, 0.0)
    assert found.at(100.0) == (pytest.approx(2.0), None, None)


def test_an_open_range_needs_the_seeds_of_its_one_bound():
    found = between(30.0, 80.0, estimate=55.0, sd=20.0)
    assert seeds_to_decide(found, 50, None) == seeds_to_decide(found, 50, 60)
