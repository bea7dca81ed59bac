"""Verdicts, the seeds that they need, and power laws, against figures that can be checked by hand or by counting."""

import math

import numpy
import pytest
from scipy import stats

from hrm_bench.intervals import MIN_SEEDS, Quantity, level, rate
from hrm_bench.statistics import (
    FEWEST_SEEDS,
    Bounds,
    combined,
    departure,
    holm,
    power_law,
    published_range,
    seeds_for_rates,
    seeds_to_decide,
    seeds_to_reproduce,
    verdict,
    verdict_on_rate,
)

OURS = [11.2, 11.9, 10.8, 11.5, 11.1, 11.7, 10.9, 11.4]


def test_holm_is_that_of_its_definition():
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def between(low, high, *, estimate=None, sd=1.0, seeds=8):
    """A quantity with this interval."""
    return Quantity(seeds, (low + high) / 2 if estimate is None else estimate, sd, low, high)


def test_ranges_follow_from_the_published_figure():
    assert published_range("level", 11.31) == (pytest.approx(11.31 * 0.95), pytest.approx(11.31 * 1.05), None)
    assert published_range("difference", -4.7) == (pytest.approx(-9.4), pytest.approx(-2.35), 1)
    assert published_range("difference", 86.9, margin=2) == (pytest.approx(43.45), pytest.approx(173.8), 2)
    assert published_range("share", None) == (50, 150, None)
    assert published_range("difference", -4.2, direction=True) == (-100, pytest.approx(-2.1), 1)
    assert published_range("difference", 4.2, direction=True) == (pytest.approx(2.1), None, 1)


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
    assert verdict(between(low, high), Bounds(-9.4, -2.35)) == expected


def test_an_open_range_has_no_upper_bound():
    assert verdict(between(50.0, 1e9), Bounds(50, None)) == "reproduced"
    assert verdict(between(49.9, 1e9), Bounds(50, None)) == "undecided"
    assert verdict(between(-1e9, 49.9), Bounds(50, None)) == "contradicted"


def test_an_explanation_of_more_than_there_is_to_explain_is_contradicted():
    assert verdict(between(101.0, 149.0), published_range("share", None)) == "reproduced"
    assert verdict(between(151.0, 250.0), published_range("share", None)) == "contradicted"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.9, 0.9, "equivalent"), (-1.0, 1.0, "equivalent"), (-1.1, 0.5, "contradicted"), (-3.0, -0.5, "undecided")],
)
def test_a_difference_whose_interval_lies_within_the_margin_is_none(low, high, expected):
    assert verdict(between(low, high), published_range("difference", -4.7)) == expected
    assert verdict(between(low, high), published_range("level", -4.7)) != "equivalent"
    assert verdict(between(-0.8, -0.5), published_range("difference", -0.7)) == "reproduced"  # it says more


def test_a_claim_fails_on_the_rate_of_leaving_the_plateau_as_on_its_figure():
    assert [verdict_on_rate(rate(left, 8)) for left in (0, 4, 7, 8)] == [
        *("contradicted", "undecided", "undecided", "reproduced")
    ]
    assert combined("reproduced", ["reproduced"]) == "reproduced"
    assert combined("reproduced", ["reproduced", "contradicted"]) == "contradicted"
    assert combined("reproduced", ["undecided"]) == combined("equivalent", ["undecided"]) == "undecided"
    assert combined("contradicted", ["undecided"]) == "contradicted"
    assert combined("equivalent", ["reproduced"]) == "equivalent"


def test_the_seeds_that_a_rate_needs_are_the_first_whose_exact_interval_is_on_one_side_of_a_half():
    for left, runs in ((7, 8), (1, 8), (3, 5)):
        fraction = max(left, runs - left) / runs
        exact = (n for n in range(runs + 1, 999) if stats.binomtest(round(fraction * n), n).proportion_ci().low >= 0.5)
        assert seeds_for_rates([rate(left, runs)]) == next(exact)
    assert seeds_for_rates([rate(4, 8)]) is None
    assert seeds_for_rates([rate(8, 8), rate(0, 8)]) == 0
    assert FEWEST_SEEDS == 6


