"""Intervals over seeds against SciPy, against formulas written out, and against truths that are known by simulation."""

import math
import statistics

import numpy
import pytest
from made_up import record
from scipy import stats

from benchmarks import coverage, nulls, pairing
from hrm_bench.errors import UsageError
from hrm_bench.intervals import MIN_SEEDS, difference, level, paired_difference, percent_difference, rate, sd, share
from hrm_bench.records.schema import SCHEMA_VERSION

OURS = [11.2, 11.9, 10.8, 11.5, 11.1, 11.7, 10.9, 11.4]
THEIRS = [11.4, 11.8, 11.3, 11.9, 11.2, 12.1]


def test_a_level_has_students_interval_and_one_more_run_a_wider_one():
    found = level(OURS)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 7, statistics.fmean(OURS), stats.sem(OURS)))
    reach = stats.t.ppf(0.975, 7) * statistics.stdev(OURS) * math.sqrt(1 + 1 / 8)
    assert (found.single_low, found.single_high) == pytest.approx((found.estimate - reach, found.estimate + reach))
    assert (found.seeds, found.sd) == (8, pytest.approx(statistics.stdev(OURS)))


def test_a_difference_of_variants_is_welchs_whatever_seeds_they_have():
    found, welch = difference(OURS, THEIRS), stats.ttest_ind(OURS, THEIRS, equal_var=False)
    assert (found.low, found.high) == pytest.approx((welch.confidence_interval().low, welch.confidence_interval().high))
    assert found.p == pytest.approx(welch.pvalue)
    assert found.seeds == 6
    assert found.percent == pytest.approx(100 * (statistics.fmean(OURS) / statistics.fmean(THEIRS) - 1))
    assert difference(OURS[::-1], THEIRS) == found


def test_a_difference_of_figures_of_one_run_is_paired():
    found, paired = paired_difference(OURS[:6], THEIRS), stats.ttest_rel(OURS[:6], THEIRS)
    assert (found.low, found.high) == pytest.approx(tuple(paired.confidence_interval()))
    assert found.p == pytest.approx(paired.pvalue)
    constant = paired_difference([1.5 * value for value in THEIRS], THEIRS)
    assert (constant.percent_low, constant.percent_high) == (pytest.approx(50), pytest.approx(50))


def test_the_interval_of_a_percentage_counts_the_spread_of_the_baseline():
    tripled, ratio = [3 * value for value in OURS], 3 * statistics.fmean(OURS) / statistics.fmean(THEIRS)
    found = percent_difference(tripled, THEIRS)
    parts = [9 * statistics.variance(OURS) / 8, ratio**2 * statistics.variance(THEIRS) / 6]
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / 7 + parts[1] ** 2 / 5)
    reach = 100 * stats.t.ppf(0.975, degrees) * math.sqrt(sum(parts)) / statistics.fmean(THEIRS)
    assert found.estimate == pytest.approx(100 * (ratio - 1))
    assert (found.low, found.high) == pytest.approx((found.estimate - reach, found.estimate + reach))


def test_a_variant_that_stands_in_part_and_gap_counts_once():
    lct, task, hrm = [30.0, 31, 29, 30], [20.0, 20.2, 19.8, 20], [11.0, 11.1, 10.9, 11]
    found = share(lct, task, lct, hrm)
    assert found.estimate == pytest.approx(100 * 10 / 19)
    weights = [(1 - 10 / 19) / 19, -1 / 19, 10 / 19 / 19]
    variance = sum(w**2 * statistics.variance(v) for w, v in zip(weights, (lct, task, hrm), strict=True))
    assert found.sd == pytest.approx(100 * math.sqrt(variance))
    assert found.low < 100 * 10 / 19 < found.high


@pytest.mark.parametrize("gap", [[1.0, -1.2, 0.8, -0.9], [-19.0, -18.0, -20.0, -19.5]])
def test_what_may_be_no_gap_is_not_shared_out(gap):
    found = share([9.0, 8.0, 10.0, 7.5], [0.1, 0.0, 0.2, 0.1], gap, [0.0, 0.1, -0.1, 0.0])
    assert (found.sd, found.low, found.high) == (None, None, None)


