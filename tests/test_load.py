"""Records as tables for notebooks, two sweeps side by side, and the command. The records are made up."""

import math
import shlex
import subprocess
import sys

import pytest
from made_up import TEXT, failed, record, sweep, write

import hrm_bench
from hrm_bench import cli, load
from hrm_bench.config.identity import identity
from hrm_bench.errors import UsageError
from hrm_bench.records import archive
from hrm_bench.report import __main__ as report
from hrm_bench.report import summaries, tables
from hrm_bench.report.frame import Sweep


def compared(*sweeps):
    """The tables and the figures of sweeps against the first, which is called A."""
    first, *others = (Sweep.of(records, name) for records, name in zip(sweeps, "ABC", strict=False))
    return [summaries.compare(first, other) for other in others]


def pairs(figures):
    return {row.variant: (row.pairs, row.first_alone, row.second_alone) for row in figures.itertuples()}


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


def test_an_archive_is_read_without_unpacking(tmp_path):
    folder = write(sweep(seeds=(42, 43)), tmp_path / "mine")
    archive.pack(folder, tmp_path / "kept" / "mine.jsonl")
    cells, history = load(tmp_path / "kept" / "mine.jsonl")
    again, epochs = load(folder)
    paths = "data.path"  # which an archive leaves out, since it is of one machine
    assert cells.drop(columns=paths).equals(again.drop(columns=paths))
    assert set(cells[paths]) == {None}
    assert history.equals(epochs)
    assert set(cells.sweep) == {"mine"}


def test_two_sweeps_are_matched_cell_by_cell():
    ours, theirs = sweep(seeds=range(42, 48)), sweep(seeds=range(43, 50), more=0.5)
    ((_, figures),) = compared(ours, theirs)
    assert list(figures.variant) == ["hrm", "infini_hrm reset", "infini_hrm carry"]
    hrm = next(figures.itertuples())
    assert (hrm.pairs, hrm.first_alone, hrm.second_alone) == (5, 1, 2)
    assert hrm.difference_mean == pytest.approx(0.5)  # each seed against itself: what sets seeds apart drops out
    assert hrm.difference_low == pytest.approx(0.5)
    assert hrm.p_holm == pytest.approx(3 * hrm.difference_p)
    assert hrm.first_mean == pytest.approx(sum(11.0 + 0.05 * (seed % 5) for seed in range(42, 48)) / 6)


def test_what_all_of_a_sweep_have_in_common_does_not_keep_cells_apart_and_is_named():
    ((table, figures),) = compared(sweep(), sweep(extra=("recipe.patience=5",), more=-0.2))
    assert list(figures.pairs) == [6, 6, 6]
    assert "recipe.patience (3 → 5)" in table.caption
    assert table.caption in table.markdown()


def test_that_two_sweeps_read_different_characters_is_named_if_both_records_know_theirs():
    ours, theirs = ([each | {"text": text} for each in sweep()] for text in ("aa", "bb"))
    ((table, _),) = compared(ours, theirs)
    assert 'differ in text ("aa" → "bb")' in table.caption
    for other in (ours, sweep()):
        ((table, _),) = compared(ours, other)
        assert "differ in nothing that is recorded" in table.caption


def test_what_tells_variants_of_a_sweep_apart_keeps_cells_apart():
    ours = [*sweep(), *sweep(extra=("recipe.patience=5",), more=1.0)]
    ((table, figures),) = compared(ours, sweep(extra=("recipe.patience=5",)))
    assert pairs(figures)["hrm recipe.patience=3"] == (0, 6, 0)
    assert pairs(figures)["hrm recipe.patience=5"] == (6, 0, 0)
    assert table.data.variant[0] == "hrm recipe.patience=5"  # what is paired comes first


def test_more_than_two_sweeps_are_each_set_against_the_first():
    found = compared(sweep(), sweep(more=0.5), sweep(more=1.0))
    assert [table.title for table, _ in found] == ["B against A", "C against A"]
    assert found[1][1].difference_mean[0] == pytest.approx(1.0)