def test_a_claim_that_needs_too_many_seeds_even_if_it_is_true_is_known_before_any_run():
    small, large = (seeds_to_reproduce("difference", f, published_range("difference", f), 1.0) for f in (-0.6, -4.7))
    assert large == FEWEST_SEEDS
    exact = [n for n in range(6, 200) if stats.t.ppf(0.975, 2 * n - 2) * 2**0.5 * 0.994 / n**0.5 <= 0.3]
    assert small == exact[0] > 64
    assert seeds_to_reproduce("level", 11.31, published_range("level", 11.31), 1.0) == FEWEST_SEEDS
    assert seeds_to_reproduce("share", None, published_range("share", None), 1.0) == 0


def test_without_an_interval_nothing_is_decided():
    assert verdict(level(OURS[: MIN_SEEDS - 1]), Bounds(0, 100)) == "undecided"
    assert verdict(level(OURS[:MIN_SEEDS]), Bounds(0, 100)) == "reproduced"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-20.0, -10.0, "larger"), (-2.0, -1.0, "smaller"), (-2.0, 1.0, "none or smaller"), (1.0, 2.0, "the other way")],
)
def test_a_contradiction_tells_how_it_departs(low, high, expected):
    assert departure(between(low, high), Bounds(-9.4, -2.35)) == expected
    assert departure(between(-high, -low), Bounds(2.35, 9.4)) == expected
    assert departure(between(-5.0, -4.0), Bounds(-9.4, -2.35)) == ""
    assert departure(between(-5.0, 0.0), Bounds(-9.4, -2.35)) == ""


@pytest.mark.parametrize("estimate", [-12.0, -9.0, -5.0, -2.0, 3.0])
def test_the_seeds_needed_are_the_first_whose_students_interval_ends_before_the_bound(estimate):
    t = {n: stats.t.ppf(0.975, n - 1) for n in range(MIN_SEEDS, 2_000)}

    def decides(n, sd):
        low, high = estimate - t[n] * sd / n**0.5, estimate + t[n] * sd / n**0.5
        return (low >= -9.4 and high <= -2.35) or high <= -9.4 or low >= -2.35

    for sd in (0.1, 0.5, 1.0, 1.7, 2.4, 3.1, 3.8, 4.5, 5.2):
        for seeds in (2, 8):
            found = between(-20.0, 20.0, estimate=estimate, sd=sd, seeds=seeds)
            first = next(n for n in t if n > seeds and decides(n, sd))
            assert seeds_to_decide(found, Bounds(-9.4, -2.35)) == first


def test_the_seeds_needed_are_at_least_enough_for_an_interval_and_none_when_out_of_reach():
    assert seeds_to_decide(Quantity(2, -5.0, 0.01, None, None), Bounds(-9.4, -2.35)) == MIN_SEEDS
    assert seeds_to_decide(between(-20.0, 20.0, estimate=-2.35), Bounds(-9.4, -2.35)) is None  # on the bound
    assert seeds_to_decide(between(-20.0, 20.0, estimate=-2.4, sd=10.0), Bounds(-9.4, -2.35)) is None
    assert seeds_to_decide(Quantity(1, -5.0, None, None, None), Bounds(-9.4, -2.35)) is None
    assert seeds_to_decide(between(-9.0, -3.0), Bounds(-9.4, -2.35)) is None  # decided


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


def test_two_points_give_a_power_law_and_no_interval():
    found = power_law([10.0, 1000.0], [4.0, 1.0])
    assert found.exponent == pytest.approx(-math.log10(2))
    assert (found.low, found.high, found.spread) == (None, None, 0.0)
    assert found.at(100.0) == (pytest.approx(2.0), None, None)


def test_an_open_range_needs_the_seeds_of_its_one_bound():
    found = between(30.0, 80.0, estimate=55.0, sd=20.0)
    assert seeds_to_decide(found, Bounds(50, None)) == seeds_to_decide(found, Bounds(50, 60))
