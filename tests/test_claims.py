"""The published claims and their verdicts, from records alone."""

import csv
import functools
import json
import math
import re
import shutil
import subprocess
import sys

import hydra
import made_up
import pytest
from conftest import ROOT
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench import cli
from hrm_bench.config.words import conf_folder
from hrm_bench.records import papers, store
from hrm_bench.records.facts import is_on_plateau
from hrm_bench.records.papers import PAPERS
from hrm_bench.records.schema import score
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, summaries, write
from hrm_bench.report.frame import Sweep
from hrm_bench.statistics import AT_LEAST, holm

SEEDS = range(42, 50)
NOISE = [-0.10, 0.06, -0.04, 0.09, 0.02, -0.07, 0.05, -0.01]  # by seed; its mean is 0
PAPER = next(paper for paper in PAPERS if "HRM" in paper.title)
RECIPE = PAPER.published_recipe
TUNED = {"name": "tuned", "budget": 800_000, "batch_size": 4, "learning_rate": 0.006, "distillation": 3.0}
NOTHING = "No claim can be measured yet."


def findings(records):
    """What records say about the claims: one row per finding."""
    return list(claims.judge(frame_of(records)).findings.itertuples(index=False))


def missing(records):
    return claims.judge(frame_of(records)).missing


def shown(records):
    return summaries.verdicts(claims.judge(frame_of(records)))


def told(finding):
    return summaries.verdict_text(finding)


def record(model, perplexity, /, *, seed=42, memory="none", causal=True, experiment="hrm_vs_infini", **settings):
    """A finished record on the published text; settings are of the groups model, data and recipe."""
    figures = score(math.log(perplexity), characters=4992, words=1000)
    return {
        "schema_version": 3,
        "status": "finished",
        "model": model,
        "memory": memory,
        "seed": seed,
        "parameters": 152_064,
        "history": [{"epoch": 7, "validation_nll": math.log(perplexity)}],
        "leak": {},
        "seconds": 10.0,
        "best_epoch": 7,
        "validation": figures,
        "test": figures,
        "causal": causal,
        "code": "c0de",
        "identity": "1d",
        "floors": {"validation": {"unigram": {"full": 23.25}}, "test": {"unigram": {"full": 28.39}}},
        "config": {
            "experiment": {"name": experiment, "baseline": {"model": "hrm"}},
            "data": {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000}
            | settings.get("data", {}),
            "recipe": RECIPE | settings.get("recipe", {}),
            "model": {"name": model, "causal": True} | settings.get("model", {}),
            "memory": {"mode": "reset" if memory == "none" else memory},
            "seed": seed,
        },
    }


def cells(model, mean, /, *, noise=NOISE, **settings):
    """A variant's records, a seed each, around a mean."""
    return [record(model, mean + more, seed=seed, **settings) for seed, more in zip(SEEDS, noise, strict=False)]


def against_hrm(mean, **settings):
    """HRM at 12.10 and Infini-HRM, of which no claim speaks but that of its improvement by 4.7 %."""
    both = {name: settings[name] for name in ("experiment", "recipe") if name in settings}
    return cells("hrm", 12.10, **both) + cells("infini_hrm", mean, memory="reset", noise=NOISE[::-1], **settings)


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
    ("mean", "departure"), [(12.67, "the other way"), (12.10, "none or smaller"), (11.98, "smaller"), (9.0, "larger")]
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
    few = findings([each for each in against_hrm(11.53) if each["seed"] < 46])
    assert (only(few).verdict, only(few).low, only(few).p, only(few).seeds_needed) == ("undecided", None, None, 5)
    one = only(findings([each for each in against_hrm(11.53) if each["seed"] == 42]))
    assert told(one) == "undecided: needs at least 5 seeds"


def test_a_difference_is_taken_over_the_seeds_that_all_cells_have():
    found = [each for each in against_hrm(11.53) if each["model"] == "hrm" or each["seed"] != 44]
    assert only(findings(found)).seeds == tuple(seed for seed in SEEDS if seed != 44)
    apart = [each for each in against_hrm(11.53) if (each["model"] == "hrm") == (each["seed"] < 46)]
    assert findings(apart) == []
    assert "no seed is common to all the cells" in {each["reason"] for each in missing(apart)}


def test_a_level_is_of_the_mean_over_seeds():
    finding = only(findings(cells("hrm", 11.4, experiment="hrm_vs_lct")))
    assert (finding.measure, finding.unit, finding.p) == ("hrm", "", None)
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


def test_seeds_on_the_plateau_are_named_and_those_that_left_it_stand_beside():
    stuck = {43: 23.2, 47: 22.9}
    found = [
        record("infini_hrm", stuck[each["seed"]], seed=each["seed"], memory="reset")
        if each["model"] == "infini_hrm" and each["seed"] in stuck
        else each
        for each in against_hrm(11.53)
    ]
    left = [each for each in against_hrm(11.53) if each["seed"] not in stuck]
    finding, alone = only(findings(found)), only(findings(left))
    assert finding.on_plateau == (("infini_hrm reset", (43, 47)),)
    assert finding.left_pairs == 6
    assert (finding.left_estimate, finding.left_low, finding.left_high) == (alone.estimate, alone.low, alone.high)
    assert finding.estimate > 10 > 0 > finding.left_estimate
    assert len(finding.seeds) == 8
    text = shown(found).markdown()
    assert "on the plateau: infini_hrm reset (43, 47)<br>without those: -4.7 [" in text
    assert "(6 seeds)" in text


@pytest.mark.parametrize(("mean", "named"), [(23.2, 1), (11.53, 0)])
def test_where_all_or_none_have_left_the_plateau_there_is_nothing_to_stand_beside(mean, named):
    finding = only(findings(against_hrm(mean)))
    assert (len(finding.on_plateau), finding.left_estimate) == (named, None)
    assert finding.left_pairs == (0 if named else 8)


def test_shares_say_how_much_of_the_gap_each_part_of_deep_supervision_explains():
    every_layer, every_segment = shares(lct_task=12.0, last_segment=14.0)
    assert every_layer.measure == "(lct_2layer - lct_2layer_task) / (lct_2layer - hrm)"
    assert every_layer.estimate == pytest.approx(100 * (30 - 12) / (30 - 11.3))
    assert (every_layer.verdict, every_layer.range_low, every_layer.range_high) == ("reproduced", AT_LEAST, None)
    assert every_segment.measure == "(hrm_last_segment - hrm) / (lct_2layer - hrm)"
    assert every_segment.estimate == pytest.approx(100 * (14 - 11.3) / (30 - 11.3))
    assert (every_segment.verdict, every_segment.departure) == ("contradicted", "smaller")
    every_layer, every_segment = shares(lct_task=29.0, last_segment=25.0)
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


def test_p_is_adjusted_over_all_differences_of_the_table():
    found = against_hrm(11.53) + cells("hrm_memory", 12.12, memory="reset", noise=NOISE[3:] + NOISE[:3])
    found += cells("hrm", 11.3, experiment="hrm_vs_lct")
    level, infini, memory = findings(found)
    assert infini.p == pytest.approx(2 / 2**8)
    assert [level.p_holm, infini.p_holm, memory.p_holm] == holm([level.p, infini.p, memory.p])
    assert infini.p_holm == pytest.approx(2 * infini.p)


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