def test_cells_that_are_not_causal_are_marked_beside_those_that_are():
    leaky = [each | {"causal": each["model"] == "hrm"} for each in sweep()]
    ((table, _),) = compared(sweep(), leaky)
    assert list(table.data.variant) == ["hrm", *(f"infini_hrm {m} (not causal in B)" for m in ("reset", "carry"))]
    assert table.faint == [False, True, True]


def test_the_report_of_two_folders_sets_them_side_by_side(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = write(sweep(), tmp_path / "first"), write(sweep(more=0.5), tmp_path / "second")
    assert report.main([str(first), str(second)]) == 0
    printed = capsys.readouterr().out
    assert "second against first" in printed
    for path in (
        *("first/report.html", "first/plots", "first/results.svg", "second/results.md"),
        *(f"multirun/{name}" for name in ("comparison.csv", "comparison.md", "verdicts.md", "report.html")),
    ):
        assert (tmp_path / path).exists()
        assert path in printed
    assert "Side by side" in (tmp_path / "multirun" / "report.html").read_text()
    assert "Side by side" not in (first / "report.html").read_text()


def test_the_report_of_an_archive_is_that_of_its_folder(tmp_path):
    folder = write(sweep(), tmp_path / "mine")
    archive.pack(folder, tmp_path / "kept" / "mine.jsonl")
    for path in (folder, tmp_path / "kept" / "mine.jsonl"):
        report.main([str(path)])
    for name in ("results.csv", "results.md", "results.svg", "report.html"):
        assert (folder / name).read_bytes() == (tmp_path / "kept" / "mine" / name).read_bytes()


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(report.main, report.HELP, ["--help"])
    assert ended.value.code == 0
    assert "python -m hrm_bench.report [PATH ...]" in capsys.readouterr().out


def test_a_folder_that_is_missing_or_has_nothing_finished_is_told_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        report.main([str(tmp_path / "nothing")])
    folder = write([failed(record("model=hrm"))], tmp_path / "broken")
    with pytest.raises(UsageError, match="no finished cells here"):
        report.main([str(folder)])


@pytest.mark.parametrize(
    "words",
    [
        ["model=hrm"],
        ["experiment=hrm_vs_infini_as_published", "model=infini_hrm", "memory=carry"],
        ["model=lct_2layer", "data=text_file", "data.path='/a b/mine.txt'", "model.objective.head_steps=2"],
    ],
)
def test_the_command_of_a_variant_composes_the_same_cell_again(words):
    made = [record(*words, seed=seed) for seed in (3, 4)]
    row = tables.commands(Sweep.of(made).studies[0]).data.iloc[-1]
    command = shlex.split(row.command)
    assert command[:4] == ["python", "-m", "hrm_bench", "-m"]
    assert command[-1] == "seed=3,4"
    cfg = hrm_bench.compose(*command[4:-1], "seed=4")
    assert identity(cfg, TEXT) == made[1]["identity"]
    assert cfg.experiment.name == made[1]["config"]["experiment"]["name"]
    alone = shlex.split(tables.commands(Sweep.of(made[:1]).studies[0]).data.command.iloc[-1])
    assert "-m" not in alone[3:]


def test_the_command_of_a_record_without_words_is_not_made_up():
    bare = record("model=hrm")
    del bare["overrides"]
    assert "not known" in tables.commands(Sweep.of([bare]).studies[0]).data.command[0]


def test_the_report_loads_nothing_that_trains_or_composes():
    modules = "torch", "hydra", "lightning", "omegaconf", "rich", "hrm_bench.config"
    script = f"import sys, hrm_bench.report.__main__; print([name for name in {modules} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_number_that_is_new_in_records_is_a_column_and_may_be_one_of_the_costs(tmp_path, monkeypatch):
    records = [cell | {"worst_position": float(cell["seed"])} for cell in sweep(seeds=(42, 43, 45))]
    cells, _ = load(write(records, tmp_path / "mine"))
    assert cells.worst_position.tolist() == cells.seed.tolist()
    columns = tables.TEXTS["cost"]["columns"] | {"worst": "{worst_position:.1f}"}
    monkeypatch.setitem(tables.TEXTS, "cost", tables.TEXTS["cost"] | {"columns": columns})
    assert set(tables.cost(Sweep.of(records).whole).data.worst) == {"43.0"}