def test_a_rate_has_the_exact_interval():
    for number, runs in ((0, 8), (4, 8), (7, 8), (8, 8), (3, 24)):
        exact = stats.binomtest(number, runs).proportion_ci(method="exact")
        assert rate(number, runs)[2:] == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_few_seeds_or_figures_that_are_not_finite_have_no_interval():
    few = level(OURS[: MIN_SEEDS - 1])
    assert few.sd is not None
    assert (few.low, few.single_low, few.p) == (None, None, None)
    assert level(OURS[:MIN_SEEDS]).low is not None
    assert level([math.inf, *OURS]).low is None
    assert (difference([], OURS), paired_difference([], []), sd([1.0])) == (None, None, None)


def test_runs_without_spread_have_an_interval_of_no_width():
    found = difference([2.0] * 6, [1.0] * 6)
    assert (found.low, found.high, found.p) == (1.0, 1.0, 0.0)
    assert difference([2.0] * 6, [2.0] * 6).p == 1.0


def test_the_simulation_tells_an_interval_that_covers_from_one_that_does_not():
    draw, world = numpy.random.default_rng(1), coverage.WORLDS["normal"]
    covered = [coverage.level_covers(world, draw, 5) for _ in range(1_000)]
    assert 0.93 <= statistics.fmean(covered) <= 0.97
    assert coverage.bca_covers(world, draw, 5, 1_000) < 90
    stuck = coverage.WORLDS["one in eight on the plateau"]
    assert coverage.bca_covers(stuck, draw, 5, 1_000) < 75


def test_the_measurement_of_pairing_finds_a_correlation_that_is_there():
    noise = numpy.random.default_rng(2).normal(scale=0.2, size=(2, 8))
    known = {"status": "finished", "schema_version": SCHEMA_VERSION, "memory": "none"}
    known["floors"] = {"validation": {"unigram": {"full": 23.25}}}

    def records(other):
        for model, mean, some in (("hrm", 11, noise[0]), ("lstm", 12, other)):
            for seed, more in enumerate([*some, 9.0]):  # the last is on the plateau for the LSTM, and only there
                stuck = more * (model == "lstm") if seed == 8 else more
                config = {"experiment": {"name": "x"}, "data": {"source": "sample"}, "memory": {}, "seed": seed}
                score = {"perplexity": mean + 2 * stuck}
                yield known | {"model": model, "seed": seed, "config": config, "validation": score}

    ((kind, correlation, seeds, width),) = pairing.measure(records(noise[0]))
    assert (kind, correlation, seeds) == ("two models", pytest.approx(1), 8)
    assert width < 0.1
    ((_, correlation, _, width),) = pairing.measure(records(noise[1]))
    assert abs(correlation) < 0.75
    assert width > 0.5


@pytest.mark.parametrize(
    ("word", "fault"),
    [("foo=bar", "foo=bar: no archive"), ("", "an empty name: no archive"), ("README.md", "README.md: no archive")],
)
def test_nulls_of_no_archive_are_refused(word, fault):
    with pytest.raises(UsageError, match=fault):
        nulls.main([word])


def test_nulls_of_too_few_seeds_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no variant has 8 finished seeds off the plateau"):
        nulls.main([str(tmp_path)])


def test_a_variant_is_compared_with_itself_by_the_halves_of_its_seeds():
    def made(shift, spread=0.05):
        noise = [0.3, -0.1, 0.2, -0.4, -0.3, 0.4, 0.1, -0.2]
        return [
            record("model=lstm", perplexity=12 + spread * more + shift * (seed >= 46), seed=seed)
            for seed, more in zip(range(42, 50), noise, strict=True)
        ]

    (alike,) = nulls.measure(made(0))
    assert (alike.seeds, alike.answer) == (4, "equivalent")
    (apart,) = nulls.measure(made(2.0))  # the second half is another model under the same name
    assert apart.answer == "different"
    assert apart.percent == pytest.approx(-100 / 7, abs=0.2)
    (twice,) = nulls.measure(made(0) + made(0))  # the same cells in two archives
    assert twice == alike
    assert not [*nulls.measure(made(0)[:7])]
