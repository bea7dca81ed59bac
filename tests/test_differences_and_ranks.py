"""Differences to the baseline, and ranks by validation, of records."""

import itertools
import math
import statistics

import pytest
from scipy import stats

from hrm_bench.intervals import Difference
from hrm_bench.records.schema import SCHEMA_VERSION, score
from hrm_bench.report.frame import variants


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


def rows(records):
    return {row.model: row for row in variants(records).itertuples()}


def difference(records, model):
    """Return the difference of a model's row to the baseline; None if it has none."""
    row = rows(records)[model]
    values = [getattr(row, f"difference_{name}") for name in Difference._fields]
    return None if all(value is None for value in values) else Difference(*values)


@pytest.mark.parametrize("seeds", [[*BASELINE], sorted(BASELINE), sorted(BASELINE, reverse=True)], ids=str)
def test_a_difference_is_of_all_runs_that_left_the_plateau_in_whatever_order_they_come(seeds):
    cells = [record("hrm", seed, BASELINE[seed]) for seed in seeds]
    compared = difference([*cells, *(record("lstm", seed, value) for seed, value in OURS.items())], "lstm")
    others = [value for value in BASELINE.values() if value < 20]
    welch = stats.ttest_ind([*OURS.values()], others, equal_var=False)
    assert compared.seeds == 6
    assert compared.mean == pytest.approx(statistics.fmean(OURS.values()) - statistics.fmean(others))
    assert compared.percent == pytest.approx(100 * compared.mean / statistics.fmean(others))
    interval = welch.confidence_interval()
    assert (compared.low, compared.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert compared.p == pytest.approx(welch.pvalue)


def test_a_seed_of_one_variant_counts_although_the_other_lacks_it():
    both = [record("hrm", seed, value) for seed, value in BASELINE.items()]
    ours = [record("lstm", seed, value) for seed, value in OURS.items()]
    more = difference([*both, *ours, record("hrm", 10, 12.0)], "lstm")
    assert more.mean != difference([*both, *ours], "lstm").mean
    assert more.seeds == 6


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
    assert (compared.seeds, compared.mean) == (1, pytest.approx(8.8))
    assert difference([*leaky, *others], "trm").mean == pytest.approx(9.8)  # whose seed is another
