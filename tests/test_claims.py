"""The published claims and their verdicts, from records alone."""

import csv
import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys

import hydra
import made_up
import pytest
from claimed import (
    NOISE,
    NOTHING,
    PAPER,
    RECIPE,
    SEEDS,
    TUNED,
    against_hrm,
    cells,
    findings,
    missing,
    record,
    shown,
    told,
)
from conftest import ROOT
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench import cli
from hrm_bench.config.words import conf_folder
from hrm_bench.intervals import rate
from hrm_bench.records import papers, store
from hrm_bench.records.facts import is_on_plateau
from hrm_bench.records.papers import PAPERS
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, write
from hrm_bench.report.frame import Sweep
from hrm_bench.statistics import AT_LEAST, AT_MOST


@functools.cache
def experiment(name):
    """An experiment's config, with what it sweeps."""
    with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
        return hydra.compose("config", [f"experiment={name}"], return_hydra_config=True)


def only(found):
    (finding,) = found
    return finding


def shares(lct_task, last_segment, *, hrm=11.3, lct=30.0):
    """The two findings on deep supervision."""
    means = {"hrm": hrm, "lct_2layer": lct, "lct_2layer_task": lct_task, "hrm_last_segment": last_segment}
    noises = {name: NOISE[place:] + NOISE[:place] for place, name in enumerate(means)}
    made = [cells(name, mean, noise=noises[name], experiment="supervision") for name, mean in means.items()]
    return findings([each for variant in made for each in variant])


def test_an_effect_of_the_published_size_is_reproduced():
    finding = only(findings(against_hrm(11.53)))
    assert finding.claim == "Infini-HRM with a memory that is reset improves HRM by 4.7 %."
    assert (finding.measure, finding.unit, finding.command) == ("infini_hrm reset to hrm", "%", "make exp2")
    assert finding.estimate == pytest.approx(100 * (11.53 / 12.10 - 1))
    assert (finding.range_low, finding.range_high) == (pytest.approx(-9.4), pytest.approx(-2.35))
    assert finding.range_low < finding.low < finding.estimate < finding.high < finding.range_high
    assert (finding.verdict, finding.seeds_needed, finding.departure) == ("reproduced", None, "")
    assert finding.seeds == tuple(SEEDS)
    assert finding.decides


@pytest.mark.parametrize(
    ("mean", "departure"), [(12.67, "the other way"), (12.17, "none or smaller"), (11.98, "smaller"), (9.0, "larger")]
)
def test_another_effect_is_contradicted_and_told(mean, departure):
    finding = only(findings(against_hrm(mean)))
    assert (finding.verdict, finding.departure) == ("contradicted", departure)
    assert told(finding) == f"contradicted: {departure}"


def test_an_effect_at_the_bound_is_undecided_and_tells_how_many_seeds_would_decide():
    finding = only(findings(against_hrm(11.83)))
    assert finding.low < -2.35 < finding.high
    assert finding.verdict == "undecided"
    assert 8 < finding.seeds_needed < 10_000
    assert told(finding) == f"undecided: needs about {finding.seeds_needed:,} seeds"


def test_few_seeds_are_undecided_whatever_they_say():
    few = only(findings([each for each in against_hrm(11.53) if each["seed"] < 45]))
    assert (few.verdict, few.low, told(few)) == ("undecided", None, "undecided: needs about 6 seeds")
    one = only(findings([each for each in against_hrm(11.53) if each["seed"] == 42]))
    assert told(one) == "undecided: needs at least 6 seeds"
    five = only(findings([each for each in against_hrm(11.53) if each["seed"] < 47]))
    assert five.low > five.range_low
    assert five.high < five.range_high
    assert told(five) == "undecided: needs about 6 seeds"  # whether most runs leave the plateau


def test_a_difference_is_over_all_seeds_of_each_side():
    found = [each for each in against_hrm(11.53) if each["model"] == "hrm" or each["seed"] != 44]
    assert only(findings(found)).seeds == tuple(SEEDS)
    assert "(7 and 8 runs" in shown(found).markdown()
    apart = [each for each in against_hrm(11.53) if (each["model"] == "hrm") == (each["seed"] < 46)]
    assert only(findings(apart)).estimate == pytest.approx(100 * (11.53 / 12.10 - 1), abs=0.5)


