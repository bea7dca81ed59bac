"""Rotary positions in Infini-HRM's local attention: they come after the memory, and are off by default."""

import pytest
import torch
from conftest import SMALL, compose, fitting, random_batch, small
from omegaconf import OmegaConf
from reference import layers as naive

import hrm_bench
from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.config.compose import check, completed
from hrm_bench.config.identity import identity
from hrm_bench.errors import UsageError
from hrm_bench.evidence import causality
from hrm_bench.layers import carried
from hrm_bench.layers.attention import SelfAttention
from hrm_bench.layers.compressive_memory import Association
from hrm_bench.models.infini_hrm import InfiniAttention

ROTARY = ["model=infini_hrm", "model.local_positions=rotary"]


def layer(how=None, window=8):
    torch.manual_seed(0)
    settings = {"width": 16, "num_heads": 2, "causal": True, "rotary_window": window}
    made = InfiniAttention(**settings, how=Association(**(how or {}))).double()
    torch.nn.init.normal_(made.gate)
    return made


@pytest.mark.parametrize("how", [{}, {"rule": "delta"}, {"bind": "previous", "features": "l2", "gradient": "through"}])
def test_local_attention_with_positions_matches_the_naive_loop_over_several_windows(how):
    ours = layer(how)
    memory, pairs = ours.empty(2), naive.PairMemory(how)
    parameters = dict(ours.named_parameters())
    for window in torch.randn(3, 2, 8, 16, dtype=torch.float64):
        mixed, update, _ = ours(window, memory)
        weights = (ours.qkv.weight, ours.output.weight, ours.gate)
        expected = naive.infini_attention(window, pairs, *weights, positions="rotary")
        pairs.commit(how.get("rule", "linear"))
        torch.testing.assert_close(mixed, expected, atol=1e-9, rtol=0)
        for one, other in zip(*(torch.autograd.grad(each.square().sum(), parameters.values(), retain_graph=True)
                                for each in (mixed, expected)), strict=True):  # fmt: skip
            torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)
        memory = carried.added(memory, update)


def test_the_memory_is_read_and_written_without_positions():
    with_positions, without = layer(), layer(window=None)
    windows = torch.randn(2, 2, 8, 16, dtype=torch.float64)
    memories = [each.empty(2) for each in (with_positions, without)]
    for window in windows:
        results = [each(window, memory) for each, memory in zip((with_positions, without), memories, strict=True)]
        memories = [carried.added(memory, result[1]) for memory, result in zip(memories, results, strict=True)]
        for one, other in zip(*map(carried.tensors, memories), strict=True):
            assert torch.equal(one, other)
        assert (results[0][0] - results[1][0]).abs().max() > 1e-3  # local attention differs
    for each in (with_positions, without):
        with torch.no_grad():
            each.gate.fill_(100.0)  # the memory alone
    alone = [each(windows[0], memory)[0] for each, memory in zip((with_positions, without), memories, strict=True)]
    assert torch.equal(*alone)


def test_without_a_memory_it_is_the_attention_of_all_other_models():
    ours, usual = layer(), SelfAttention(width=16, num_heads=2, window=8, causal=True).double()
    usual.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "gate"})
    with torch.no_grad():
        ours.gate.fill_(-100.0)
    hidden = torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(hidden, ours.empty(2))[0], usual(hidden), atol=1e-12, rtol=0)


def cell(*words):
    return compose("data=sample", *words)


def test_positions_that_are_off_leave_a_cell_as_it_was_before_they_existed():
    plain = cell("model=infini_hrm", "memory=carry")
    older = OmegaConf.to_container(plain)
    del older["model"]["local_positions"]
    older = completed(older)
    check(older)
    assert identity(older, "f") == identity(plain, "f") != identity(cell(*ROTARY, "memory=carry"), "f")
    one, other = hrm_bench.build(older).state_dict(), hrm_bench.build(plain).state_dict()
    assert one.keys() == other.keys() == hrm_bench.build(cell(*ROTARY)).state_dict().keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    tokens, _ = random_batch(2, 16)
    logits = [small(*words)(tokens)[0] for words in (["model=infini_hrm"], ROTARY)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_a_key_that_is_no_option_must_still_be_given():
    cfg = cell("model=infini_hrm")
    del cfg.model.causal
    with pytest.raises(UsageError, match=r"model\.causal: missing"):
        check(cfg)


def test_positions_of_another_kind_are_refused_in_one_line():
    line = r"model\.local_positions=absolute: allowed are none(,| and| or) rotary; try model\.local_positions="
    with pytest.raises(UsageError, match=line) as caught:
        hrm_bench.compose("data=sample", "model=infini_hrm", "model.local_positions=absolute")
    assert len(caught.value.faults) == 1


def test_it_keeps_the_contract_and_sees_no_later_character(tmp_path):
    preflight.check(Cell.of(compose(*fitting(*SMALL, *ROTARY, "memory=carry")), tmp_path))
    assert causality.is_causal(causality.leak(small(*ROTARY), num_windows=3))
