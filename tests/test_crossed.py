"""Intervals over seeds and articles: what each of them is for, and the table that shows them."""

import math

import made_up
import numpy
import pytest
from scipy import stats

from hrm_bench import crossed
from hrm_bench.records import papers
from hrm_bench.records.tidy import cells
from hrm_bench.report import claims, summaries
from hrm_bench.report.articles import articles
from hrm_bench.report.frame import Sweep
from hrm_bench.sweeps.decide import Look


def matrix(seeds, articles, *, mean=2.0, run=0.0, text=0.0, rest=0.0, seed=0):
    draw = numpy.random.default_rng(seed)
    runs, texts = run * draw.normal(size=(seeds, 1)), text * draw.normal(size=articles)
    return mean + runs + texts + rest * draw.normal(size=(seeds, articles))


def expected(first, second, parts):
    """The interval in percent from the variances of means that count, by a plain formula."""
    sums = first.mean(axis=0) - second.mean(axis=0)
    known = {
        "first": (first.mean(axis=1).var(ddof=1) / len(first), len(first) - 1),
        "second": (second.mean(axis=1).var(ddof=1) / len(second), len(second) - 1),
        "articles": (sums.var(ddof=1) / len(sums), len(sums) - 1),
    }
    variances, degrees = numpy.array([known[part] for part in parts]).T
    total = variances.sum()
    reach = stats.t.ppf(0.975, total**2 / (variances**2 / degrees).sum()) * math.sqrt(total)
    return [100 * math.expm1(sums.mean() + sign * reach) for sign in (-1, 1)]


def test_each_interval_has_the_variance_of_the_draws_that_it_is_over():
    first = matrix(5, 16, run=0.02, text=0.1, rest=0.03, seed=1)
    second = matrix(8, 16, mean=2.1, run=0.01, text=0.1, rest=0.02, seed=2)
    found = crossed.percent_difference(first.tolist(), second.tolist())
    assert (found.seeds, found.articles) == (5, 16)
    assert found.estimate == pytest.approx(100 * math.expm1(first.mean() - second.mean()))
    assert found.over_seeds == pytest.approx(expected(first, second, ["first", "second"]))
    assert found.over_articles == pytest.approx(expected(first, second, ["articles"]))
    assert found.over_both == pytest.approx(expected(first, second, ["first", "second", "articles"]))


def test_what_both_variants_find_hard_in_an_article_does_not_widen_their_difference():
    texts = 0.5 * numpy.random.default_rng(0).normal(size=16)
    first, second = (matrix(6, 16, mean=mean, run=0.01, seed=n) for n, mean in enumerate((2.0, 2.1)))
    plain, hard = (
        crossed.percent_difference((first + some).tolist(), (second + some).tolist()) for some in (0 * texts, texts)
    )
    assert hard.over_both == pytest.approx(plain.over_both)
    wide = crossed.level((first + texts).tolist()).over_both
    narrow = crossed.level(first.tolist()).over_both
    assert wide[1] - wide[0] > 10 * (narrow[1] - narrow[0])


def test_a_level_is_the_exponential_of_the_mean_nats():
    nats = matrix(4, 5, run=0.01, text=0.1, seed=3)
    assert crossed.level(nats.tolist()).estimate == pytest.approx(math.exp(nats.mean()))


@pytest.mark.parametrize(("seeds", "articles"), [(3, 16), (8, 3), (1, 1)])
def test_few_seeds_or_articles_have_no_interval_over_both(seeds, articles):
    found = crossed.level(matrix(seeds, articles, run=0.1, text=0.1).tolist())
    assert found.over_both is None
    assert (found.over_seeds is None) == (seeds < 4)
    assert (found.over_articles is None) == (articles < 4)


def test_runs_that_have_read_other_articles_are_not_compared():
    with pytest.raises(ValueError, match="different numbers of articles"):
        crossed.percent_difference(matrix(4, 5).tolist(), matrix(4, 6).tolist())


def test_runs_that_agree_to_the_bit_have_an_interval_without_width():
    same = matrix(4, 5).tolist()
    assert crossed.percent_difference(same, same).over_both == (0.0, 0.0)


def with_articles(model, nats, title="An article"):
    """Finished records with made-up articles, one per row of a matrix; half of the columns are of each split."""
    records = []
    for seed, run in enumerate(nats.tolist()):
        texts = [
            {"title": f"{title} {n}", "nats": 100 * value, "characters": 100, "unknown": 0, "windows": [100 * value]}
            for n, value in enumerate(run)
        ]
        half = len(texts) // 2
        some = {"articles": {"validation": texts[:half], "test": texts[half:]}}
        records.append(
            made_up.record("data=sample", f"model={model}", "experiment.baseline={model:hrm}", seed=seed) | some
        )
    return records