def test_a_level_is_of_the_mean_over_seeds():
    finding = only(findings(cells("hrm", 11.4, experiment="hrm_vs_lct")))
    assert (finding.measure, finding.unit) == ("hrm", "")
    assert finding.estimate == pytest.approx(11.4)
    assert finding.verdict == "reproduced"
    assert only(findings(cells("hrm", 12.1, experiment="hrm_vs_lct"))).verdict == "contradicted"
    assert only(findings(cells("hrm", 11.31 * 1.05, experiment="hrm_vs_lct"))).verdict == "undecided"


def test_cells_that_are_not_causal_say_only_whether_the_experiment_repeats():
    finding = only(findings(against_hrm(11.53, causal=False)))
    assert (finding.verdict, finding.causal, finding.decides) == ("reproduced", False, False)
    assert told(finding) == "reproduced; as run, not causal"


def test_the_claim_about_the_leak_is_decided_by_cells_that_leak():
    leak = cells("hrm", 1.13, noise=[each / 10 for each in NOISE], experiment="causal_mask", causal=False)
    with_mask = cells("hrm", 11.3, experiment="causal_mask")
    for each in leak:
        each["config"]["model"]["causal"] = False
    finding = only(findings(leak + with_mask))
    assert finding.measure == "hrm model.causal=false"
    assert (finding.verdict, finding.causal, finding.decides) == ("reproduced", False, True)
    assert told(finding) == "reproduced; not causal, as claimed"
    assert findings(with_mask) == []


def test_each_experiment_of_a_claim_has_a_finding_of_its_own():
    as_run = [
        each | {"config": each["config"] | {"experiment": {"name": "hrm_vs_infini_as_published", "baseline": {}}}}
        for each in against_hrm(12.67, causal=False)
    ]
    causal, run = findings(as_run + against_hrm(11.53))
    assert causal.claim == run.claim
    assert (causal.experiment, causal.verdict) == ("hrm_vs_infini", "reproduced")
    assert (run.experiment, run.verdict) == ("hrm_vs_infini_as_published", "contradicted")


def stuck(seeds, perplexity=23.2):
    """HRM and Infini-HRM, of which these seeds are on the plateau."""
    return [
        record("infini_hrm", perplexity, seed=each["seed"], memory="reset")
        if each["model"] == "infini_hrm" and each["seed"] in seeds
        else each
        for each in against_hrm(11.53)
    ]


def test_a_quantity_is_of_the_runs_that_left_the_plateau_and_their_rate_is_a_second_outcome():
    found = stuck({43, 47})
    finding = only(findings(found))
    alone = only(findings([each for each in found if each["model"] == "hrm" or each["seed"] not in {43, 47}]))
    assert finding.on_plateau == (("infini_hrm reset", (43, 47)),)
    assert [outcome.rate[:2] for outcome in finding.rates] == [(6, 8), (8, 8)]
    assert (finding.estimate, finding.low, finding.high) == (alone.estimate, alone.low, alone.high)
    assert (alone.verdict, finding.verdict) == ("reproduced", "undecided")
    assert finding.all_estimate > 10 > 0 > finding.estimate
    assert told(finding) == "undecided: needs about 17 seeds"
    text = shown(found).markdown()
    assert "infini_hrm reset: 6 of 8 left the plateau [35, 97] %; on it: 43, 47<br>over all runs: +19." in text
    assert "(6 and 8 runs)" in text


def test_a_claim_fails_if_most_runs_stay_on_the_plateau_that_the_published_run_left():
    finding = only(findings(stuck(SEEDS)))
    assert told(finding) == "contradicted: the other way; infini_hrm reset stays on the plateau"
    few_left = [*stuck({*SEEDS} - {43}), record("infini_hrm", 23.0, seed=50, memory="reset")]
    assert told(only(findings(few_left))) == "contradicted: infini_hrm reset stays on the plateau"
    half = only(findings(stuck({43, 45, 47, 48})))
    assert (half.verdict, half.seeds_needed) == ("undecided", None)


