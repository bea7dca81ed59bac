"""Scores that were made elsewhere, compared by the rules of the report: from Python and from a file."""

import importlib
import re

import numpy
import pytest

import hrm_bench
from hrm_bench.comparison import compare
from hrm_bench.errors import UsageError
from hrm_bench.intervals import difference, rate
from hrm_bench.statistics import MARGIN

OURS = {1: 11.2, 2: 11.5, 3: 11.3, 4: 11.4, 5: 11.25, 6: 23.4, 7: 11.41, 8: 11.3}
THEIRS = [9.86, 9.8, 9.91, 9.88, 9.85, 9.84]
DRAWS = 2_000


def different(mean, seeds, draws, seed):
    """How many of some comparisons call scores with mean 10 and this mean different, and how many equivalent."""
    draw = numpy.random.default_rng(seed)
    answers = [
        compare(ours, theirs).answer
        for ours, theirs in zip(
            draw.normal(10, 0.1, (draws, seeds)).tolist(), draw.normal(mean, 0.1, (draws, seeds)).tolist(), strict=True
        )
    ]
    return answers.count("different"), answers.count("equivalent")


@pytest.mark.parametrize("seeds", [5, 8])
def test_one_model_under_two_names_is_called_different_in_at_most_five_percent_of_comparisons(seeds):
    wrong, _ = different(10.0, seeds, DRAWS, seed=seeds)
    assert 0 < rate(wrong, DRAWS).low <= 0.05
    right, _ = different(10.3, seeds, 100, seed=seeds)  # three sds apart
    assert right > 90


def test_one_model_under_two_names_is_equivalent_with_enough_seeds():
    assert different(10.0, 48, 100, seed=1)[1] > 90
    assert different(10.0, 4, 100, seed=1)[1] < 30
    _, wrong = different(10.1, 24, 500, seed=2)  # as far apart as the margin
    assert rate(wrong, 500).low <= 0.05


def test_the_figures_are_those_of_the_report_and_the_text_says_them():
    found = hrm_bench.compare(OURS, THEIRS, names=("mine", "lstm"), plateau=22, published=15)
    left = [score for score in OURS.values() if score < 22]
    assert found.difference == difference(left, THEIRS)
    assert (found.rates, found.answer) == ((rate(7, 8), rate(6, 6)), "different")
    assert found.verdict == "undecided"  # 7 of 8 do not show that most runs leave
    text = str(found)
    assert "7 of 8 runs of mine [47, 100] %" in text
    assert "Different: mine scores higher." in text
    assert re.search(
        r"\+15\.\d\d % \[\+14\.\d\d, \+16\.\d\d\] \(p = \S+\)\. One more run of each would differ by", text
    )
    whole = compare(OURS, THEIRS)
    assert (whole.rates, whole.answer) == (None, "undecided")
    assert f"about {whole.seeds_needed} seeds of each would decide it" in str(whole)


def test_models_that_differ_in_how_often_they_leave_the_plateau_are_different():
    ours, theirs = [10.0, 10.1, 9.9, 10.05, 9.95] * 4, [10.0, 10.1, 9.9, 10.05, 9.95] + [25.0] * 15
    assert compare(ours, ours, plateau=22).answer == "equivalent"
    found = compare(ours, theirs, plateau=22)
    assert found.answer == "different"
    assert "Different: ours leaves the plateau more often." in str(found)


def test_few_scores_have_no_answer_and_bad_ones_are_refused():
    assert "an interval needs at least 4 seeds of each" in str(compare([1.0, 1.1], [1.2]))
    for ours, theirs, message in (([], [1.0], "ours"), ([1.0], [float("nan")], "theirs"), ([1.0], [-1.0], "above 0")):
        with pytest.raises(UsageError, match=message):
            compare(ours, theirs)


def test_the_margin_of_the_command_is_that_of_the_report():
    assert command().KEYS["margin"].default == MARGIN


def command():
    return importlib.import_module("hrm_bench.compare")


def test_the_name_is_a_function_also_when_the_command_of_that_name_is_imported():
    command()
    assert hrm_bench.compare([1.0, 1.1], [1.0, 1.2]).answer == "undecided"


def test_a_file_of_scores_is_compared_with_its_first_model_or_the_one_that_is_named(tmp_path, capsys):
    path = tmp_path / "mine.csv"
    lines = [f"lstm,{seed},{score}" for seed, score in enumerate(THEIRS)] + [f"hrm,{s},{v}" for s, v in OURS.items()]
    path.write_text("\n".join(["model,seed,score", *lines]))
    assert command().main([str(path), "plateau=22"]) == 0
    printed = capsys.readouterr().out
    assert "difference to lstm" in printed
    assert f"- {compare(OURS, THEIRS, names=('hrm', 'lstm'), plateau=22)}" in printed
    command().main([str(path), "baseline=hrm", "published=-13"])
    printed = capsys.readouterr().out
    assert "difference to hrm" in printed
    assert "published" in printed


def test_the_items_of_a_seed_are_averaged(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("model,seed,item,score\na,1,x,2\na,1,y,4\nb,1,x,1\nb,1,y,2\n")
    assert command().read(path) == {"a": {1: 3.0}, "b": {1: 1.5}}


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("model,score\na,1\n", [], "the first line lacks seed"),
        ("model,seed,score\na,1,x\n", [], "line 2: seed must be a whole number, and score a number"),
        ("model,seed,score\na,1,1\na,1,2\n", [], "line 3: a has seed 1 twice"),
        ("model,seed,score\na,1,1\na,2,2\n", [], "has one model only"),
        ("model,seed,score\na,1,1\nb,2,2\n", ["baseline=c"], "baseline=c: not in the file; allowed are a, b"),
        ("model,seed,item,score\na,1,x,1\nb,1,y,1\n", [], "the same items"),
        ("model,seed,score\n", [], "has no scores"),
        ("model,seed,score\na,1,1\nb,2,2\n", ["margin=-1"], "margin=-1.0: must be at least 0"),
    ],
)
def test_a_file_that_cannot_be_compared_is_refused_in_one_line(tmp_path, text, words, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        command().main([str(path), *words])
    assert message in str(refused.value)
