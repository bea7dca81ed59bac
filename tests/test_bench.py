"""The benchmark: its plain models against ours, its statistics, what it prints and leaves. No speed is asserted."""

import importlib.util
import json

import pytest
import torch
from conftest import MODELS, SMALL, fitting, random_batch, small, train
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hrm_bench
from hrm_bench.bench import __main__ as bench
from hrm_bench.bench import matmul, peers, plain_training, reading, subjects
from hrm_bench.bench.processes import python, until
from hrm_bench.bench.settings import LANES, Settings, training_batches
from hrm_bench.bench.table import Row, Table, caption, compare, lines, machine
from hrm_bench.bench.timing import WARM_UP, Place, Quartiles, interleave, quartiles, ratios
from hrm_bench.errors import UsageError
from hrm_bench.evidence import probes

ONE_THREAD = Place("cpu", 1)
QUICK = Settings(quick=True, models=("hrm", "transformer"), compiled=(), seeds=2)


@pytest.mark.parametrize("name", MODELS)
def test_a_plain_model_has_our_losses_and_our_gradients(name):
    cfg = hrm_bench.compose(*fitting(*SMALL, f"model={name}"))
    ours = subjects.bare(hrm_bench.build(cfg).double())
    plain = plain_training.counterpart(cfg, dict(ours.named_parameters()))
    batch = random_batch(3, 8)
    for _ in range(2):  # steps, so that the second one's loss shows what the first one's optimizer did
        losses = []
        for step in (lambda: subjects.train_step(ours, batch), lambda: plain.train(*batch)):
            torch.manual_seed(1)  # for the states that LCT draws
            losses.append(step())
        torch.testing.assert_close(*losses, atol=1e-9, rtol=0)
    found = plain_training.unfused({n: p.grad for n, p in ours.named_parameters() if p.grad is not None})
    reference = {n: p.grad for n, p in plain.model.named_parameters() if p.grad is not None}
    assert {n for n, gradient in found.items() if gradient.any()} == {n for n, g in reference.items() if g.any()}
    for each, gradient in reference.items():
        torch.testing.assert_close(found[each], gradient, atol=1e-9, rtol=0)
    for one in (ours, plain.model):
        one.eval()
    torch.testing.assert_close(ours(batch[0])[0], plain.model(batch[0]), atol=1e-9, rtol=0)


def test_a_plain_model_shares_nothing_with_ours_but_the_names_of_its_parameters():
    cfg = hrm_bench.compose(*SMALL, "model=infini_hrm")
    plain = plain_training.counterpart(cfg, dict(hrm_bench.build(cfg).named_parameters()))
    ours = {type(module) for module in hrm_bench.build(cfg).modules() if type(module).__module__.startswith("hrm_b")}
    assert not ours & {type(module) for module in plain.model.modules()}
    assert plain.optimizers[0].defaults["fused"] is plain.optimizers[0].defaults["foreach"] is False


def test_a_bare_loop_trains_as_a_trainer_does():
    batches = [random_batch(4, 8, seed) for seed in range(3)]
    trained, bare = train(small(), batches), subjects.bare(small())
    for batch in batches:
        subjects.train_step(bare, batch)
    for one, other in zip(trained.parameters(), bare.parameters(), strict=True):
        assert torch.equal(one, other)


def test_subjects_with_other_losses_are_not_compared():
    cfg = QUICK.cfg("hrm")
    batch = next(training_batches(cfg, ONE_THREAD))
    same = {"plain": subjects.plainly(cfg, ONE_THREAD), "eager": subjects.ours(cfg, ONE_THREAD)}
    subjects.check_equal(same, batch, batch)
    other = {"one": subjects.ours(cfg, ONE_THREAD), "other": subjects.ours(QUICK.cfg("hrm", "seed=7"), ONE_THREAD)}
    with pytest.raises(ArithmeticError, match="losses of other"):
        subjects.check_equal(other, batch, batch)