def test_a_run_that_was_published_on_the_plateau_is_compared_with_ours_that_stay_there():
    noise = [each * 3 for each in NOISE]
    lct = cells("lct_2layer", 29.9, noise=noise, experiment="hrm_vs_lct")
    hrm = cells("hrm", 11.3, experiment="hrm_vs_lct")
    finding = next(each for each in findings(lct + hrm) if each.quantity == "difference")
    assert (finding.verdict, finding.on_plateau) == ("reproduced", (("lct_2layer", tuple(SEEDS)),))
    lct[3] = record("lct_2layer", 15.0, seed=45, experiment="hrm_vs_lct")
    other = next(each for each in findings(lct + hrm) if each.quantity == "difference")
    assert other.rates[0][1:] == (True, rate(7, 8))
    assert (other.verdict, other.estimate) == ("reproduced", pytest.approx(finding.estimate, rel=0.02))


@pytest.mark.parametrize(("mean", "named"), [(23.2, 1), (11.53, 0)])
def test_where_all_or_none_have_left_the_plateau_there_is_nothing_to_stand_beside(mean, named):
    finding = only(findings(against_hrm(mean)))
    assert (len(finding.on_plateau), finding.all_estimate) == (named, None)


def test_the_published_runs_are_told_from_draws_of_ours_that_they_could_not_be():
    text = shown(against_hrm(11.53)).markdown()
    assert re.search(r"single runs: \[-6\.\d, -3\.\d\] %; -4\.7 lies in", text)
    assert re.search(r"single runs: \[.*\] %; -4\.7 lies outside", shown(against_hrm(12.9)).markdown())
    finding = only(findings(against_hrm(11.53)))
    assert finding.single_low < finding.low < finding.high < finding.single_high
    tuned = against_hrm(11.53, experiment="recipes", recipe=TUNED)
    assert "single runs" not in shown(tuned).markdown()


def test_a_claim_out_of_reach_is_marked_before_any_run_and_beside_its_verdict():
    marked = {each["claim"] for each in missing([]) if each["out_of_reach"]}
    assert marked == {"Infini-HRM with a memory that is carried improves HRM by 0.6 %."}
    both = cells("hrm", 12.10) + cells("infini_hrm", 12.03, memory="carry", noise=NOISE[::-1])
    assert "out of reach of 64 seeds: about 86, were the figure exactly true" in shown(both).markdown()


def test_models_that_are_level_are_equivalent_within_the_margin_of_the_paper(monkeypatch):
    level = against_hrm(12.10)
    assert told(only(findings(level))) == "equivalent"
    assert "= equivalent" in shown(level).markdown()
    strict = dataclasses.replace(PAPER, margin=0.1)
    monkeypatch.setattr(claims, "PAPERS", [strict])
    assert told(only(findings(level))) == "contradicted: none or smaller"


def test_shares_say_how_much_of_the_gap_each_part_of_deep_supervision_explains():
    every_layer, every_segment = shares(lct_task=12.0, last_segment=14.0)
    assert every_layer.measure == "(lct_2layer - lct_2layer_task) / (lct_2layer - hrm)"
    assert every_layer.estimate == pytest.approx(100 * (30 - 12) / (30 - 11.3))
    assert (every_layer.verdict, every_layer.range_low, every_layer.range_high) == ("reproduced", AT_LEAST, AT_MOST)
    assert every_segment.measure == "(hrm_last_segment - hrm) / (lct_2layer - hrm)"
    assert every_segment.estimate == pytest.approx(100 * (14 - 11.3) / (30 - 11.3))
    assert (every_segment.verdict, every_segment.departure) == ("contradicted", "smaller")
    every_layer, every_segment = shares(lct_task=29.0, last_segment=21.9)
    assert (every_layer.verdict, every_segment.verdict) == ("contradicted", "reproduced")


