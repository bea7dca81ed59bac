"""Claims on figures of a record other than its validation perplexity, on a property, and with a range of their own."""

import math
import re

import made_up
import pytest

from hrm_bench.errors import UsageError
from hrm_bench.records import metrics, papers
from hrm_bench.records.schema import score
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, plots, summaries, write
from hrm_bench.report.frame import Sweep

SEEDS = range(42, 50)
HEAD = "{title: A made-up paper, text: {source: sample}, claims: [{claim: One., experiments: [custom], "
TWO = "cells: [{model: hrm}, {model: lstm}]"


def paper(rest, cells=TWO):
    return papers.read(f"{HEAD}{cells}, {rest}}}]}}")


def runs(model, **figures):
    """A record per seed; a figure is a function of how far the seed is from the middle, from -3.5 to 3.5."""
    made = []
    for place, seed in enumerate(SEEDS):
        record = made_up.record("data=sample", f"model={model}", seed=seed)
        for key, value in figures.items():
            record[key] = value(place - 3.5) if callable(value) else value
        made.append(record)
    return made


def scored(middle):
    return lambda away: score(math.log(middle + 0.01 * away), characters=4992, words=997)


def answers(accuracy):
    return lambda away: {
        split: {"all": {"nll": 1.0, "perplexity": math.e, "accuracy": accuracy + 0.001 * away, "answers": 100}}
        for split in ("validation", "test")
    }


def judged(rest, records, cells=TWO):
    return claims.judge(frame_of(records), [paper(rest, cells)])


def only(rest, records, cells=TWO):
    (finding,) = judged(rest, records, cells).findings.itertuples(index=False)
    return finding


def shown(rest, records, cells=TWO):
    return summaries.verdicts(judged(rest, records, cells)).data.iloc[0]


def test_a_claim_on_test_perplexity_reads_the_test_text():
    records = runs("hrm", test=scored(9.0)) + runs("lstm", test=scored(10.0))
    finding = only("quantity: difference, metric: test_perplexity, figure: -10", records)
    assert finding.estimate == pytest.approx(-10)
    assert (finding.verdict, finding.metric) == ("reproduced", "test_perplexity")
    assert finding.measure == "hrm to lstm, test perplexity"
    assert only("quantity: difference, figure: -10", records).estimate == pytest.approx(0)


def test_bits_of_a_level_are_shown_with_three_digits():
    row = shown(
        "quantity: level, metric: validation_bits_per_character, figure: 3.0",
        runs("hrm", validation=scored(8.0)),
        "cells: [{model: hrm}]",
    )
    assert row["accepted range"] == "2.850 to 3.150"
    assert row["verdict"].startswith("✓ reproduced\n3.000 [2.99")


def test_accuracies_are_compared_over_all_runs_also_of_a_model_that_never_leaves_the_plateau():
    stays, leaves = ({"validation": scored(middle)} for middle in (22.9, 2.0))
    records = runs("hrm", answers=answers(0.9), **leaves) + runs("lstm", answers=answers(0.5), **stays)
    rest = "quantity: difference, metric: validation_accuracy, figure: 80, direction: true"
    finding = only(rest, records)
    assert (finding.estimate, finding.verdict) == (pytest.approx(80), "reproduced")
    assert "plateau" not in shown(rest, records)["verdict"]
    assert claims.csv_frame(judged(rest, records)).rates.tolist() == [""]
    by_perplexity = only("quantity: difference, figure: -91.3", records)
    assert by_perplexity.verdict == "contradicted"  # the plateau is another outcome there


def test_four_seeds_are_enough_for_a_metric_without_a_plateau():
    rest, cells = "quantity: level, metric: train_seconds, figure: 10", "cells: [{model: hrm}]"
    some = runs("hrm", train_seconds=lambda away: 10 + 0.01 * away)
    assert shown(rest, some[:1], cells)["verdict"] == "? undecided: needs at least 4 seeds\n10.0 s (1 seed)"
    assert shown(rest, some[:4], cells)["verdict"].startswith("✓ reproduced\n10.0 [10.0, 10.0] s (4 seeds)")


