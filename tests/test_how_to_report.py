"""The paragraph that a page offers for a paper."""

import re

from conftest import ROOT
from made_up import record

from hrm_bench.records import store
from hrm_bench.report.frame import Sweep
from hrm_bench.report.how_to_report import paragraphs

SEEDS = (42, 43, 44, 45)


def made(model, perplexity, *words, seeds=SEEDS, causal=True):
    return [
        record(f"model={model}", *words, perplexity=perplexity + 0.1 * (seed % 2), seed=seed, causal=causal)
        for seed in seeds
    ]


def only(records):
    (text,) = [text for study in Sweep.of(records).studies for text in paragraphs(study)]
    return text


def test_it_has_the_figures_intervals_seeds_and_versions_of_the_records():
    text = only(made("hrm", 11.0) + made("lstm", 12.0, seeds=(42, 43, 44, 45, 47)))
    assert "by the recipe published, with seeds 42 to 45, 47 (hrm_bench 0.1.0, torch 2.13.0)." in text
    assert "hrm (152,064 parameters) reaches 11.05 on validation (4 seeds, sd 0.06) and 11.05 on test" in text
    assert re.search(
        r"lstm .* reaches 12\.06 on validation \(5 seeds, .*\) and .*, \+9\.1 % \[\+8.3, \+10.0\] against hrm\.",
        text,
    )
    assert "Brackets are 95 % intervals over seeds (Welch); they say nothing of other texts." in text
    assert text.endswith("By perturbation and by gradient, no model sees a later character.")


def test_runs_on_the_plateau_and_models_that_see_the_future_are_named():
    text = only(made("hrm", 11.0) + made("lstm", 12.0) + made("lstm", 23.0, seeds=(46,)))
    assert "1 run on the unigram plateau" in text
    assert "of the runs that left the plateau" in text
    text = only(made("hrm", 11.0) + made("hrm", 1.1, "model.causal=false", "model.name=leaky", causal=False))
    assert text.endswith("Not causal, and not to be compared: leaky.")


def test_one_seed_has_no_interval_and_two_recipes_are_named():
    text = only(made("hrm", 11.0, seeds=(42,)) + made("hrm", 8.0, "recipe=tuned", seeds=(42,)))
    assert "by the recipes tuned and published, with seeds 42 (" in text
    assert "[" not in text


def test_held_out_texts_stand_beside_the_cells_own():
    path = ROOT / "results" / "articles_tuned.jsonl"
    (study,) = Sweep.of(store.read_all(path), path=path).studies
    (text,) = paragraphs(study)
    assert "transformer_refined +1.0 % [+0.5, +1.5]" in text
    assert "On 16 held-out texts, with intervals over seeds and texts," in text