@pytest.mark.parametrize("lct", [11.3, 9.0])
def test_a_share_of_no_gap_is_undecided(lct):
    finding, _ = shares(lct_task=10.0, last_segment=14.0, lct=lct)
    assert told(finding) == "undecided: there may be no gap"


@pytest.mark.parametrize(
    "settings",
    [
        *({"data": {"train_chars": None}}, {"data": {"source": "sample"}}, {"model": {"width": 128}}),
        *({"recipe": {"max_epochs": 2}}, {"recipe": {"embedding_dropout": 0.3}}, {"recipe": {"distillation": 3.0}}),
    ],
)
def test_another_text_another_size_or_another_training_says_nothing_about_the_claims(settings):
    found = cells("hrm", 11.3, experiment="hrm_vs_lct", **settings)
    assert findings(found) == []
    both = found + cells("hrm", 12.1, experiment="hrm_vs_lct")
    assert only(findings(both)).estimate == pytest.approx(12.1)


def test_two_variants_that_fit_one_claim_are_not_mixed():
    deep = [record("hrm", 10.0, seed=seed, experiment="hrm_vs_lct", model={"gradient_depth": 2}) for seed in (50, 51)]
    usual = cells("hrm", 11.3, experiment="hrm_vs_lct", model={"gradient_depth": 1})
    assert findings(deep + usual) == []
    reasons = {each["reason"] for each in missing(deep + usual) if each["experiment"] == "hrm_vs_lct"}
    assert "more than one hrm: model.gradient_depth=1; model.gradient_depth=2" in reasons


def test_a_model_at_another_scale_says_nothing_about_the_claims():
    found = cells("hrm", 11.3, experiment="hrm_vs_lct")
    assert findings(found)
    for each in found:
        each["config"]["scale"] = 2
    assert findings(found) == []


def test_what_is_missing_is_named_with_the_command_that_would_measure_it():
    told = missing([])
    assert len(told) == sum(len(claim.experiments) for paper in PAPERS for claim in paper.claims)
    found = cells("hrm", 11.3, experiment="hrm_vs_lct")
    (leak,) = [each for each in missing(found) if each["experiment"] == "causal_mask"]
    assert (leak["claim"], leak["command"]) == (
        "Without a causal mask, perplexity falls to about 1.13.",
        "make causal_mask",
    )
    assert "hrm model.causal=false" in leak["reason"]
    assert len(missing(found)) == len(told) - len(findings(found)) == len(told) - 1


@pytest.mark.parametrize("claim", PAPER.claims, ids=lambda claim: f"{claim.quantity} {claim.measure}")
def test_every_claim_names_cells_that_its_experiments_run(claim):
    assert len(claim.cells) == {"level": 1, "difference": 2, "share": 4}[claim.quantity]
    for name in claim.experiments:
        whole = experiment(name)
        swept = {key: str(value).split(",") for key, value in whole.hydra.sweeper.params.items()}
        for cell in claim.cells:
            asked = [f"{key}={json.dumps(value)}" for key, value in cell.items() if key not in {"model", "memory"}]
            chosen = [f"{key}={cell[key]}" for key in ("model", "memory") if key in cell]
            cfg = hrm_bench.compose(f"experiment={name}", *chosen, *asked)
            assert cfg.experiment.name == name
            for key, value in cell.items():
                values = swept.get(key) or [str(OmegaConf.select(whole, {"model": "model.name"}.get(key, key)))]
                assert str(value).lower() in [each.lower() for each in values]
            for key, value in PAPER.protocol.items():
                assert OmegaConf.select(cfg, key) == value


def test_every_command_is_a_make_target_that_runs_the_experiment():
    makefile = (ROOT / "Makefile").read_text()
    for claim in PAPER.claims:
        for name, command in claim.experiments.items():
            target = command.removeprefix("make ")
            assert re.search(rf"^{target}:.*\n\t.* experiment={name} ", makefile, re.MULTILINE)


