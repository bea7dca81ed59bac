"""What a compressive memory binds: a value to its own character, or to the one before it."""

import pytest
import torch
from conftest import SMALL, compose, fitting, random_batch, small
from omegaconf import OmegaConf
from torch.nn import functional

from hrm_bench.cells import preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.evidence import causality
from hrm_bench.layers import carried
from hrm_bench.layers.compressive_memory import Association, empty_memory, feature_map, retrieve, write
from hrm_bench.records.grouping import grouped

BOUND = ["memory.bind=previous", "memory.features=l2", "memory.tie=true"]
MODELS = ["infini_hrm", "hrm_memory"]


@torch.no_grad()
def memory_after(model, windows):
    memory = None
    for tokens in windows:
        _, memory = model(tokens, memory)
    return torch.cat([tensor.flatten() for tensor in carried.tensors(memory)])


@pytest.mark.parametrize("features", ["elu", "l2"])
@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_the_order_of_a_windows_characters_reaches_infini_hrms_memory_only_if_keys_are_bound_to_the_one_before(
    rule, features
):
    windows = random_batch(2, 24)[0].split(8, dim=1)
    shuffled = [window[:, torch.randperm(8, generator=torch.Generator().manual_seed(1))] for window in windows]
    for bind, reaches in (("same", False), ("previous", True)):
        words = [f"memory.rule={rule}", f"memory.features={features}", f"memory.bind={bind}"]
        model = small("model=infini_hrm", *words).double().eval()
        one, other = memory_after(model, windows), memory_after(model, shuffled)
        assert one.abs().max() > 1e-6
        change = float((one - other).abs().max() / one.abs().max())
        assert change > 1e-3 if reaches else change < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_the_first_character_of_a_window_is_bound_to_nothing(name):
    model = small(f"model={name}", "memory.bind=previous").double().eval()
    tokens, _ = random_batch(2, 8)
    assert not memory_after(model, [tokens[:, :1]]).any()
    if name == "infini_hrm":  # whose keys are of single characters
        cut = tokens[:, 4:]
        whole, parts = memory_after(model, [cut]), memory_after(model, [tokens[:, 3:4], cut])
        assert torch.equal(whole, parts)


def test_signed_features_have_length_one_and_both_signs():
    features = feature_map(torch.randn(5, 4), Association(features="l2"))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(5))
    assert features.min() < 0 < features.max()
    assert not feature_map(torch.zeros(1, 4), Association(features="l2")).any()


@pytest.mark.parametrize("name", MODELS)
def test_tied_keys_are_the_queries_and_have_no_weights_of_their_own(name):
    tied, plain = (small(f"model={name}", f"memory.tie={value}") for value in ("true", "false"))
    layers = [tied.infini_attention] if name == "infini_hrm" else [*tied.memories]
    for layer in layers:
        queries, keys, values = layer.project(torch.randn(2, 8, 16))
        assert torch.equal(queries, keys)
        assert not torch.equal(queries, values)
    fewer = sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in tied.parameters())
    assert fewer == len(layers) * 16 * 16


@pytest.mark.parametrize("name", MODELS)
def test_bound_memories_are_causal_and_keep_the_contract(name, tmp_path):
    for words in (BOUND[:1], BOUND, [*BOUND, "memory.rule=delta"]):
        assert causality.is_causal(causality.leak(small(f"model={name}", *words), num_windows=3))
    preflight.check(Cell.of(compose(*fitting(*SMALL, f"model={name}", *BOUND, "memory=carry")), tmp_path))


@pytest.mark.parametrize(("bind", "offset"), [("same", 0), ("previous", 1)])
def test_a_signed_memory_answers_a_character_with_what_it_was_bound_to(bind, offset):
    how = Association(bind=bind, features="l2")
    characters = torch.randn(1, 1, 12, 256, generator=torch.Generator().manual_seed(0))
    memory = write(empty_memory(1, 1, 256, like=characters, how=how), characters, characters, how)
    answers = retrieve(memory, characters[..., :11, :], how)
    nearest = functional.cosine_similarity(answers[0, 0, :, None], characters[0, 0], dim=-1).argmax(dim=-1)
    assert nearest.tolist() == [offset + place for place in range(11)]


def test_cells_that_differ_in_tied_weights_are_two_variants_even_if_nothing_is_written():
    def record(tie, bind):
        words = ["model=infini_hrm", "memory=none", f"memory.tie={tie}", f"memory.bind={bind}"]
        config = OmegaConf.to_container(compose("data=sample", *words), resolve=True)
        return {"config": config, "memory": "none", "model": "infini_hrm", "seed": 42}

    records = [record(tie, bind) for tie in ("false", "true") for bind in ("same", "previous")]
    assert [variant.settings for variant in grouped(records)] == [(("memory.tie", False),), (("memory.tie", True),)]
