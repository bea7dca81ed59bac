"""Records as tables for notebooks, two sweeps side by side, commands from records. The records are made up here."""

import copy
import functools
import json
import math
import shlex

import hydra
import pytest
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.config.compose import conf_folder
from hrm_bench.config.identity import identity
from hrm_bench.errors import UsageError
from hrm_bench.evidence.measures import score
from hrm_bench.records.schema import SCHEMA_VERSION
from hrm_bench.report import __main__ as report
from hrm_bench.report import compare, rerun
from hrm_bench.report.load import load

TEXT = "the fingerprint of a text"


def counted(unigram, ngram):
    return {
        "unigram": {"full": unigram, "adaptive": unigram},
        "kneser_ney_3": {"full": ngram, "window": ngram, "adaptive": ngram - 1},
    }


@functools.cache
def composed(*words):
    return OmegaConf.to_container(hrm_bench.compose(*words), resolve=True)


def record(*words, perplexity=12.0, seed=42, memory=None, causal=True):
    """A finished record as run.py writes it, of a cell that these words compose, with made-up figures."""
    config = copy.deepcopy(composed(*words)) | {"seed": seed}
    remembers = config["model"]["name"] in {"infini_hrm", "hrm_memory"}
    memory = memory or (config["memory"]["mode"] if remembers else "none")
    figures = score(math.log(perplexity), characters=4992, words=997)
    leak = {"perturbation": 0.0 if causal else 0.3, "gradient": 0.0 if causal else 0.01}
    history = [
        {
            "epoch": epoch,
            "train_nll": math.log(perplexity) + 1 / epoch,
            "validation_nll": math.log(perplexity) + 0.8 / epoch - 0.2,
            "validation_perplexity": perplexity * math.exp(0.8 / epoch - 0.2),
            "seconds": 1.0 * epoch,
        }
        | ({"memory_share": 0.5 - 0.02 * epoch, "memory_norm": 10.0 + epoch} if memory != "none" else {})
        for epoch in range(1, 5 + seed % 3)
    ]
    made = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity(OmegaConf.create(config), TEXT),
        "code": "c0de",
        "status": "finished",
        "config": config,
        "model": config["model"]["name"],
        "memory": memory,
        "seed": seed,
        "parameters": 152_064,
        "versions": {"hrm_bench": "0.1.0", "torch": "2.13.0"},
        "history": history,
        "best_epoch": 4,
        "validation": figures,
        "test": figures,
        "gradient_coverage": {"embedding": ["task"], "levels.0": ["OACD"], "q_head": []},
        "leak": {"before_training": leak, "best": leak},
        "causal": causal,
        "bits_by_position": {split: [5.0 - 0.02 * place for place in range(64)] for split in ("validation", "test")},
        "state_size": 1088 if memory != "none" else 0,
        "flops_per_character": 530_000.0,
        "floors": {"validation": counted(23.0, 7.6), "test": counted(28.0, 6.6)},
        "seconds": 20.0,
        "train_seconds": 15.0,
        "characters_per_second": 18_000.0,
        "peak_memory": 1_100_000_000,
        "wandb": "offline",
    }
    if memory != "none":
        use = {"own": perplexity, "zeroed": perplexity * 1.02, "another_lane": perplexity * 1.03}
        made["memory_use"] = {"validation": use, "test": use}
    return made


def sweep(*, experiment="hrm_vs_infini", seeds=range(42, 48), more=0.0, extra=()):
    """HRM, and Infini-HRM in both memory modes; the carried one sits on the plateau in its first seed."""
    made = []
    for number, words in enumerate(
        (("model=hrm",), *(("model=infini_hrm", f"memory={m}") for m in ("reset", "carry")))
    ):
        for seed in seeds:
            perplexity = 11.0 + 0.3 * number + 0.05 * (seed % 5) + 0.01 * number * (seed % 3) + more
            if number == 2 and seed == min(seeds):
                perplexity = 22.9
            made.append(record(f"experiment={experiment}", *words, *extra, perplexity=perplexity, seed=seed))
    return made


def failed(made):
    """The record of a cell that failed, from that of one that did not."""
    kept = ("schema_version", "identity", "config", "model", "memory", "seed", "parameters", "versions")
    return {key: made[key] for key in kept} | {"status": "failed", "reason": "RuntimeError: planted", "log": "log.txt"}


def write(records, folder):
    """The records in a sweep's folder."""
    for each in records:
        cell = folder / f"{each['model']}-{each['memory']}-seed{each['seed']}"
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps(each))
    return folder