def test_every_published_figure_is_that_of_the_reports():
    def perplexity(name, cell):
        (figures,) = [each["figures"] for each in PAPER.figures if name in each["experiments"]]
        wanted = (cell["model"], cell.get("memory", "none"))
        return next(each["perplexity"] for each in figures if (each["model"], each["memory"]) == wanted)

    without = {"supervision", "causal_mask"}  # of these the reports have no table
    for claim in PAPER.claims:
        for name in claim.experiments.keys() - without:
            first, *second = (perplexity(name, cell) for cell in claim.cells)
            expected = 100 * (first / second[0] - 1) if second else first
            assert claim.figure == pytest.approx(expected, abs=0.05 if second else 0.005)
            assert claim.published == " against ".join(f"{each:.2f}" for each in (first, *second))
            in_words = re.findall(r"(\d+\.\d+) %", claim.claim)
            assert in_words in ([], [str(abs(claim.figure))])
    assert [claim.figure for claim in PAPER.claims if claim.experiments.keys() & without] == [None, None, 1.13]


def test_verdicts_can_be_had_again_from_the_records_alone(tmp_path):
    made = against_hrm(11.53) + cells("hrm", 11.3, experiment="hrm_vs_lct")
    first = tmp_path / "first"
    for each in made:
        folder = first / each["config"]["experiment"]["name"] / f"{each['model']}-{each['seed']}-{each['identity']}"
        folder.mkdir(parents=True)
        store.write_json(folder / store.RECORD_FILE, each)
        (folder / "log.txt").write_text("lost")
    before = findings(made)
    kept = tmp_path / "kept"
    for path in first.rglob(store.RECORD_FILE):
        (kept / path.parent.relative_to(first)).mkdir(parents=True)
        shutil.copy(path, kept / path.relative_to(first))
    shutil.rmtree(first)
    again = [each for sweep in sorted(kept.iterdir()) for each in store.read_all(sweep)]
    assert findings(again) == before
    assert [finding.verdict for finding in before] == ["reproduced", "reproduced"]


