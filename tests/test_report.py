"""The table of results, from records alone."""

import csv
import json
import math

import made_up
import pytest
from scipy import stats

from hrm_bench import cli
from hrm_bench.intervals import MIN_SEEDS
from hrm_bench.records import extras, facts
from hrm_bench.records.schema import SCHEMA_VERSION, score
from hrm_bench.report import frame, plots, tables, write
from hrm_bench.report.frame import Sweep


def counted(unigram, kneser_ney):
    return {
        "unigram": {"full": unigram},
        "kneser_ney_2": {"full": 12.0, "window": 12.0, "adaptive": 11.0},
        "kneser_ney_7": {"full": kneser_ney - 0.1, "window": kneser_ney, "adaptive": 5.2},
    }


def record(model, memory, seed, perplexity, *, causal=True, experiment="hrm_vs_infini", config=None):
    """A finished record of the published size."""
    figures = score(math.log(perplexity), characters=4992, words=1000)
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "finished",
        "model": model,
        "memory": memory,
        "seed": seed,
        "parameters": 152_064,
        "best_epoch": seed,
        "history": [{"epoch": 1, "validation_perplexity": perplexity}],
        "validation": figures,
        "test": figures,
        "causal": causal,
        "code": "c0de",
        "floors": {"validation": counted(23.0, 7.6), "test": counted(28.0, 6.6)},
        "config": {
            "experiment": {"name": experiment, "baseline": {"model": "hrm"}},
            "data": {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000},
            "model": {"name": model, "update": "sequential"},
            "memory": {"mode": "reset" if memory == "none" else memory},
            "seed": seed,
        }
        | (config or {}),
    }


def rows(records):
    return list(Sweep.of(records).whole.variants.itertuples())


def results(records):
    return tables.results(Sweep.of(records).whole)


def baselines(records):
    return tables.baselines(Sweep.of(records).whole).data


def written(records, folder):
    """The Markdown and the CSV of records, as their sweep's folder has them."""
    folder.mkdir(exist_ok=True)
    write.write_all(records, folder)
    return folder / "results.md", folder / "results.csv"


def picture(records, path):
    return plots.overview([Sweep.of(records)], path).read_text()


SWEEP = [
    record("hrm", "none", 1, 12.0),
    record("hrm", "none", 2, 11.0),
    record("infini_hrm", "carry", 1, 12.5, causal=False),
    record("infini_hrm", "carry", 2, 22.5, causal=False),
    record("infini_hrm", "carry", 3, 12.0, causal=False),
]


def test_a_row_is_a_variant_over_its_seeds():
    hrm, infini = rows(SWEEP)
    assert (hrm.model, hrm.memory, hrm.seeds, hrm.causal) == ("hrm", "none", 2, True)
    assert hrm.validation_mean == pytest.approx(11.5)
    assert hrm.validation_sd == pytest.approx(0.5**0.5)
    assert hrm.best_epoch == 1.5
    assert hrm.difference_mean is None
    assert (infini.seeds, infini.left_plateau, infini.causal) == (3, 2, False)
    assert infini.left_mean == pytest.approx(12.25)


def test_differences_to_the_baseline_are_of_the_runs_that_left_the_plateau_whatever_their_seeds():
    _, infini = rows(SWEEP)
    assert infini.difference_mean == pytest.approx((12.5 + 12.0) / 2 - 11.5)
    assert infini.difference_percent == pytest.approx(100 * infini.difference_mean / 11.5)
    assert infini.difference_seeds == 2
    _, stuck = rows([cell for cell in SWEEP if cell["seed"] == 2])
    assert stuck.difference_mean == pytest.approx(22.5 - 11.0)  # of all, since none left


def test_a_model_that_is_not_causal_is_never_a_baseline():
    records = [record("hrm", "none", 1, 1.13, causal=False), record("infini_hrm", "carry", 1, 12.0)]
    assert all(row.difference_mean is None for row in rows(records))


def test_a_model_that_is_not_causal_is_never_ranked():
    records = [
        record("hrm", "none", 1, 1.13, causal=False),
        record("infini_hrm", "carry", 1, 12.0),
        record("infini_hrm", "reset", 1, 11.0),
    ]
    assert [row.rank for row in rows(records)] == [None, 2, 1]