def test_figures_that_are_equal_for_every_seed_are_decided():
    records = runs("hrm", flops_per_character=201.0) + runs("lstm", flops_per_character=200.0)
    finding = only("quantity: difference, metric: flops_per_character, figure: 0.5", records)
    assert (finding.low, finding.high, finding.verdict) == (pytest.approx(0.5), pytest.approx(0.5), "reproduced")
    assert finding.out_of_reach == ""  # the sd that planning assumes is of perplexities


def test_a_dotted_key_of_the_record_is_a_metric():
    records = runs("hrm", memory_use=lambda away: {"validation": {"own": 9.0 + 0.01 * away}})
    finding = only("quantity: level, metric: memory_use.validation.own, figure: 9", records, "cells: [{model: hrm}]")
    assert (finding.estimate, finding.measure) == (pytest.approx(9.0), "hrm, memory_use.validation.own")


def test_cells_without_the_figure_are_named_as_the_reason():
    (row,) = judged("quantity: difference, metric: test_accuracy, figure: 5", runs("hrm") + runs("lstm")).missing
    assert row["reason"] == "cells of hrm have no test accuracy"
    none_right = runs("hrm", answers=answers(0.9)) + runs("lstm", answers=answers(0.0))
    (row,) = judged("quantity: difference, metric: test_accuracy, figure: 5", none_right).missing
    assert row["reason"].startswith("the test accuracy of lstm is not above 0, so that no percentage")


def test_a_property_is_claimed_of_every_run():
    rest, cells = "quantity: property, causal: true", "cells: [{model: hrm}]"
    causal = runs("hrm")
    assert shown(rest, causal, cells)[["measured", "accepted range", "verdict"]].tolist() == [
        "hrm is causal",
        "every run",
        "✓ reproduced\n100 % of runs (8 seeds)",
    ]
    leaky = [record | {"causal": record["seed"] != 45} for record in causal]
    assert shown(rest, leaky, cells)["verdict"].startswith("✗ contradicted: 1 of 8 runs are not causal\n88 % of runs")
    finding = only(rest, leaky, cells)
    assert finding.decides
    other = only("quantity: property, causal: false", runs("hrm", causal=False), cells)
    assert (other.verdict, other.measure, other.decides) == ("reproduced", "hrm is not causal", True)
    assert "as run" not in summaries.verdict_text(other)
    (contradicted,) = judged("quantity: property, causal: false", causal, cells).findings.itertuples()
    assert summaries.verdict_text(contradicted) == "contradicted: 8 of 8 runs are causal"


def test_a_property_needs_no_number_of_seeds_and_ignores_the_plateau():
    one = runs("hrm", validation=scored(22.9))[:1]
    assert only("quantity: property, causal: true", one, "cells: [{model: hrm}]").verdict == "reproduced"


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [(12.3, "reproduced"), (11.7, "reproduced"), (13.2, "contradicted: larger"), (10.8, "contradicted: larger")],
)
def test_a_range_around_zero_is_a_claim_that_two_models_hardly_differ(mean, verdict):
    records = runs("hrm", validation=scored(mean)) + runs("lstm", validation=scored(12.0))
    assert summaries.verdict_text(only("quantity: difference, range: [-5, 5]", records)) == verdict


def test_a_range_replaces_what_follows_from_the_figure():
    records = runs("hrm", validation=scored(9.0)) + runs("lstm", validation=scored(12.0))
    open_above = "quantity: difference, figure: 60, range: [5, null]"
    assert only(open_above, records).verdict == "contradicted"
    row = shown(open_above, records[8:] + records[:8], "cells: [{model: lstm}, {model: hrm}]")
    assert row["accepted range"] == "at least +5.00 %"
    assert row["verdict"].startswith("✓ reproduced")