def test_quartiles_and_ratios_of_known_numbers():
    assert quartiles([5, 1, 2, 3, 4]) == (2, 3, 4)
    assert quartiles([7]) == (7, 7, 7)
    assert quartiles([1, 2]) == (1.25, 1.5, 1.75)
    assert ratios([2, 40, 6], [1, 10, 2]) == (2.5, 3, 3.5)  # of each round, not of the medians: 6 / 2 = 3 is both


def test_a_ratio_is_taken_within_each_round():
    slow_then_fast = {"first": [10.0, 1.0, 1.0], "second": [5.0, 0.5, 0.5]}
    row = compare("a step", ONE_THREAD, slow_then_fast, "first", "second", unit="s")
    assert row == Row("a step", "1 thread", Quartiles(2, 2, 2), "first ÷ second", (1, 1, 5.5), (0.5, 0.5, 2.75), "s")


def test_ways_take_turns_and_the_first_rounds_are_not_counted():
    done = []
    ways = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    times = interleave(ways, rounds=3, repeats={"b": 2})
    assert "".join(done) == "abb" * (WARM_UP + 3)
    assert {way: len(found) for way, found in times.items()} == {"a": 3, "b": 3}
    assert min(min(found) for found in times.values()) > 0


def test_the_flops_of_a_step_are_those_of_reading_and_twice_as_many_backward():
    model = hrm_bench.build(QUICK.cfg("transformer"))  # one segment, wholly with gradient
    expected = 3 * probes.flops_per_character(model) * LANES * model.window
    assert matmul.step_flops(QUICK, "transformer") == pytest.approx(expected)


def test_the_products_alone_are_those_of_the_step():
    cfg = QUICK.cfg("hrm")
    batches = training_batches(cfg, ONE_THREAD)
    alone = matmul.products(subjects.ours(cfg, ONE_THREAD), next(batches))
    counted = []
    for work in (alone, lambda: subjects.train_next(subjects.ours(cfg, ONE_THREAD), batches)):
        with FlopCounterMode(display=False) as counter:
            work()
        found = counter.get_flop_counts()["Global"]
        counted.append(
            {name: count for name, count in found.items() if str(name) in ("aten.mm", "aten.addmm", "aten.bmm")}
        )
    assert counted[0] == counted[1]
    assert counted[0]