def test_models_on_different_texts_are_not_ranked_together():
    one, other = record("hrm", "none", 1, 11.0), record("infini_hrm", "carry", 1, 9.0)
    other["floors"] = {split: counted(20.0, 5.0) for split in ("validation", "test")}
    assert [row.rank for row in rows([one, other])] == [1, 1]


def test_seeds_on_the_plateau_are_named():
    assert [row.on_plateau for row in rows(SWEEP)] == [(), (2,)]
    assert "| 2 of 3 [9, 99] % (not 2) | 12.25 ± 0.35 |" in results(SWEEP).markdown()


def test_a_baseline_is_the_variant_with_the_values_that_the_experiment_names():
    def cell(memory, order, seed, perplexity):
        found = record("infini_hrm", memory, seed, perplexity)
        found["config"]["data"] = found["config"]["data"] | {"order": order}
        found["config"]["memory"] = {"mode": memory}
        found["config"]["experiment"]["baseline"] = {"memory": "none"}
        return found

    records = [
        cell(memory, order, seed, 10.0 + more + (5.0 if order == "contiguous" else 0.0))
        for memory, more in (("none", 0.0), ("carry", 1.0))
        for order in ("shuffled", "contiguous")
        for seed in (1, 2)
    ]
    found = rows(records)
    assert [(row.memory, row.settings) for row in found] == [
        ("none", "data.order=contiguous"),
        ("none", "data.order=shuffled"),
        ("carry", "data.order=contiguous"),
        ("carry", "data.order=shuffled"),
    ]
    assert [row.difference_mean and round(row.difference_mean, 9) for row in found] == [None, None, 1.0, 1.0]


def test_a_model_with_memory_has_no_other_memory_for_its_baseline_in_whatever_order_they_come():
    def cell(model, memory, perplexity):
        found = record(model, memory, 1, perplexity)
        found["config"]["memory"] = {"mode": memory}
        found["config"]["experiment"]["baseline"] = {"model": "infini_hrm"}
        return found

    found = [cell("infini_hrm", "none", 9.0), cell("infini_hrm", "carry", 10.0), cell("hrm_memory", "carry", 11.0)]
    for ordered in (found, found[::-1]):
        (theirs,) = [row for row in rows(ordered) if row.model == "hrm_memory"]
        assert theirs.difference_mean == pytest.approx(1.0)


def test_where_several_variants_could_be_the_baseline_there_is_none():
    def cell(name, depth, perplexity):
        found = record(name, "none", 1, perplexity)
        found["config"]["model"] = {"name": name} | ({"gradient_depth": depth} if depth else {})
        return found

    found = rows([cell("hrm", 1, 10.0), cell("hrm", 2, 11.0), cell("lstm", None, 12.0)])
    assert [row.difference_mean for row in found] == [None] * 3


def test_a_variant_on_another_text_is_no_baseline():
    found = [record("hrm", "none", 1, 10.0), record("lstm", "none", 1, 11.0)]
    assert rows(found)[1].difference_mean == pytest.approx(1.0)
    found[1]["floors"] = {"validation": counted(20.0, 7.0), "test": counted(25.0, 6.0)}
    assert rows(found)[1].difference_mean is None


def test_how_often_a_cell_is_saved_does_not_set_variants_apart():
    found = [record("hrm", "none", seed, 10.0, config={"trainer": {"snapshot_seconds": seed}}) for seed in (1, 2)]
    (row,) = rows(found)
    assert (row.seeds, row.settings) == (2, "")


def test_variants_of_one_model_stand_in_the_order_of_their_settings_numbers_by_size():
    def cell(width, seed):
        found = record("hrm", "none", seed, 10.0)
        found["config"]["model"] = {"name": "hrm", "width": width}
        return found

    found = rows([cell(width, seed) for seed, width in enumerate((128, 64, 1024, None, 64), start=1)])
    assert [row.settings for row in found] == [f"model.width={width}" for width in (64, 128, 1024, None)]


def test_a_baseline_can_be_a_setting():
    def cell(name, depth, perplexity):
        found = record(name, "none", 1, perplexity)
        found["config"]["model"] = {"name": name, "gradient_depth": depth}
        found["config"]["experiment"]["baseline"] = {"model": "hrm", "model.gradient_depth": 1}
        return found

    found = rows([cell("hrm", 1, 10.0), cell("hrm", 2, 11.0), cell("hrm_1level", 1, 12.0), cell("hrm_1level", 2, 13.0)])
    assert [row.difference_mean and round(row.difference_mean, 9) for row in found] == [None, 1.0, 2.0, 3.0]


