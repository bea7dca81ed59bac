"""When to stop refining a character, by the Q-learning of the HRM paper (arXiv 2506.21734, section 2).

The Q head reads the highest state z_m after segment m and values stopping and continuing, each by a sigmoid:

    Q_halt, Q_continue = q_head(z_m)
    G_halt = 1 if the likeliest character is the one that follows, otherwise 0
    G_continue = max(Q_halt, Q_continue) after segment m + 1, or Q_halt if segment m + 1 is the last
    loss = binary cross-entropy of Q against G

A character is predicted by the first segment at which Q_halt exceeds Q_continue by a threshold, or by the last. The
state z_m at a character does not depend on later characters, so neither does the decision to stop there.

# differs from the paper: the head is fitted to the states of a trained model, which stays unchanged, so that one model
# can be read with and without halting; each character halts for itself, where the paper halts a whole sequence.

Shapes: S segments, N characters, D width, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Samples

SEGMENTS = 4  # the most per character, or as many as the model was trained with if that is more
MOST_FITTED = 50_000  # characters of the training text that the head is fitted to
STEPS = 300  # of the head's optimizer, each on all characters
LEARNING_RATE = 0.01
THRESHOLDS = (-1.0, -0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of Q_halt − Q_continue


class Refined(NamedTuple):
    """The states and predictions of every segment for a text that is read in windows."""

    states: Tensor  # (S, N, D): the highest
    log_probabilities: Tensor  # (S, N, V)
    targets: Tensor  # (N,)


class Halted(NamedTuple):
    """The result of stopping at a threshold."""

    threshold: float
    mean_segments: float
    perplexity: float


@torch.no_grad()
def refined(
    model: CharLM, samples: Samples, num_segments: int | None = None, num_characters: int | None = None
) -> Refined:
    """Read a text with a model without memory, in evaluation mode.

    Args:
        model: the model, which stays unchanged.
        samples: the text.
        num_segments: segments per window; by default the larger of ``SEGMENTS`` and the model's own number.
        num_characters: characters to read from the start, rounded up to whole windows; by default all.
    """
    last = samples.num_characters if num_characters is None else min(num_characters, samples.num_characters)
    tokens, targets = samples.read([*range(0, last, model.window)], model.window)
    num_segments = num_segments or max(SEGMENTS, model.num_segments)
    segments = model.refine(tokens, model.initial_memory(len(tokens)), num_segments)
    states, logits = zip(*((segment.state[-1], segment.logits) for segment in segments), strict=True)
    return Refined(
        states=torch.stack([state.flatten(0, 1) for state in states]),
        log_probabilities=torch.stack([part.flatten(0, 1) for part in logits]).double().log_softmax(dim=-1),
        targets=targets.flatten(),
    )


def fit(text: Refined) -> nn.Linear:
    """Fit a Q head to the states of the training text; it starts at zero, so the result is always the same."""
    head = nn.Linear(text.states.shape[-1], 2, bias=False)
    nn.init.zeros_(head.weight)
    correct = (text.log_probabilities.argmax(dim=-1) == text.targets).float()  # (S, N)
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for _ in range(STEPS):
        logits = head(text.states)  # (S, N, 2)
        values = logits.detach().sigmoid()
        onward = torch.cat((values[1:-1].amax(dim=-1), values[-1:, :, 0]))  # (S − 1, N): the last can only halt
        loss = functional.binary_cross_entropy_with_logits(logits[..., 0], correct)
        loss = loss + functional.binary_cross_entropy_with_logits(logits[:-1, :, 1], onward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head


@torch.no_grad()
def halt(text: Refined, head: nn.Linear, threshold: float) -> Halted:
    """Predict each character by the segment at which the head stops."""
    values = head(text.states).sigmoid()
    stops = values[..., 0] - values[..., 1] > threshold
    stops[-1] = True
    stopped = stops.int().argmax(dim=0)  # (N,): the first
    chosen = text.log_probabilities[stopped, torch.arange(len(stopped)), text.targets]
    return Halted(threshold, float(stopped.double().mean()) + 1, float((-chosen.mean()).exp()))


def curve(model: CharLM, head: nn.Linear, samples: Samples) -> list[Halted]:
    """Return perplexity and mean segments per threshold, from low to high, for a head fitted to the training text."""
    text = refined(model, samples)
    points = [halt(text, head, threshold) for threshold in THRESHOLDS]
    return [point._replace(perplexity=point.perplexity**samples.symbols_per_character) for point in points]