def test_the_page_shows_what_the_articles_say_for_each_population():
    hrm = matrix(6, 16, run=0.01, text=0.1, rest=0.01, seed=1)
    lstm = hrm + 0.1 + 0.01 * matrix(6, 16, mean=0, rest=1, seed=2)
    records = [*with_articles("hrm", hrm), *with_articles("lstm", lstm)]
    shown = articles(Sweep.of(records).whole)
    found = crossed.percent_difference(lstm.tolist(), hrm.tolist())
    rows = shown.data.set_index("model")
    assert rows.loc["hrm", "perplexity"].startswith(f"{math.exp(hrm.mean()):.2f} [")
    assert rows.loc["hrm", "difference to baseline"] == ""
    assert rows.loc["lstm", "difference to baseline"] == f"{found.estimate:+.1f} %"
    for name, (low, high) in {
        "other seeds": found.over_seeds,
        "other texts": found.over_articles,
        "both": found.over_both,
    }.items():
        assert rows.loc["lstm", name] == f"[{low:+.1f}, {high:+.1f}]"
    assert "16 held-out texts" in shown.caption


def test_records_without_articles_are_left_out_and_other_articles_are_not_compared():
    nats = matrix(4, 16, run=0.01, text=0.1)
    plain = [made_up.record("data=sample", "model=hrm", seed=seed) for seed in range(4)]
    assert articles(Sweep.of(plain).whole) is None
    others = [*with_articles("hrm", nats), *with_articles("lstm", nats, title="Another")]
    shown = articles(Sweep.of(others).whole)
    assert list(shown.data.columns) == ["model", "perplexity"]
    some = [*with_articles("hrm", nats)[:3], plain[3]]
    assert articles(Sweep.of(some).whole) is None


HEAD = "{title: A made-up paper, text: {source: sample}, claims: [{claim: One., experiments: [custom], "


def judged(rest, records):
    """The one finding about a claim on articles, or the reason why there is none."""
    paper = papers.read(f"{HEAD}cells: [{{model: lstm}}, {{model: hrm}}], population: articles, {rest}}}]}}")
    found = claims.judge(cells(records), [paper])
    return next(found.findings.itertuples(index=False), None) or found.missing[0]["reason"], found


def test_a_claim_about_articles_is_decided_by_the_interval_over_seeds_and_articles():
    hrm = matrix(8, 16, run=0.01, text=0.1, rest=0.01, seed=1)
    lstm = hrm + 0.05 + 0.02 * matrix(8, 16, mean=0, rest=1, seed=2)
    records = [*with_articles("hrm", hrm), *with_articles("lstm", lstm)]
    finding, found = judged("quantity: difference, figure: 5", records)
    over_both = crossed.percent_difference(lstm.tolist(), hrm.tolist()).over_both
    assert (finding.low, finding.high) == pytest.approx(over_both)
    assert (finding.verdict, finding.articles, finding.population) == ("reproduced", 16, "articles")
    (row,) = summaries.verdicts(found).data.itertuples(index=False)
    assert "(8 seeds, 16 articles)" in " ".join(map(str, row))
    assert "on held-out articles" in row.measured


def test_a_claim_that_no_number_of_seeds_decides_says_that_articles_are_short():
    draw = numpy.random.default_rng(0)
    hrm = matrix(8, 16, run=0.001, rest=0.001, seed=1)
    own = 0.2 * draw.normal(size=16)  # what an article is to one model alone
    records = [*with_articles("hrm", hrm), *with_articles("lstm", hrm + 0.03 + own)]
    finding, _ = judged("quantity: difference, figure: 5", records)
    assert (finding.verdict, finding.short) == ("undecided", "articles")
    assert "needs more articles, whatever the number of seeds" in summaries.verdict_text(finding)
    assert Look(8, finding).is_decided  # further seeds would change nothing
    few = matrix(8, 16, run=0.1, rest=0.001, seed=3)
    finding, _ = judged("quantity: difference, figure: 5", [*with_articles("hrm", hrm), *with_articles("lstm", few)])
    assert (finding.verdict, finding.short) == ("undecided", "")
    assert "needs more seeds" in summaries.verdict_text(finding)
    assert not Look(8, finding).is_decided


def test_a_claim_about_articles_needs_records_that_have_the_same():
    nats = matrix(4, 16)
    plain = [made_up.record("data=sample", "model=hrm", seed=seed) for seed in range(4)]
    reason, _ = judged("quantity: difference, figure: 5", [*plain, *with_articles("lstm", nats)])
    assert reason == "cells of hrm have no held-out articles"
    others = [*with_articles("hrm", nats), *with_articles("lstm", nats, title="Another")]
    reason, _ = judged("quantity: difference, figure: 5", others)
    assert reason == "the cells have read other held-out articles"