ONE = "cells: [{model: hrm}]"
FAULTS = [
    ("quantity: difference, figure: 5, population: all", TWO, "population=all: input should be 'text' or 'articles'"),
    ("quantity: property, causal: true, population: articles", ONE, "population=articles: it is of quantity: level.*"),
    (
        "quantity: level, figure: 5, metric: train_seconds, population: articles",
        ONE,
        "metric: population: articles is about perplexity; leave it out",
    ),
    ("quantity: difference, metric: perplexity, figure: 5", TWO, "metric=perplexity: not known; allowed are valid.*"),
    ("quantity: difference, metric: colour.validation, figure: 5", TWO, "metric=colour.validation: not known; .*"),
    ("quantity: property", ONE, "causal: missing; quantity: property needs it: true or false"),
    ("quantity: property, causal: maybe", ONE, "causal=maybe: input should be a valid boolean.*"),
    ("quantity: property, causal: true, figure: 1", ONE, "figure: quantity: property has none; leave it out"),
    ("quantity: property, causal: true, metric: train_seconds", ONE, "metric: quantity: property has none; leave.*"),
    ("quantity: property, causal: true", TWO, "cells: has 2; quantity: property is of 1"),
    ("quantity: level, figure: 5, causal: true", ONE, "causal: it is of quantity: property only; leave it out"),
    ("quantity: level, figure: 5, direction: true", ONE, "direction: it is of quantity: difference only; leave it out"),
    ("quantity: difference, range: [1, 2], direction: true", TWO, "direction: range says it; leave it out"),
    ("quantity: difference, figure: 0", TWO, r"figure=0: no accepted range follows from it; give range: \[low, high\]"),
    ("quantity: difference, range: [2, 1]", TWO, r"range: low must be below high; write \[1, 2\]"),
    (
        "quantity: difference, range: [2]",
        TWO,
        r"range: must be \[low, high\]; null in place of one of them is no bound",
    ),
    ("quantity: level, range: [much, 2]", ONE, "range.0=much: input should be a valid number.*"),
    ("quantity: level, figure: 5", "cells: [{model: hrm, memory: off}]", "cells.0.memory=False: must be one of none.*"),
]


@pytest.mark.parametrize(("rest", "cells", "message"), FAULTS, ids=lambda value: value[-40:])
def test_a_fault_of_a_claim_is_one_line(rest, cells, message):
    with pytest.raises(UsageError) as caught:
        paper(rest, cells)
    (fault,) = caught.value.faults
    assert re.fullmatch(rf"claims\.0\.{message}", fault)


def test_two_claims_with_one_text_are_refused():
    claim = f"{{claim: One., experiments: [custom], {ONE}, quantity: level, figure: 5}}"
    message = r"claims\.1\.claim: an earlier claim has the same text; say how the two differ"
    with pytest.raises(UsageError, match=message):
        papers.read(f"{{title: A made-up paper, text: {{source: sample}}, claims: [{claim}, {claim}]}}")


def test_every_named_metric_but_accuracy_is_in_a_record():
    record = made_up.record("data=sample", "model=hrm")
    assert {name for name, some in metrics.METRICS.items() if some.of(record) is None} == {
        "validation_accuracy",
        "test_accuracy",
    }


def test_a_range_without_a_lower_bound_holds_however_much_better_a_model_is(tmp_path):
    records = runs("hrm", validation=scored(6.0)) + runs("lstm", validation=scored(12.0))
    rest = "quantity: difference, range: [null, 5]"
    row = shown(rest, records)
    assert row["accepted range"] == "at most +5.00 %"
    assert row["verdict"].startswith("✓ reproduced\n-50.0 [")
    worse = runs("hrm", validation=scored(13.0)) + runs("lstm", validation=scored(12.0))
    assert summaries.verdict_text(only(rest, worse)) == "contradicted: larger"
    report = write.Report.of([Sweep.of(records)], papers=[paper(rest)])
    assert plots.verdicts(report.judged) is None  # as of every range with one bound
    write.write_together(report, [], tmp_path)
    assert "at most +5.00 %" in (tmp_path / "report.html").read_text(encoding="utf-8")
