"""HRM+Memory against a plain loop: what it reads, and that it writes each level's last update of a segment."""

import naive
import pytest
import torch
from conftest import random_batch, small


def reference(parameters, tokens, memories, *, num_segments, num_cycles, rule):
    """Read one window of one lane: logits; each level's memories, one per head, are written afterwards."""
    x = parameters["embedding.weight"][tokens]
    states = [parameters[f"initial_states.{level}"] for level in range(2)]
    last = [None, None]

    def advance(level, inputs):
        hidden = naive.block(inputs, parameters, f"levels.{level}.0", 2)
        queries, keys, values = naive.projections(hidden, parameters[f"memories.{level}.qkv.weight"], 2)
        last[level] = keys, values
        mixed = []
        for place, vector in enumerate(hidden):
            answers = [memory.answer(queries[head][place]) for head, memory in enumerate(memories[level])]
            answer = parameters[f"memories.{level}.output.weight"] @ torch.cat(answers)
            gate = 1 / (1 + torch.exp(-parameters[f"memories.{level}.gate"] @ vector))
            mixed.append(gate * answer + (1 - gate) * vector)
        return torch.stack(mixed)

    for _ in range(num_segments):
        for _ in range(num_cycles):
            for _ in range(2):
                states[0] = advance(0, states[0] + states[1] + x)
            states[1] = advance(1, states[1] + states[0])
    for level, (keys, values) in enumerate(last):
        for head, memory in enumerate(memories[level]):
            memory.write(keys[head], values[head], rule)
    return states[1] @ parameters["head.weight"].T


@torch.no_grad()
@pytest.mark.parametrize("rule", ["linear", "delta"])
@pytest.mark.parametrize(("num_segments", "num_cycles"), [(1, 1), (2, 1), (1, 2)])
def test_hrm_memory_reads_and_writes_as_the_plain_loop_does(num_segments, num_cycles, rule):
    settings = [f"model.num_segments={num_segments}", f"model.num_cycles={num_cycles}", f"memory.rule={rule}"]
    model = small("model=hrm_memory", *settings).double().eval()
    stream = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter += torch.randn(parameter.shape, generator=stream)
    tokens, _ = random_batch(1, 24)
    parameters = dict(model.named_parameters())
    memories = [[naive.AssociativeMemory() for _ in range(2)] for _ in range(2)]
    memory = None
    for window in tokens.split(8, dim=1):  # the first memory is empty, the others are not
        expected = reference(
            parameters, window[0], memories, num_segments=num_segments, num_cycles=num_cycles, rule=rule
        )
        logits, memory = model(window, memory)
        torch.testing.assert_close(logits[0], expected, atol=1e-6, rtol=1e-6)
        for level, heads in enumerate(memories):
            for head, written in enumerate(heads):
                matrix = sum(torch.outer(key, value) for key, value in written.written)
                torch.testing.assert_close(memory[level].matrix[0, head], matrix, atol=1e-6, rtol=1e-6)
                normalizer = sum(key for key, _ in written.written)
                torch.testing.assert_close(memory[level].normalizer[0, head], normalizer, atol=1e-6, rtol=1e-6)
