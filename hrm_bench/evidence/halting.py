"""Where to stop refining, character by character, by the HRM paper's Q-learning (arXiv 2506.21734, section 2).

The Q head reads the highest state z_m after segment m and says what stopping and going on are worth, each a sigmoid:

    Q_halt, Q_continue = q_head(z_m)
    G_halt = 1 where the likeliest character is the one that follows, else 0
    G_continue = max(Q_halt, Q_continue) after segment m + 1, or Q_halt where that is the last
    loss = binary cross-entropy of Q against G

A character is predicted by the first segment at which Q_halt exceeds Q_continue by a threshold, or by the last. Since
z_m at a character knows none that follow, neither does the decision: it may differ from character to character.

# differs from the paper: the head is fitted to the states of a trained model, which stays as it is, so that one model
# can be read with and without halting; and characters halt by themselves, where a sequence does in the paper.

Shapes: S segments, N characters, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Samples

SEGMENTS = 4  # the most that a character is refined, or as many as the model was trained with, where that is more
MOST_FITTED = 50_000  # characters of the training text that the head is fitted to
STEPS = 300  # of the head's optimizer, each on all characters
LEARNING_RATE = 0.01
THRESHOLDS = (-1.0, -0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of Q_halt − Q_continue


class Refined(NamedTuple):
    """What every segment makes of a text that is read in windows."""

    states: Tensor  # (S, N, D): the highest
    log_probabilities: Tensor  # (S, N, V)
    targets: Tensor  # (N,)


class Halted(NamedTuple):
    """What stopping at a threshold gives."""

    threshold: float
    mean_segments: float
    perplexity: float


@torch.no_grad()
def refined(model: CharLM, samples: Samples, num_segments: int | None = None, most: int | None = None) -> Refined:
    """Of a model without memory, in evaluation mode; its own number of segments is left as it is.

    ``most``: only of the first so many characters, to whole windows.
    """
    last = samples.num_characters if most is None else min(most, samples.num_characters)
    tokens, targets = samples.read([*range(0, last, model.window)], model.window)
    trained, model.num_segments = model.num_segments, num_segments or max(SEGMENTS, model.num_segments)
    try:
        found = [(each.state[-1], each.logits) for each in model.refine(tokens, model.initial_memory(len(tokens)))]
    finally:
        model.num_segments = trained
    return Refined(
        states=torch.stack([state.flatten(0, 1) for state, _ in found]),
        log_probabilities=torch.stack([logits.flatten(0, 1) for _, logits in found]).double().log_softmax(dim=-1),
        targets=targets.flatten(),
    )


def fit(text: Refined) -> nn.Linear:
    """A Q head for the states of the training text, from zero weights: the same each time."""
    head = nn.Linear(text.states.shape[-1], 2, bias=False)
    nn.init.zeros_(head.weight)
    correct = (text.log_probabilities.argmax(dim=-1) == text.targets).float()  # (S, N)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        logits = head(text.states)  # (S, N, 2)
        values = logits.detach().sigmoid()
        onward = torch.cat((values[1:-1].amax(dim=-1), values[-1:, :, 0]))  # (S − 1, N): the last can but halt
        loss = functional.binary_cross_entropy_with_logits(logits[..., 0], correct)
        loss = loss + functional.binary_cross_entropy_with_logits(logits[:-1, :, 1], onward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


@torch.no_grad()
def halt(text: Refined, head: nn.Linear, threshold: float) -> Halted:
    """Read a text with the head: each character by the segment that it stops at."""
    values = head(text.states).sigmoid()
    stops = values[..., 0] - values[..., 1] > threshold
    stops[-1] = True
    stopped = stops.int().argmax(dim=0)  # (N,): the first
    chosen = text.log_probabilities[stopped, torch.arange(len(stopped)), text.targets]
    return Halted(threshold, float(stopped.double().mean()) + 1, float((-chosen.mean()).exp()))


def curve(model: CharLM, head: nn.Linear, samples: Samples) -> list[Halted]:
    """Perplexity by mean segments used, as the threshold goes up; of a head that was fitted to the training text."""
    text = refined(model, samples)
    return [halt(text, head, threshold) for threshold in THRESHOLDS]