def test_cells_have_a_row_each_with_figures_floors_and_every_setting(tmp_path):
    records = sweep()
    records[1] = failed(records[1])
    cells, _ = load(write(records, tmp_path / "mine"))
    assert len(cells) == len(records)
    row = cells[(cells.memory == "carry") & (cells.seed == 42)].iloc[0]
    assert (row.experiment, row.model, row.sweep, row.status) == ("hrm_vs_infini", "infini_hrm", "mine", "finished")
    assert row.validation_perplexity == pytest.approx(22.9)
    assert row.test_bits_per_character == pytest.approx(math.log2(22.9))
    assert (row.validation_unigram, row.validation_ngram, row.test_ngram, row.ngram) == (23.0, 7.6, 6.6, "kneser_ney_3")
    assert row.on_plateau
    assert (row["data.order"], row["memory.write"], row["recipe.patience"]) == ("shuffled", "after_window", 3)
    assert row.validation_memory_zeroed == pytest.approx(22.9 * 1.02)
    assert not cells[(cells.memory == "reset")].on_plateau.any()
    broken = cells[cells.status == "failed"].iloc[0]
    assert broken.reason == "RuntimeError: planted"
    assert math.isnan(broken.validation_perplexity)
    assert sorted(cells.columns) == sorted(set(cells.columns))


def test_the_history_has_a_row_an_epoch_that_names_its_cell(tmp_path):
    records = sweep(seeds=(42, 43))
    _, history = load(str(write(records, tmp_path / "mine")))
    assert len(history) == sum(len(each["history"]) for each in records)
    mine = history[history.identity == records[-1]["identity"]]
    assert list(mine.epoch) == list(range(1, len(records[-1]["history"]) + 1))
    assert set(mine.memory) == {"carry"}
    assert mine.memory_share.notna().all()
    assert history[history.model == "hrm"].memory_share.isna().all()


def test_the_folder_above_several_sweeps_gives_all_of_them(tmp_path):
    write(sweep(seeds=(42,)), tmp_path / "first")
    write(sweep(seeds=(43, 44)), tmp_path / "second")
    cells, _ = load(tmp_path)
    assert cells.groupby("sweep").size().to_dict() == {"first": 3, "second": 6}


def test_a_folder_without_records_is_told_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no records here"):
        load(tmp_path / "nothing")


def test_two_sweeps_are_matched_cell_by_cell():
    ours, theirs = sweep(seeds=range(42, 48)), sweep(seeds=range(43, 50), more=0.5)
    (found,) = compare.compare({"A": ours, "B": theirs})
    by_variant = {each.variant: each for each in found.pairings}
    assert list(by_variant) == ["hrm", "infini_hrm reset", "infini_hrm carry"]
    hrm = by_variant["hrm"]
    assert (hrm.pairs, hrm.first_alone, hrm.second_alone) == (5, 1, 2)
    assert hrm.difference.mean == pytest.approx(0.5)  # each seed against itself: what sets seeds apart drops out
    assert hrm.difference.low == pytest.approx(0.5)
    assert hrm.p_holm == pytest.approx(3 * hrm.difference.p)
    assert hrm.first_mean == pytest.approx(sum(11.0 + 0.05 * (seed % 5) for seed in range(42, 48)) / 6)


def test_what_all_of_a_sweep_have_in_common_does_not_keep_cells_apart_and_is_told():
    ours, theirs = sweep(), sweep(extra=("recipe.patience=5",), more=-0.2)
    (found,) = compare.compare({"A": ours, "B": theirs})
    assert [each.pairs for each in found.pairings] == [6, 6, 6]
    assert found.differing == ["recipe.patience (3 → 5)"]
    assert "recipe.patience (3 → 5)" in compare.markdown([found])


def test_that_two_sweeps_read_different_characters_is_told_where_both_know_theirs():
    ours, theirs = ([each | {"text": text} for each in sweep()] for text in ("aa", "bb"))
    assert compare.compare({"A": ours, "B": theirs})[0].differing == ['text ("aa" → "bb")']
    assert compare.compare({"A": ours, "B": ours})[0].differing == []
    assert compare.compare({"A": ours, "B": sweep()})[0].differing == []