def test_a_model_that_is_not_causal_is_marked_where_it_is_shown():
    assert "carry, not causal" in results(SWEEP).markdown()


def test_published_figures_stand_beside_the_experiments_that_repeat_them_alone():
    assert [row.published for row in rows(SWEEP)] == [12.10, 12.03]
    first = record("hrm", "none", 1, 11.0, experiment="hrm_vs_lct")
    assert rows([first])[0].published == 11.31
    assert rows([record("hrm", "none", 1, 11.0, experiment="custom")])[0].published is None
    longer = {"source": "wikitext2", "train_chars": None, "validation_chars": 5_000}
    assert rows([record("hrm", "none", 1, 11.0, config={"data": longer})])[0].published is None


def test_what_else_sets_variants_apart_is_named():
    records = [
        record(name, memory, seed, 12.0 + seed, config={"model": {"name": name, "update": update}})
        for name, memory in (("hrm", "none"), ("infini_hrm", "carry"))
        for update in ("sequential", "simultaneous")
        for seed in (1, 2)
    ]
    found = rows(records)
    assert [row.settings for row in found] == ["model.update=sequential", "model.update=simultaneous"] * 2
    assert [row.difference_mean for row in found] == [None, None, 0.0, 0.0]


def test_where_wikitext_lies_is_no_variant_but_which_file_is():
    def at(source, path, seed):
        data = {"source": source, "path": path, "train_chars": 20_000, "validation_chars": 5_000}
        return record("hrm", "none", seed, 11.0, config={"data": data})

    assert len(rows([at("wikitext2", None, 1), at("wikitext2", "/mine", 2)])) == 1
    assert [row.settings for row in rows([at("text_file", "a.txt", 1), at("text_file", "b.txt", 1)])] == [
        "data.path=a.txt",
        "data.path=b.txt",
    ]


def test_cells_of_a_file_that_was_edited_in_between_are_not_one_variant():
    def of(text, seed, train_chars=20_000):
        data = {"source": "text_file", "path": "a.txt", "train_chars": train_chars}
        return record("hrm", "none", seed, 11.0, config={"data": data}) | {"text": text}

    assert [(row.settings, row.seeds) for row in rows([of("aa", 1), of("aa", 2), of("bb", 1)])] == [
        ("text=aa", 2),
        ("text=bb", 1),
    ]
    assert [row.settings for row in rows([of("aa", 1), of("bb", 1, train_chars=100_000)])] == [
        "data.train_chars=20000",
        "data.train_chars=100000",
    ]


def test_one_seed_has_no_standard_deviation():
    (row,) = rows(SWEEP[:1])
    assert row.validation_sd is None
    assert "±" not in results(SWEEP[:1]).markdown().split("\n\n")[1]


def test_csv_and_markdown_say_the_same(tmp_path):
    markdown, table = written(SWEEP, tmp_path)
    lines = [line for line in markdown.read_text().split("\n\n")[1].splitlines() if line.startswith("| ")]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) - 2 == len(rows) == 2
    for line, row in zip(lines[2:], rows, strict=True):
        assert f"{float(row['validation_mean']):.2f}" in line
        assert row["model"] in line


def test_results_are_in_the_order_of_their_ranks_and_what_is_not_causal_comes_last():
    records = [
        record("hrm", "none", 1, 1.13, causal=False),
        record("infini_hrm", "carry", 1, 12.0),
        record("infini_hrm", "reset", 1, 11.0),
    ]
    table = results(records)
    assert list(table.data["rank"]) == ["1", "2", ""]
    assert table.faint == [False, False, True]
    assert [row.rank for row in rows(records)] == [None, 2, 1]  # results.csv keeps the order of models and memories


def test_the_caption_says_which_characters_are_scored_and_a_table_what_n_gram_models_reach():
    assert "Perplexity per character" in results(SWEEP).caption
    assert "4,992 validation and 4,992 test characters of wikitext2" in results(SWEEP).caption
    assert baselines(SWEEP).to_numpy().tolist() == [
        ["wikitext2, 20,000 characters", "unigram", "23.00", "28.00"],
        ["wikitext2, 20,000 characters", "kneser_ney_7, within the window", "7.60", "6.60"],
        ["wikitext2, 20,000 characters", "kneser_ney_7, updated as it reads", "5.20", "5.20"],
    ]


