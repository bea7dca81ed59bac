"""What is measured of a trained model beside its score: against the score, and against plain loops."""

import math

import pytest
import torch
from conftest import MODELS, quick, small, train, trainer
from torch.nn import functional
from torch.utils.data import DataLoader

import hrm_bench
from hrm_bench.cells.run import run_cell
from hrm_bench.evidence import probes
from hrm_bench.training.build import load_windows


def test_bits_by_position_are_those_of_the_score_taken_apart(finished):
    _, _, record = finished
    for split in ("validation", "test"):
        bits = record["bits_by_position"][split]
        assert len(bits) == 8
        assert sum(bits) / 8 == pytest.approx(record[split]["bits_per_character"], abs=1e-6)
        assert max(bits) - min(bits) > 0.05


@pytest.mark.parametrize("memory", ["reset", "carry"])
@pytest.mark.parametrize("name", ["infini_hrm", "hrm_memory"])
def test_with_its_own_memory_a_text_is_read_as_it_is_scored(name, memory, tmp_path):
    record = run_cell(quick(f"model={name}", f"memory={memory}", "data.windows_per_sample=4"), tmp_path)
    for split in ("validation", "test"):
        use = record["memory_use"][split]
        assert use["own"] == pytest.approx(record[split]["perplexity"], rel=1e-6)
        assert len({round(each, 6) for each in use.values()}) == 3


def test_a_memory_that_is_empty_at_every_read_is_of_no_use(tmp_path):
    use = run_cell(quick("model=infini_hrm", "memory=reset"), tmp_path)["memory_use"]["validation"]
    assert use["own"] == use["zeroed"] == use["another_lane"]


def test_another_lanes_memory_is_of_the_other_text_and_as_old():
    model = small("model=infini_hrm", "memory=carry")
    data = load_windows(quick())
    train(model, [data.train[[0, 1]]])
    model.eval()
    tokens, targets = data.validation[list(range(data.validation.num_windows))]
    others, _ = data.test[list(range(data.test.num_windows))]
    total, memory = 0.0, model.initial_memory(1)
    with torch.no_grad():
        for window, target, other in zip(tokens, targets, others, strict=True):
            logits, _ = model(window[None], memory)
            total += float(functional.cross_entropy(logits[0], target, reduction="sum"))
            _, memory = model(other[None], memory)
    use = probes.memory_use(
        model, *(probes.read(model, text)[1] for text in (data.val_dataloader(), data.test_dataloader()))
    )
    assert use["another_lane"] == pytest.approx(math.exp(total / targets.numel()), rel=1e-5)


def test_a_shorter_text_lends_its_last_memory():
    model = small("model=infini_hrm", "memory=carry").eval()
    data = load_windows(quick("data.test_chars=100"))
    assert data.test.num_windows < data.validation.num_windows
    tokens, targets = data.validation[list(range(data.validation.num_windows))]
    others, _ = data.test[list(range(data.test.num_windows))]
    total, memory = 0.0, model.initial_memory(1)
    with torch.no_grad():
        for number, (window, target) in enumerate(zip(tokens, targets, strict=True), start=1):
            logits, _ = model(window[None], memory)
            total += float(functional.cross_entropy(logits[0], target, reduction="sum"))
            if number < len(others):  # its last window is read, and nothing is read after it
                _, memory = model(others[number - 1][None], memory)
    use = probes.memory_use(
        model, *(probes.read(model, text)[1] for text in (data.val_dataloader(), data.test_dataloader()))
    )
    assert use["another_lane"] == pytest.approx(math.exp(total / targets.numel()), rel=1e-5)
    assert use["another_lane"] != pytest.approx(use["zeroed"], rel=1e-5)


def test_the_course_of_a_memory_is_in_the_history(finished):
    _, _, record = finished
    assert all(0.3 < row["memory_share"] < 0.7 and row["memory_norm"] > 0 for row in record["history"])
    assert len({row["memory_share"] for row in record["history"]}) == 3


def test_the_share_of_a_memory_is_that_of_its_gates():
    model = small("model=infini_hrm", "memory=carry")
    with torch.no_grad():
        model.infini_attention.gate.copy_(torch.tensor([0.0, 20.0]))
    batch = (torch.arange(8)[None], torch.arange(1, 9)[None])
    trainer().validate(model, DataLoader([batch], batch_size=None), verbose=False)
    course = model.memory_course()
    assert course["memory_share"] == pytest.approx(0.75)
    (memory,) = model.last_memory
    assert course["memory_norm"] == pytest.approx(float(memory.matrix[0].square().sum(dim=(1, 2)).sqrt().mean()))


@pytest.mark.parametrize("name", MODELS)
def test_flops_are_at_least_those_of_the_head_and_a_multiple_for_more_segments(name):
    model = small(f"model={name}")
    flops = probes.flops_per_character(model)
    assert flops >= 2 * model.head.weight.numel()
    if hrm_bench.compose("data=sample", f"model={name}").model.get("num_segments"):
        twice = small(f"model={name}", f"model.num_segments={2 * model.num_segments}")
        assert probes.flops_per_character(twice) == pytest.approx(2 * flops)


def test_the_flops_of_the_lstm_are_those_counted_by_hand():
    model = hrm_bench.build(hrm_bench.compose("data=sample", "model=lstm"))
    by_hand = 2 * 4 * 126 * (126 + 126) + 2 * 126 * 97
    assert probes.flops_per_character(model) == by_hand
