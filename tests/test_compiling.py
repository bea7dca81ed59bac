"""Whether training is compiled is decided once per folder and architecture, said, and changes rounding alone."""

import re

import pytest
import torch
from conftest import FEW, QUICK, can_compile, compose, figures, fitting, quick, stopped_after

from hrm_bench.cells import compiling
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.run import run_cell
from hrm_bench.config.identity import identity
from hrm_bench.records import store

LONG = ("recipe.max_epochs=400", "recipe.patience=null")  # of 4 batches


def cells(folder, *words, seeds=(1, 2)):
    return [Cell.of(compose(*fitting(*QUICK, *FEW, *words, f"seed={seed}")), folder) for seed in seeds]


@pytest.fixture
def slow_steps(monkeypatch):
    """A machine on which a step takes a second, so that every sweep of some length gains."""
    monkeypatch.setattr(compiling, "_seconds_per_window", lambda _: 1.0)


@can_compile
def test_a_short_sweep_is_not_compiled_and_a_long_one_is(tmp_path, slow_steps):
    (short,) = compiling.decide(cells(tmp_path), tmp_path).values()
    assert not short.compiled
    assert re.search(r"model=hrm is not compiled: \d+ batches of windows are soon trained", short.reason)
    (long,) = compiling.decide(cells(tmp_path, *LONG), tmp_path).values()
    assert long.compiled
    assert "model=hrm is compiled: training 2 cells takes about 3,200 s; compiling saves about 544 s" in long.reason


def test_what_is_gained_is_weighed_against_what_compiling_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "_seconds_per_window", lambda _: 0.02)
    (decision,) = compiling.decide(cells(tmp_path, *LONG), tmp_path).values()
    assert not decision.compiled  # 64 seconds of training


@can_compile
def test_a_decision_holds_for_the_folder_whatever_a_later_command_would_decide(tmp_path, slow_steps):
    compiling.decide(cells(tmp_path, *FEW), tmp_path, remembers=True)
    (later,) = cells(tmp_path, *LONG, seeds=(3,))
    compiling.decide([later], tmp_path, remembers=True)
    assert not compiling.is_compiled(later)
    (elsewhere,) = cells(tmp_path / "other", *LONG, seeds=(3,))
    (tmp_path / "other").mkdir()
    compiling.decide([elsewhere], tmp_path / "other", remembers=True)
    assert compiling.is_compiled(elsewhere)


@can_compile
def test_a_decision_holds_when_a_later_command_adds_another_architecture(tmp_path, slow_steps):
    compiling.decide(cells(tmp_path), tmp_path, remembers=True)
    later = [*cells(tmp_path, *LONG, seeds=(3,)), *cells(tmp_path, *LONG, "recipe.batch_size=3")]
    decisions = compiling.decide(later, tmp_path, remembers=True)
    assert [decision.compiled for decision in decisions.values()] == [False, True]
    assert [compiling.is_compiled(cell) for cell in later] == [False, True, True]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("model=lstm",), "it would gain nothing"),
        (("trainer=ddp",), "only trainer.compile=always compiles on GPUs or ranks"),
        (("trainer.numerics=portable",), "trainer.numerics=portable"),
    ],
)
def test_what_is_never_compiled_says_why(words, reason, tmp_path, slow_steps):
    (decision,) = compiling.decide(cells(tmp_path, *LONG, *words), tmp_path).values()
    assert (decision.compiled, decision.reason.partition(": ")[2]) == (False, reason)


def test_without_a_compiler_training_is_not_compiled(tmp_path, slow_steps, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (decision,) = compiling.decide(cells(tmp_path, *LONG), tmp_path).values()
    assert (decision.compiled, decision.reason) == (
        False,
        "model=hrm is not compiled: this machine has neither g++ nor clang++",
    )


def test_a_pytorch_that_keeps_too_little_compiled_code_is_named(tmp_path, slow_steps, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, *, dynamic=None, options=None: model)
    (decision,) = compiling.decide(cells(tmp_path, *LONG), tmp_path).values()
    assert (decision.compiled, decision.reason.partition(": ")[2]) == (
        False,
        f"PyTorch {torch.__version__} cannot keep the compiled code of many models; a later one can",
    )


@can_compile
def test_a_cache_that_cannot_be_written_is_named(tmp_path, slow_steps, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (decision,) = compiling.decide(cells(tmp_path, *LONG), tmp_path).values()
    assert not decision.compiled
    assert f"its cache {tmp_path / 'file' / 'cache'} cannot be written" in decision.reason


def test_seeds_share_an_architecture_and_other_shapes_do_not():
    names = [
        compiling.program(quick(*words))
        for words in ((), ("seed=7",), ("recipe.learning_rate=0.1",), ("recipe.batch_size=3",), ("model.width=8",))
    ]
    assert names[0] == names[1] == names[2]
    assert len({*names}) == 3


def test_how_a_cell_is_compiled_is_no_part_of_its_identity():
    assert len({identity(quick(f"trainer.compile={value}"), "text") for value in ("auto", "never", "always")}) == 1


@can_compile
@pytest.mark.slow
@pytest.mark.parametrize("words", [("recipe.embedding_dropout=0.2",), ("model=infini_hrm", "memory=carry")])
def test_compiled_cells_are_alike_to_the_bit_and_close_to_others(words, tmp_path, monkeypatch):
    compiled, eager = (quick(*FEW, *words, f"trainer.compile={value}") for value in ("always", "never"))
    records = [run_cell(cfg, tmp_path / name) for name, cfg in (("1", compiled), ("2", compiled), ("3", eager))]
    assert [record["compiled"] for record in records] == [True, True, False]
    assert figures(records[0]) == figures(records[1])
    losses = [[row["train_nll"] for row in record["history"]] for record in records]
    torch.testing.assert_close(*map(torch.tensor, losses[1:]), atol=1e-5, rtol=0)
    assert losses[1] != losses[2]
    with monkeypatch.context() as during:
        stopped_after(6, during)
        assert run_cell(compiled, tmp_path / "killed")["status"] == "interrupted"
    assert figures(run_cell(compiled, tmp_path / "killed")) == figures(records[0])
    assert [*store.read_all(tmp_path / "killed")]