def test_what_tells_variants_of_a_sweep_apart_keeps_cells_apart():
    ours = [*sweep(), *sweep(extra=("recipe.patience=5",), more=1.0)]
    (found,) = compare.compare({"A": ours, "B": sweep(extra=("recipe.patience=5",))})
    pairs = {each.variant: (each.pairs, each.first_alone) for each in found.pairings}
    assert pairs["hrm recipe.patience=3"] == (0, 6)
    assert pairs["hrm recipe.patience=5"] == (6, 0)


def test_more_than_two_sweeps_are_each_set_against_the_first(tmp_path):
    found = compare.compare({"A": sweep(), "B": sweep(more=0.5), "C": sweep(more=1.0)})
    assert [(each.first, each.second) for each in found] == [("A", "B"), ("A", "C")]
    assert found[1].pairings[0].difference.mean == pytest.approx(1.0)
    markdown, table = compare.write(found, tmp_path)
    assert len(table.read_text().splitlines()) == 1 + 2 * 3
    assert markdown.read_text().count("| hrm |") == 2


def test_cells_that_are_not_causal_are_marked_beside_those_that_are():
    leaky = [each | {"causal": each["model"] == "hrm"} for each in sweep()]
    (found,) = compare.compare({"A": sweep(), "B": leaky})
    _, lines = compare.grid(found)
    assert [line[0] for line in lines] == ["hrm", *(f"infini_hrm {m} (not causal in B)" for m in ("reset", "carry"))]


def test_the_report_of_two_folders_sets_them_side_by_side(tmp_path, capsys):
    first, second = write(sweep(), tmp_path / "first"), write(sweep(more=0.5), tmp_path / "second")
    assert report.main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "second against first" in printed
    for path in (
        "first/report.html",
        "first/plots",
        "second/results.md",
        "comparison.csv",
        "verdicts.md",
        "report.html",
    ):
        assert (tmp_path / path).exists()
        assert str(tmp_path / path) in printed
    assert "Side by side" in (tmp_path / "report.html").read_text()
    assert "Side by side" not in (first / "report.html").read_text()


def test_a_folder_that_is_not_there_or_has_nothing_finished_is_told_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        report.main([str(tmp_path / "nothing")])
    folder = write([failed(record("model=hrm"))], tmp_path / "broken")
    with pytest.raises(UsageError, match="no finished cells here"):
        report.main([str(folder)])


@pytest.mark.parametrize(
    "words",
    [
        ["model=hrm"],
        ["model=infini_hrm", "memory=carry", "data=sample", "recipe.learning_rate=0.0005"],
        ["experiment=hrm_vs_infini_as_published", "model=infini_hrm", "memory=carry"],
        ["experiment=hierarchy", "model=hrm_1level", "model.gradient_depth=2"],
        ["experiment=memory_matrix", "model=hrm_memory", "memory=none", "data.order=contiguous"],
        ["experiment=demo", "model=hrm", "memory=carry", "data.train_chars=null"],
        ["model=hrm", "memory=carry", "model.periods=[1,4]", "model.num_timesteps=4", "experiment.name=mine"],
        ["model=lct_2layer", "data=text_file", "data.path=/a b/it's.txt", "model.objective.head_steps=2"],
    ],
)
def test_the_command_of_a_row_composes_the_same_cell_again(words):
    made = [record(*map(quoted, words), seed=seed) for seed in (3, 4)]
    command = shlex.split(rerun.command(made))
    assert command[:4] == ["python", "-m", "hrm_bench", "-m"]
    assert command[-1] == "seed=3,4"
    cfg = hrm_bench.compose(*command[4:-1], "seed=4")
    assert identity(cfg, TEXT) == made[1]["identity"]
    assert cfg.experiment.name == made[1]["config"]["experiment"]["name"]
    assert cfg.data.source == made[1]["config"]["data"]["source"]
    assert shlex.split(rerun.command(made[:1]))[:3] == ["python", "-m", "hrm_bench"]
    assert "-m" not in shlex.split(rerun.command(made[:1]))[3:]


def quoted(word):
    key, _, value = word.partition("=")
    return f'{key}="{value}"' if " " in value else word


def test_a_model_that_conf_no_longer_has_gets_no_command():
    gone = record("model=hrm")
    gone["config"]["model"]["name"] = "gone"
    assert rerun.command([gone]) is None


def test_a_command_is_found_inside_of_hydra_too_where_a_sweep_ends():
    made = [record("experiment=hierarchy", "model=hrm_1level")]
    outside = rerun.command(made)
    rerun._composed.cache_clear()
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        assert rerun.command(made) == outside
        assert hydra.core.global_hydra.GlobalHydra.instance().is_initialized()