def test_nothing_in_conf_can_change_what_archived_records_say(tmp_path):
    for name in ("hrm_bench", "papers", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (tmp_path / "conf").rglob("*.yaml"):  # every digit of every file, those of the tuned recipes too
        path.write_text(re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), path.read_text()))
    archive = ROOT / "results" / "recipes.jsonl"
    script = (
        "from pathlib import Path; from hrm_bench.records import store, tidy; from hrm_bench.report import claims; "
        f"judged = claims.judge(tidy.cells(store.read_all(Path({str(archive)!r})))); "
        "print(claims.__file__); print(claims.csv_frame(judged).to_csv(index=False))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    place, _, changed = done.stdout.partition("\n")
    assert place.startswith(str(tmp_path))
    judged = claims.judge(frame_of(store.read_all(archive)))
    assert changed.strip() == claims.csv_frame(judged).to_csv(index=False).strip()
    assert set(judged.findings.recipe) == {"published", "tuned"}
    assert len(judged.findings) == 21


def test_the_paper_names_every_value_of_the_published_recipe_and_every_size():
    for model, sizes in PAPER.sizes.items():
        cfg = hrm_bench.compose("data=sample", f"model={model}")
        recipe = OmegaConf.to_container(cfg.recipe)
        assert {k: v for k, v in recipe.items() if k not in {"name", "evaluation_batch_size"}} == RECIPE
        named = re.compile(r"width|hidden_width|num_\w+")
        assert {key: value for key, value in cfg.model.items() if named.fullmatch(key)} == sizes
    assert {cell["model"] for claim in PAPER.claims for cell in claim.cells} == set(PAPER.sizes)


def test_markdown_and_csv_say_the_same(tmp_path):
    report = write.Report.of([Sweep.of(against_hrm(11.53) + cells("hrm", 11.3, experiment="hrm_vs_lct"))], [])
    markdown, table, *_ = write.write_together(report, [], tmp_path)
    assert "A claim is reproduced if its whole 95 % interval lies" in markdown.read_text()
    lines = [line for line in markdown.read_text().splitlines() if line.startswith("| ")][2:]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 2
    for line, row in zip(lines, rows, strict=True):
        assert row["claim"] in line
        assert row["verdict"] in line
        assert f"[{float(row['low']):{'.1f' if row['unit'] else '.2f'}}, " in line
    assert rows[1]["seeds"] == "42 43 44 45 46 47 48 49"
    assert "-9.40 to -2.35 %" in lines[1]
    assert "10.74 to 11.88 |" in lines[0]


def test_nothing_measured_is_said_to_be_so(tmp_path):
    report = write.Report.of([Sweep.of(cells("hrm", 11.3, experiment="custom"))], [])
    markdown, table, *_ = write.write_together(report, [], tmp_path)
    assert NOTHING in markdown.read_text()
    assert len(table.read_text().splitlines()) == 1


def test_a_narrow_terminal_loses_no_word_of_a_verdict(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("FORCE_COLOR", "1")
    cli.show(shown(against_hrm(11.53)))
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "reproduced" in re.sub(r"[\s│]|\x1b\[\d*m", "", printed)


def test_a_claim_of_a_difference_has_a_verdict_under_another_recipe_too():
    tuned = {"experiment": "recipes", "recipe": TUNED}
    made = against_hrm(11.53, experiment="recipes") + cells("hrm", 12.10, **tuned)
    tuned["recipe"] = TUNED | {"learning_rate": 0.003}  # a search chose another rate for this model
    made += cells("infini_hrm", 12.9, memory="reset", noise=NOISE[::-1], **tuned)
    published, other = [each for each in findings(made) if each.quantity == "difference"]
    assert (published.recipe, published.verdict) == ("published", "reproduced")
    assert (other.recipe, other.verdict) == ("tuned", "contradicted")
    assert other.command == "make recipes"


def test_the_table_has_one_row_per_claim_and_one_column_per_recipe():
    made = against_hrm(11.53, experiment="recipes") + against_hrm(12.9, experiment="recipes", recipe=TUNED)
    table = shown(made).data
    row = table[table.measured == "infini_hrm reset to hrm"].iloc[0]
    assert row["recipe=published"].startswith("✓ reproduced\n-4.7 [")
    assert row["recipe=tuned"].startswith("✗ contradicted: the other way\n+6.6 [")
    alone = shown(against_hrm(11.53)).data
    assert "verdict" in alone
    assert "recipe=published" not in alone
    assert len(alone) == 1


def test_cells_that_do_not_share_a_recipe_say_nothing_of_a_claim():
    half = against_hrm(12.9, experiment="recipes", recipe=TUNED)
    for each in half:
        if each["model"] == "hrm":
            each["config"]["recipe"] = each["config"]["recipe"] | {"budget": 5}
    assert findings(half) == []


def test_a_level_is_claimed_of_the_published_recipe_alone():
    made = cells("hrm", 11.4, experiment="recipes") + cells("hrm", 8, experiment="recipes", recipe=TUNED)
    level = only(findings(made))
    assert (level.recipe, level.estimate) == ("published", pytest.approx(11.4))


def test_a_recipe_whose_values_the_command_changed_says_nothing_of_a_claim():
    made = against_hrm(11.53, experiment="recipes", recipe=TUNED)
    words = ["experiment=recipes", "recipe=tuned", "recipe.budget=5"]
    assert findings(made)
    assert findings([each | {"overrides": words} for each in made]) == []
    renamed = [*words, "recipe.name=mine"]
    assert findings([each | {"overrides": renamed} for each in made])


def test_an_experiment_that_has_every_claim_is_not_missing():
    assert "recipes" not in {each["experiment"] for each in missing([])}


def test_on_the_plateau_is_a_run_above_95_percent_of_the_unigram_model():
    assert is_on_plateau(record("hrm", 0.951 * 23.25))
    assert not is_on_plateau(record("hrm", 0.949 * 23.25))


def test_a_paper_needs_only_its_title_text_and_claims():
    documents = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```yaml\n(.*?)```", documents, re.DOTALL) if "claims:" in block)
    paper = papers.read(block)
    assert [paper.is_about(made_up.record(f"data={name}")) for name in ("sample", "wikitext2")] == [True, False]
    assert paper.figure(made_up.record("data=sample")) is None
