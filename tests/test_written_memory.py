"""HRM+Memory against the reference: what it reads, and that it writes each level's last update of a segment."""

import pytest
import torch
from conftest import SMALL, compose, fitting, random_batch, small
from reference.training import reference


@torch.no_grad()
@pytest.mark.parametrize("words", [[], ["memory.bind=previous"], ["memory.features=l2", "memory.tie=true"]])
@pytest.mark.parametrize("rule", ["linear", "delta"])
@pytest.mark.parametrize(("num_segments", "num_cycles"), [(1, 1), (2, 1), (1, 2)])
def test_hrm_memory_reads_and_writes_as_the_reference_does(num_segments, num_cycles, rule, words):
    settings = [f"model.num_segments={num_segments}", f"model.num_cycles={num_cycles}", f"memory.rule={rule}"]
    words = ["model=hrm_memory", *settings, *words]
    model = small(*words).double().eval()
    stream = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter += torch.randn(parameter.shape, generator=stream)
    tokens, _ = random_batch(2, 24)
    naive = reference(compose(*fitting(*SMALL, *words)), dict(model.named_parameters())).model
    memory, memories = None, naive.initial_memory(2)
    for window in tokens.split(8, dim=1):  # the first memory is empty, the others are not
        state = naive.initial_state(*window.shape)
        for index in range(num_segments):
            expected, state = naive.segment(window, state, memories, index)
        for part in memories:
            part.commit(rule)
        logits, memory = model(window, memory)
        torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
        for level, part in enumerate(memories):
            torch.testing.assert_close(memory[level].matrix, part.matrix, atol=1e-9, rtol=0)
            if part.kind == "elu":
                torch.testing.assert_close(memory[level].normalizer, part.normalizer[:, :, 0], atol=1e-9, rtol=0)
