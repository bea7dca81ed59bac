"""Continue a text: what a trained model writes after a prompt, one character at a time.

A text is read as ``CharLM.forward`` reads it: in windows from the left, of which the last may be shorter. The memory
is written after each whole window and kept for all later windows, in mode ``reset`` as in ``carry``. The logits at the
last character are the distribution of the next one, also if the next one opens a new window.

Each step reads only the current window of each lane, with the memory as it stood before that window. The columns to the
right of a lane's position are padding: a causal model does not see them. Memory is kept only from whole windows.

Shapes: B lanes, T characters, V vocabulary.
"""

import copy
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hrm_bench.charlm import CharLM
from hrm_bench.data.text import PRINTABLE_ASCII, Vocabulary
from hrm_bench.errors import UsageError
from hrm_bench.layers import carried


@torch.no_grad()
def generate(
    model: CharLM,
    prompts: Sequence[str],
    *,
    length: int,
    temperature: float,
    seed: int,
    vocabulary: Vocabulary = PRINTABLE_ASCII,
) -> list[str]:
    """Return the ``length`` characters that follow each prompt, without the prompt.

    Each prompt, of any length, has one lane. ``temperature`` 0 takes the likeliest character; above 0, a character is
    drawn from softmax(logits / temperature) by a random stream that depends on (seed, index of the lane) only.

    The model is copied, in double precision and evaluation mode, and stays unchanged. In double precision, rounding is
    too small to change a character, so a lane's text does not depend on the other lanes. The model must be causal
    (``causality.is_causal``): another would see the padding. Raises UsageError with the faults that ``faults`` names.
    """
    if messages := [*faults(prompts, length=length, temperature=temperature, vocabulary=vocabulary)]:
        raise UsageError(*messages)
    probe = copy.deepcopy(model).double().eval()
    lanes = torch.arange(len(prompts), device=probe.device)
    memory = probe.initial_memory(len(prompts))  # as it stood before the current window of each lane
    tokens = torch.zeros(len(prompts), probe.window, dtype=torch.long, device=probe.device)  # the current windows
    lengths = torch.zeros_like(lanes)  # (B,) characters of the current window so far
    for lane, prompt in enumerate(prompts):
        text = vocabulary.encode(prompt)[0].to(probe.device)  # (T,)
        start = (len(text) - 1) // probe.window * probe.window
        if start:
            memory = carried.where(lanes == lane, probe(text[None, :start])[1], memory)
        lengths[lane] = len(text) - start
        tokens[lane, : lengths[lane]] = text[start:]
    seeds = (random.Random(f"{seed}/{lane}").getrandbits(63) for lane in range(len(prompts)))
    streams = [torch.Generator().manual_seed(lane_seed) for lane_seed in seeds]
    written = torch.empty(len(prompts), length, dtype=torch.long)
    for step in range(length if prompts else 0):
        (last,) = deque(probe.refine(tokens[:, : int(lengths.max())], memory), maxlen=1)
        written[:, step] = _next_characters(last.logits[lanes, lengths - 1].cpu(), temperature, streams)
        whole = lengths == probe.window
        memory = carried.where(whole, last.memory, memory)
        lengths = lengths.masked_fill(whole, 0)
        tokens[lanes, lengths] = written[:, step].to(probe.device)
        lengths = lengths + 1
    return [vocabulary.decode(text) for text in written]


def faults(
    prompts: Sequence[str], *, length: int, temperature: float, vocabulary: Vocabulary = PRINTABLE_ASCII
) -> Iterator[str]:
    """Yield one line per reason why nothing can be generated: a faulty prompt, or a value out of range."""
    if length < 1:
        yield f"length={length}: must be at least 1; try length=200"
    if not 0 <= temperature < math.inf:
        yield f"temperature={temperature}: must be at least 0 and finite; try temperature=0.8"
    if not all(prompts):
        yield 'prompt: must not be empty, because a model predicts what follows a character; try prompt="The "'
    for character in vocabulary.missing("".join(prompts)):
        yield f"prompt: {character!r} is not in the vocabulary; allowed are {vocabulary.title}"


def _next_characters(logits: Tensor, temperature: float, streams: Sequence[torch.Generator]) -> Tensor:
    """Choose one character per lane, (B,), from (B, V) logits in double precision on the CPU."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    shifted = logits - logits.amax(dim=-1, keepdim=True)  # first, so that no temperature, however low, makes ∞ − ∞
    probabilities = (shifted / temperature).softmax(dim=-1)
    drawn = [torch.multinomial(lane, 1, generator=stream) for lane, stream in zip(probabilities, streams, strict=True)]
    return torch.cat(drawn)