def test_the_exact_levels_of_a_task_are_those_of_each_split():
    of_task = record("hrm", "none", 1, 9.0)
    for split, level in (("validation", 1.07), ("test", 2.49)):
        counts = {name: {**ways, "sample": 9.0} for name, ways in of_task["floors"][split].items()}
        of_task["floors"][split] = {"own_window": {"exact": level}} | counts
    table = baselines([of_task])
    assert table[table["n-gram model"] == "own window"].to_numpy().tolist()[0][2:] == ["1.07", "2.49"]


def test_texts_of_several_lengths_are_scored_once_and_each_has_its_baselines():
    longer = record("hrm", "none", 1, 9.0)
    data = {**longer["config"]["data"], "train_chars": 100_000}
    longer["config"] = {**longer["config"], "data": data}
    longer["floors"] = json.loads(json.dumps(longer["floors"]).replace("23.0", "22.0"))
    assert results([*SWEEP, longer]).caption.count("4,992 validation") == 1
    table = baselines([longer, *SWEEP])
    unigrams = table[table["n-gram model"] == "unigram"]
    assert list(unigrams["training text"]) == [f"wikitext2, {length} characters" for length in ("20,000", "100,000")]
    assert list(unigrams.validation) == ["23.00", "22.00"]


def test_a_narrow_terminal_loses_no_figure(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")
    cli.show(results(SWEEP))
    assert "…" not in capsys.readouterr().out


def test_names_are_shown_as_they_are_whatever_they_say(capsys):
    cli.show(results([record("[/bold]hrm[red]", "none", 1, 12.0, experiment="[/x]")]))
    assert "[/bold]hrm[red]" in capsys.readouterr().out


def test_the_picture_shows_every_variant_and_is_the_same_each_time(tmp_path):
    first = picture(SWEEP, tmp_path / "first.svg")
    again = picture(SWEEP, tmp_path / "again.svg")
    assert first == again
    for text in (
        "hrm_vs_infini",
        "infini_hrm carry (not causal)",
        "published",
        "unigram model",
        "validation perplexity",
    ):
        assert text in first


def test_sweeps_without_published_figures_have_a_picture_too(tmp_path):
    text = picture([record("hrm", "none", 1, 11.0, experiment="custom")], tmp_path / "results.svg")
    assert "custom" in text
    assert "published" not in text


def test_enough_seeds_have_an_interval_and_a_p_that_holm_has_adjusted(tmp_path):
    records = [
        record(name, memory, seed, 11.0 + 0.01 * seed + more)
        for name, memory, more in (("hrm", "none", 0.0), ("infini_hrm", "carry", 0.05), ("hrm_memory", "carry", 0.001))
        for seed in range(8)
    ]
    hrm, infini, _ = rows(records)
    assert hrm.p_holm is None
    sides = ([11.0 + 0.01 * seed + more for seed in range(8)] for more in (0.05, 0.0))
    assert infini.p_holm == pytest.approx(2 * stats.ttest_ind(*sides, equal_var=False).pvalue)  # twice for two rows
    assert "+0.05 [+0.02, +0.08] (+0.5 %)" in results(records).markdown()
    _, path = written(records, tmp_path)
    with path.open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert float(row["difference_mean"]) == pytest.approx(0.05)
    assert float(row["p_holm"]) == pytest.approx(infini.p_holm)


def test_a_text_too_long_for_its_n_grams_is_named_and_drawn_without_them(tmp_path):
    long = record("hrm", "none", 1, 11.0)
    long["floors"] = {split: {"unigram": {"full": 23.0, "adaptive": 22.9}} for split in ("validation", "test")}
    assert "not counted here" in baselines([long])["n-gram model"][1]
    text = picture([long], tmp_path / "results.svg")
    assert "unigram model" in text
    assert "n-gram model" not in text


def test_texts_of_one_source_and_another_content_are_told_apart(tmp_path):
    short, long = record("hrm", "none", 1, 11.0), record("hrm", "none", 1, 9.0)
    long["floors"] = {"validation": counted(22.0, 6.1), "test": counted(27.0, 5.1)}
    assert {"23.00", "22.00"} <= set(baselines([short, long]).validation)
    both, one = (picture(records, tmp_path / "x.svg") for records in ([short, long], [short]))
    assert both.count("unigram model") == one.count("unigram model")  # named once


def test_cells_of_two_versions_of_the_code_are_named():
    assert "versions of the code" not in results(SWEEP).caption
    mixed = [SWEEP[0] | {"code": "other"}, *SWEEP[1:]]
    assert "The cells of hrm were made by 2 versions of the code; force=true runs them again" in results(mixed).caption


def test_the_table_says_which_memory_is_of_unrelated_text_and_from_how_many_seeds_there_is_an_interval():
    records = made_up.sweep(seeds=range(42, 45))
    caption = results(records).caption
    assert "In training, the memory of infini_hrm carry is of unrelated text (data.order=shuffled)." in caption
    assert f"A difference has an interval from {MIN_SEEDS} seeds on." in caption
    for each in records:
        each["config"]["data"]["order"] = "contiguous"
    assert "unrelated" not in results(records).caption
    assert "has an interval from" not in results(made_up.sweep()).caption


def test_the_parts_of_a_sweep_are_computed_once(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(frame, "variants", lambda *args, made=frame.variants: calls.append(1) or made(*args))
    written(SWEEP, tmp_path)
    assert len(calls) == 1


def test_a_memory_is_worth_what_perplexity_rises_by_without_it():
    for table in tables.memory_use(Sweep.of(made_up.sweep()).whole):  # whose empty memories cost 2 %
        assert all("(+2.00 % [+2.00, +2.00])" in text for text in table.data["empty − own, by seed"])


def test_a_text_and_its_characters_in_another_order_are_not_ranked_together():
    records = [made_up.record("model=hrm", perplexity=9.0), made_up.record("model=lstm", perplexity=12.0)]
    assert [*Sweep.of(records).whole.variants["rank"]] == [1, 2]
    records[0]["text"], records[1]["text"] = "a text", "its characters, shuffled"
    assert [*Sweep.of(records).whole.variants["rank"]] == [1, 1]


def test_the_cost_of_a_variant_is_the_median_over_its_seeds():
    records = [record("hrm", "none", seed, 11.0) | {"seconds": 10.0 ** (seed - 41)} for seed in (42, 43, 44)]
    assert set(tables.cost(Sweep.of(records).whole).data["seconds per cell"]) == {"100"}


def test_the_leak_that_is_shown_is_the_largest_of_all_seeds_and_of_both_audits():
    sizes = {42: (0.0, 0.25), 43: (0.0, 0.0), 44: (0.125, 0.0)}
    records = [
        record("hrm", "none", seed, 11.0, causal=False)
        | {"leak": {name: {"perturbation": size, "gradient": size / 2} for name, size in zip("ab", both, strict=True)}}
        for seed, both in sizes.items()
    ]
    shown = tables.leaks(Sweep.of(records).whole).data
    assert (*shown["by perturbation"], *shown["by gradient"]) == ("0.25", "0.12")


def test_the_best_ngram_model_is_chosen_on_validation_and_not_on_test():
    one = record("hrm", "none", 42, 11.0)
    one["floors"] = {"validation": counted(23.0, 7.6), "test": counted(28.0, 13.0)}
    assert facts.ngram(one, "window") == ("kneser_ney_7", 7.6, 13.0)


def test_validation_and_not_test_says_whether_a_run_left_the_plateau():
    stuck, left = (record("hrm", "none", 42, perplexity) for perplexity in (22.0, 11.0))
    stuck["test"], left["test"] = left["test"], stuck["test"]
    assert facts.is_on_plateau(stuck)
    assert not facts.is_on_plateau(left)


def test_a_search_gains_on_its_first_finished_trial():
    trials = [{"values": {}, "perplexity": value, "cell": ""} for value in (None, 10.0, 12.0, 8.0)]
    assert extras.gains(trials) == [(2, 0.0), (3, 0.0), (4, pytest.approx(20.0))]


def test_of_two_records_with_one_seed_the_later_one_counts():
    (row,) = rows([record("hrm", "none", 42, perplexity) for perplexity in (11.0, 13.0)])
    assert (row.seeds, row.validation_mean) == (1, pytest.approx(13.0))
