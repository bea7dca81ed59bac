"""The benchmarks: what they compare, their statistics, and the tables that they leave. No speed is asserted."""

import importlib.util
import json

import pytest
import torch
from conftest import MODELS, compose, random_batch, small, train
from reference.layers import attend
from reference.training import has_reference
from torch import nn

import hrm_bench
from benchmarks import __main__ as bench
from benchmarks import commit, long_text, overhead, peers, steps
from benchmarks.commands import ROOT, python, until
from benchmarks.implementations import check_equal, package, reference_of
from benchmarks.settings import LANES, Settings, training_batches
from benchmarks.table import Part, Row, Table, compare, machine
from benchmarks.timing import WARM_UP, Device, Quartiles, interleave, quartiles, ratios
from hrm_bench.errors import UsageError
from hrm_bench.evidence import probes
from hrm_bench.training.bare import without_trainer

ONE_THREAD = Device("cpu", 1)
needs_history = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the history of a checkout")
QUICK = Settings(quick=True, models=("hrm", "transformer"), compiled=(), num_seeds=2)


def test_a_bare_loop_trains_as_a_trainer_does():
    batches = [random_batch(4, 8, seed) for seed in range(3)]
    trained, bare = train(small(), batches), small()
    step = without_trainer(bare)
    for batch in batches:
        step(batch)
    for one, other in zip(trained.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


def test_implementations_with_other_losses_are_not_compared():
    config = QUICK.config("hrm")
    batch = next(training_batches(config, ONE_THREAD))
    check_equal({"reference": reference_of(config, ONE_THREAD), "package": package(config, ONE_THREAD)}, batch, batch)
    configs = {"one": config, "other": QUICK.config("hrm", "seed=7")}
    with pytest.raises(ArithmeticError, match="losses of other"):
        check_equal({name: package(each, ONE_THREAD) for name, each in configs.items()}, batch, batch)


def test_the_reference_attends_to_no_later_character():
    values = torch.randn(1, 4, 8)
    changed = torch.cat((values[:, :3], torch.randn(1, 1, 8)), dim=1)
    before, after = (attend(each, each, each, causal=True) for each in (values, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_quartiles_and_ratios_of_known_numbers():
    assert quartiles([5, 1, 2, 3, 4]) == (2, 3, 4)
    assert quartiles([7]) == (7, 7, 7)
    assert quartiles([1, 2]) == (1.25, 1.5, 1.75)
    assert ratios([2, 40, 6], [1, 10, 2]) == (2.5, 3, 3.5)


def test_a_ratio_is_taken_within_each_round():
    slow_then_fast = {"first": [10.0, 1.0, 1.0], "second": [5.0, 0.5, 0.5]}
    row = compare("a step", ONE_THREAD, slow_then_fast, "first", "second", unit="s")
    assert row == Row("a step", "1 thread", Quartiles(2, 2, 2), "first ÷ second", (1, 1, 5.5), (0.5, 0.5, 2.75), "s")


def test_works_take_turns_and_the_first_rounds_are_not_counted():
    done = []
    timings = interleave({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, rounds=3)
    assert "".join(done) == "ab" * (WARM_UP + 3)
    assert {name: len(seconds) for name, seconds in timings.items()} == {"a": 3, "b": 3}
    assert min(min(seconds) for seconds in timings.values()) > 0


def test_a_cell_and_a_bare_loop_take_turns_of_one_epoch():
    logged, done = [], []

    class Log:
        run = "id"

        def log(self, row):
            logged.append(row["epoch"])

    turns = overhead.AlternatingMirror(Log(), lambda: done.append(torch.is_grad_enabled()))
    with torch.no_grad():  # as in the cell's validation
        for epoch in (1, 2):
            turns.log({"epoch": epoch})
    assert (logged, done) == ([1, 2], [True, True])
    assert {name: len(seconds) for name, seconds in turns.seconds.items()} == {"cell": 2, "bare loop": 2}


def test_a_step_has_three_times_the_operations_of_reading():
    config = QUICK.config("transformer")  # one segment, with gradient throughout
    model = hrm_bench.build(config)
    assert steps.step_flops(config) == pytest.approx(3 * probes.flops_per_character(model) * LANES * model.window)


def test_a_quick_run_prints_its_table_and_saves_it(tmp_path, capsys):
    out = tmp_path / "bench"
    assert bench.main(["quick=true", "parts=steps", "models=hrm,lstm", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "hrm, training step" in printed
    assert "Quick run" in printed
    rows = json.loads((out / "bench.json").read_text())["parts"]["steps"]["rows"]
    compared = ["reference ÷ package", "package ÷ torch.mm", "reference ÷ package"]
    assert [row["of"] for row in rows] == [*compared, compared[0], compared[0]]
    for row in rows:
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    markdown = (out / "bench.md").read_text()
    assert markdown.count("\n| ") == len(rows) + 2  # headings and ruler
    assert markdown in printed


def test_a_part_that_breaks_off_is_named_and_the_others_go_on(tmp_path):
    def broken(settings):
        yield compare("a step", ONE_THREAD, {"a": [1.0], "b": [2.0]}, "a", "b", unit="s")
        raise RuntimeError("no more")

    def sound(settings):
        yield "nothing to measure"

    parts = {"broken": bench.Measurement("how?", broken), "sound": bench.Measurement("why?", sound)}
    table, complete = bench.run(parts, QUICK, tmp_path)
    assert not complete
    assert len(table.parts["broken"].rows) == 1
    saved = json.loads((tmp_path / "bench.json").read_text())["parts"]
    assert saved["broken"]["remarks"] == ["Broken off by RuntimeError: no more"]
    assert saved["sound"]["remarks"] == ["nothing to measure"]


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("parts=step", "parts=step: allowed are all, steps, overhead"),
        ("models=hmr", "models=hmr: allowed are all, .*hrm"),
        ("compiled=hmr", "compiled=hmr: allowed are none"),
        ("quick=yes", "quick=yes: allowed are true, false"),
        ("seeds=0", "seeds=0: must be at least 1"),
        ("model=hrm", "model: no such key; .* did you mean models?"),
        ("against=HEAD parts=steps", "against=HEAD: is of the part commit, which is not asked for; add it to parts"),
        ("out=README.md", "out=README.md: a file; give a folder"),
        ("parts=commit", "parts=commit: compares with a commit; add against=COMMIT"),
        ("against=nowhere", "against=nowhere: this checkout has no such commit; git log --oneline lists them"),
    ],
)
def test_a_wrong_word_is_one_line(word, fault):
    with pytest.raises(UsageError, match=fault) as error:
        bench.parse(word.split())
    assert len(error.value.faults) == 1


def test_words_choose_parts_models_and_what_is_compiled():
    words = ["parts=sweep,steps", "models=lstm,hrm", "compiled=hrm", "seeds=4", "out=there"]
    parts, settings, out = bench.parse(words)
    assert (parts, str(out)) == (["steps", "sweep"], "there")
    assert settings == Settings(quick=False, models=("lstm", "hrm"), compiled=("hrm",), num_seeds=4)
    assert settings.is_compiled("hrm", ONE_THREAD)
    parts, settings, _ = bench.parse([])
    assert parts == [part for part in bench.PARTS if part != "commit"]  # which needs a commit
    known = [name for name in MODELS if has_reference(compose("data=sample", f"model={name}"))]
    classes = {name: compose("data=sample", f"model={name}").model._target_ for name in known}
    assert {classes[name] for name in settings.models} == set(classes.values())
    assert list(bench.parse(["models=all"])[1].models) == MODELS
    assert not bench.parse(["compiled=none"])[1].is_compiled("hrm", ONE_THREAD)


@needs_history
def test_another_commits_code_runs_beside_this_one_and_is_removed(tmp_path):
    with commit.checked_out(commit.resolved("HEAD")) as folder:
        for root in (ROOT, folder):
            _, printed = python("-c", "import hrm_bench; print(hrm_bench.__file__)", cwd=tmp_path, root=root)
            assert printed.strip() == str(root / "hrm_bench" / "__init__.py")
    assert not folder.exists()
    assert str(folder) not in commit._git("worktree", "list").stdout


@pytest.mark.slow
@needs_history
def test_a_sweep_takes_turns_with_another_commits():
    (row,) = commit.measure(bench.parse(["quick=true", "against=HEAD"])[1])
    assert row.of.startswith("this ÷ ")
    assert 0.3 < row.ratio.median < 3


def test_a_peer_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    remarks = list(peers.measure(QUICK))
    assert remarks == [f"{peer.package} is not installed; pip install 'hrm_bench[peers]'" for peer in peers.PEERS]


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.package)
def test_a_peer_has_as_many_parameters_as_our_model(peer):
    pytest.importorskip(peer.module)
    for name in peer.models:
        config = QUICK.config(name)
        size = peers.num_parameters(hrm_bench.build(config))
        model = peers.fitted(lambda width, config=config: peer.build(config, 97, width), size)
        assert peers.num_parameters(model) == pytest.approx(size, rel=peers.TOLERANCE)
        assert model(random_batch(2, 8)[0]).shape == (2, 8, 97)


def test_a_peer_that_cannot_be_as_small_is_refused():
    assert peers.num_parameters(peers.fitted(lambda width: nn.Linear(width, 10), 1010)) == 1010
    with pytest.raises(ArithmeticError, match="parameters instead of 25"):
        peers.fitted(lambda width: nn.Linear(width, 10), 25)


def test_a_long_text_is_read_with_the_memory_of_all_windows_before(monkeypatch):
    model = small("model=infini_hrm", "memory=carry").eval()
    norms = []
    segment = model.segment

    def noted(tokens, state, memory, index):
        norms.append(float(memory[0].matrix.norm()))
        return segment(tokens, state, memory, index)

    monkeypatch.setattr(model, "segment", noted)
    long_text.read(model, 3)
    assert norms[::2] == norms[1::2] == sorted(set(norms))  # both segments of a window read the same, and it grows
    assert long_text.reading("transformer", 4, 8) == (1, ["data.window=32"])


def test_a_command_is_timed_until_something_happens_and_then_stopped(tmp_path):
    seconds, printed = python("-c", "print('done')", cwd=tmp_path)
    assert (seconds > 0, printed) == (True, "done\n")
    file = tmp_path / "file"
    assert 0 < until(file.exists, "-c", f"open({str(file)!r}, 'w'); import time; time.sleep(60)", cwd=tmp_path) < 30
    with pytest.raises(RuntimeError, match="did not come to its first step"):
        until(lambda: False, "-c", "pass", cwd=tmp_path)


def test_a_row_shows_its_spread_with_three_digits():
    sides = Quartiles(1, 1234.5, 2), Quartiles(1, 0.01234, 2)
    row = Row("a step", "1 thread", Quartiles(1.234, 1.5, 2), "a ÷ b", *sides, "s")
    assert row.cells() == ["a step", "1 thread", "1.5 [1.23, 2]", "a ÷ b", "1,234", "0.0123", "s", ""]
    table = Table(machine(), quick=False, parts={"steps": Part("how long?", rows=[row])})
    assert "\n| a step | 1 thread | 1.5 [1.23, 2] | a ÷ b | 1,234 | 0.0123 | s |  |\n" in table.markdown()


def test_figures_of_a_busy_machine_are_called_provisional():
    two_cores = machine() | {"cores": 2}
    assert "provisional" not in Table(two_cores | {"load": 0.9}, quick=False).caption()
    busy = Table(two_cores | {"load": 1.1}, quick=False).caption()
    assert "busy (load 1.1): these figures are provisional" in busy