def test_a_quick_run_prints_its_table_and_saves_it(tmp_path, capsys):
    out = tmp_path / "bench"
    assert bench.main(["quick", "steps", "matmul", "models=hrm,transformer", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "hrm, training step" in printed
    saved = json.loads((out / "bench.json").read_text())
    steps = [("steps", f"plain ÷ {way}") for way in ("eager", "matrix products alone", "eager")]
    assert [(row["part"], row["of"]) for row in saved["rows"]] == 2 * steps + 2 * [("matmul", "eager ÷ torch.mm")]
    for row in saved["rows"]:
        assert 0 < row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    markdown = (out / "bench.md").read_text()
    assert markdown.count("\n| ") == len(saved["rows"]) + 2  # headings and ruler
    assert "Quick: small models" in markdown


def test_a_part_that_breaks_off_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(settings):
        yield compare("a step", ONE_THREAD, {"a": [1.0], "b": [2.0]}, "a", "b", unit="s")
        raise RuntimeError("no more")

    def sound(settings):
        yield "nothing to measure"

    monkeypatch.setattr(bench, "PARTS", {"broken": broken, "sound": sound})
    assert bench.main(["quick", f"out={tmp_path}"]) == 1
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert len(saved["rows"]) == 1
    assert saved["remarks"] == ["broken: broken off by RuntimeError: no more", "sound: nothing to measure"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("step", "step: not understood; allowed are steps, overhead"),
        ("models=hmr", "models=hmr: allowed are hrm.*; try models=hrm$"),
        ("compiled=hmr", "compiled=hmr: allowed are"),
        ("seeds=none", "seeds=none: must be a whole number, at least 1; try seeds=2"),
    ],
)
def test_what_is_not_understood_is_told_in_a_line(word, told):
    with pytest.raises(UsageError, match=told) as error:
        bench.parse([word])
    assert len(error.value.faults) == 1


def test_words_choose_parts_models_and_what_is_compiled():
    parts, settings, out = bench.parse(
        ["sweep", "steps", "quick", "models=lstm,hrm", "compiled=hrm", "seeds=4", "out=there"]
    )
    assert (parts, str(out)) == (["steps", "sweep"], "there")
    assert settings == Settings(quick=True, models=("lstm", "hrm"), compiled=("hrm",), seeds=4)
    parts, settings, _ = bench.parse([])
    assert parts == list(bench.PARTS)
    assert {"hrm", "infini_hrm", "hrm_memory", "lct_1layer", "lct_2layer", "transformer", "lstm", "trm"} <= {
        *settings.models
    }
    assert "hrm_simultaneous" not in settings.models
    assert list(bench.parse(["models=all"])[1].models) == MODELS
    assert settings.is_compiled("hrm", ONE_THREAD)
    assert not bench.parse(["compiled=none"])[1].is_compiled("hrm", ONE_THREAD)


def test_peers_that_are_not_installed_are_told_in_a_line_each(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = list(peers.measure(QUICK))
    assert found == [f"{p.package} is not installed; pip install 'hrm_bench[peers]'" for p in peers.PEERS]


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.package)
def test_a_peer_has_as_many_parameters_as_ours(peer):
    pytest.importorskip(peer.module)
    for name in peer.beside:
        ours = peers.num_parameters(hrm_bench.build(QUICK.cfg(name)))
        model = peers.fitted(lambda width, name=name: peer.build(QUICK.cfg(name), width), ours)
        assert peers.num_parameters(model) == pytest.approx(ours, rel=peers.TOLERANCE)
        assert model(random_batch(2, 8)[0]).shape == (2, 8, 97)


def test_a_peer_that_cannot_be_as_small_is_refused():
    assert peers.num_parameters(peers.fitted(lambda width: nn.Linear(width, 10), 1010)) == 1010
    with pytest.raises(ArithmeticError, match="parameters instead of 25"):
        peers.fitted(lambda width: nn.Linear(width, 10), 25)


def test_a_stream_hands_its_memory_on_and_a_pass_reads_all_at_once(monkeypatch):
    model = small("model=infini_hrm", "memory=carry").eval()
    norms = []
    kept = model.segment

    def noted(tokens, state, memory):
        norms.append(float(memory[0].matrix.norm()))
        return kept(tokens, state, memory)

    monkeypatch.setattr(model, "segment", noted)
    reading.read(model, 3)
    assert norms[::2] == norms[1::2] == sorted(set(norms))  # both segments of a window read the same, and it grows
    assert reading.words("transformer", 4, 8) == (1, ["data.window=32"])


def test_a_command_is_timed_until_something_happens_and_then_stopped(tmp_path):
    seconds, printed = python("-c", "print('done')", cwd=tmp_path)
    assert (seconds > 0, printed) == (True, "done\n")
    made = tmp_path / "made"
    assert 0 < until(made.exists, "-c", f"open({str(made)!r}, 'w'); import time; time.sleep(60)", cwd=tmp_path) < 30
    with pytest.raises(RuntimeError, match="ended too early"):
        until(lambda: False, "-c", "pass", cwd=tmp_path)
    with pytest.raises(RuntimeError, match=r"status 1.*no such thing"):
        python("-c", "raise SystemExit('no such thing')", cwd=tmp_path)


def test_a_row_is_shown_with_its_spread_and_three_digits():
    row = Row(
        "a step", "1 thread", Quartiles(1.234, 1.5, 2), "a ÷ b", Quartiles(1, 1234.5, 2), Quartiles(1, 0.01234, 2), "s"
    )
    assert lines([("part", row)]) == [
        ["part", "a step", "1 thread", "1.5 [1.23, 2]", "a ÷ b", "1,234", "0.0123", "s", ""]
    ]


def test_figures_of_a_busy_machine_are_called_provisional():
    told = machine() | {"cores": 2}
    assert "provisional" not in caption(Table(told | {"load": 0.9}, quick=False))
    assert "busy (load 1.1): these figures are provisional" in caption(Table(told | {"load": 1.1}, quick=False))
