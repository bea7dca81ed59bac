"""Intervals on skewed samples, differences paired by seed, and ranks by validation: against literals and by hand."""

import itertools
import math
import statistics

import pytest

from hrm_bench.records.schema import SCHEMA_VERSION, score
from hrm_bench.report.frame import variants
from hrm_bench.statistics import Difference, level, paired_difference, percent_difference, share

SKEWED = [10.1, 10.2, 10.3, 10.3, 10.4, 10.6, 11.0, 14.9]
OTHERS = [12.0, 11.6, 12.4, 12.1, 11.8, 12.2, 12.3, 11.9]
PART = [1.0, 1.1, 1.2, 1.1, 1.3, 1.0, 1.4, 6.0]
GAP = [9.0, 10.5, 9.5, 10.0, 11.0, 9.2, 10.2, 14.0]

# BCa by its formulas (Efron 1987), written out in NumPy with a million resamples; percentile intervals beside them.
INTERVALS = {
    "level": (level(SKEWED), (10.338, 12.788), (10.275, 12.150)),
    "difference": (paired_difference(SKEWED, OTHERS), (-1.713, 0.775), (-1.788, 0.150)),
    "percent difference": (percent_difference(SKEWED, OTHERS), (-14.20, 6.47), (-14.76, 1.26)),
    "share": (share(PART, GAP), (11.40, 30.52), (11.14, 26.22)),
}


@pytest.mark.parametrize(("interval", "bca", "percentile"), INTERVALS.values(), ids=INTERVALS)
def test_an_interval_of_a_skewed_sample_is_bca_and_not_percentile(interval, bca, percentile):
    width = bca[1] - bca[0]
    assert (interval.low, interval.high) == (
        pytest.approx(bca[0], abs=0.015 * width),
        pytest.approx(bca[1], abs=0.02 * width),
    )
    assert abs(interval.high - percentile[1]) > 0.15 * width


def test_an_interval_of_a_sample_mirrored_is_mirrored():
    straight, mirrored = level(SKEWED), level([-value for value in SKEWED])
    assert (mirrored.low, mirrored.high) == (
        pytest.approx(-straight.high, abs=0.1),
        pytest.approx(-straight.low, abs=0.05),
    )


def record(model, seed, validation, test=None, *, causal=True, unigram=23.0):
    """Return a finished record with these perplexities."""
    scores = [score(math.log(value), characters=4992, words=1000) for value in (validation, test or validation)]
    floor = {"unigram": {"full": unigram}}
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "model": model,
        "memory": "none",
        "seed": seed,
        "parameters": 152_064,
        "best_epoch": 1,
        "validation": scores[0],
        "test": scores[1],
        "causal": causal,
        "code": "c0de",
        "floors": {"validation": floor, "test": floor},
        "config": {
            "experiment": {"name": "custom", "baseline": {"model": "hrm"}},
            "data": {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000},
            "model": {"name": model},
            "memory": {"mode": "reset"},
            "seed": seed,
        },
    }


OURS = {1: 10.0, 2: 12.5, 3: 11.0, 4: 10.2, 5: 14.0, 6: 10.4}
BASELINE = {6: 11.9, 3: 12.2, 9: 30.0, 1: 11.0, 5: 13.0, 2: 13.9, 4: 11.1}  # another order, and a seed more
DIFFERENCES = [-1.0, -1.4, -1.2, -0.9, 1.0, -1.5]


def rows(records):
    return {row.model: row for row in variants(records).itertuples()}


def difference(records, model):
    """Return the difference of a model's row to the baseline; None if it has none."""
    row = rows(records)[model]
    values = [getattr(row, f"difference_{name}") for name in Difference._fields]
    return None if all(value is None for value in values) else Difference(*values)


@pytest.mark.parametrize("seeds", [[*BASELINE], sorted(BASELINE), sorted(BASELINE, reverse=True)], ids=str)
def test_a_difference_is_between_cells_of_the_same_seed(seeds):
    cells = [record("hrm", seed, BASELINE[seed]) for seed in seeds]
    compared = difference([*cells, *(record("lstm", seed, value) for seed, value in OURS.items())], "lstm")
    assert compared.pairs == 6
    assert compared.mean == pytest.approx(statistics.fmean(DIFFERENCES))
    assert compared.sd == pytest.approx(statistics.stdev(DIFFERENCES))
    assert compared.percent == pytest.approx(100 * sum(DIFFERENCES) / (sum(BASELINE.values()) - BASELINE[9]))
    signs = itertools.product((-1, 1), repeat=6)
    sums = [abs(sum(sign * value for sign, value in zip(row, DIFFERENCES, strict=True))) for row in signs]
    assert compared.p == pytest.approx(sum(size >= abs(sum(DIFFERENCES)) - 1e-9 for size in sums) / 64)
    assert (compared.low, compared.high) == (pytest.approx(-1.283, abs=0.02), pytest.approx(0.283, abs=0.05))


def test_a_seed_that_only_one_of_the_two_has_changes_nothing():
    both = [record("hrm", seed, BASELINE[seed]) for seed in OURS]
    ours = [record("lstm", seed, value) for seed, value in OURS.items()]
    more = [record("hrm", 0, 99.0), *both, record("lstm", 8, 1.5), *ours]
    assert difference(more, "lstm") == difference([*both, *ours], "lstm")


PERPLEXITIES = {"hrm": (9.0, 12.0), "lstm": (10.0, 9.0), "trm": (11.0, 8.0), "transformer": (8.0, 11.5)}


@pytest.mark.parametrize("models", list(itertools.permutations(PERPLEXITIES))[::5], ids=str)
def test_ranks_are_by_validation_alone(models):
    ranked = rows([record(model, 1, *PERPLEXITIES[model]) for model in models])
    assert {model: row.rank for model, row in ranked.items()} == {"transformer": 1, "hrm": 2, "lstm": 3, "trm": 4}


def test_a_variant_that_is_not_causal_takes_no_rank_from_the_others():
    leaky = [record("hrm", 1, 1.1, causal=False), record("hrm", 2, 1.2)]
    others = [record("lstm", 1, 10.0, 9.0), record("lstm", 2, 10.0, 9.0), record("trm", 1, 11.0, 8.0)]
    ranks = {model: row.rank for model, row in rows([*leaky, *others]).items()}
    assert ranks == {"hrm": None, "lstm": 1, "trm": 2}
    compared = difference([*leaky, *others], "lstm")
    assert (compared.pairs, compared.mean) == (1, pytest.approx(8.8))
    assert difference([*leaky, *others], "trm") is None
