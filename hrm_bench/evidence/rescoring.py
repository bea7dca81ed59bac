"""Scores of trained cells that are read in other ways than the results table reads them; each is a column of its own.

- *sliding*: windows overlap by half, so that each character is predicted after at least half a window. Only for models
  that read no memory; a memory is another way to see further back.
- *averaged seeds*: one prediction, the mean of the probabilities that all seeds of the variant give.
- *with counts*: the mean of the model's probabilities and those of a Kneser-Ney model of order 7 within the window. The
  weights are a half each: none is chosen on the scored text.
- *segments*: a model that was trained on more than one segment, read with another number of them.
- *halting*: a Q head decides at each character when to stop (``halting``). Only for models that have a Q head and read
  no memory.

Shapes: B lanes, T characters, N scored characters, V vocabulary.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hrm_bench.charlm import CharLM
from hrm_bench.data.distillation import distributions
from hrm_bench.data.text import packed
from hrm_bench.data.windows import EvaluationBatches, Samples
from hrm_bench.errors import UsageError
from hrm_bench.evidence import halting
from hrm_bench.evidence.probes import MAX_LANES
from hrm_bench.records.schema import Halting, Rescoring

SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_SCORED = 50_000  # characters of a text, because the whole distributions of every segment are kept at once


def rescore(
    variant: str, models: Mapping[int, CharLM], train: Samples, texts: Mapping[str, Samples], *, with_counts: bool
) -> list[Rescoring]:
    """Return all scores of a variant on each text.

    Args:
        variant: the name of the variant.
        models: its trained models by seed, in evaluation mode.
        train: their training text.
        texts: the scored texts by split.
        with_counts: whether the training text is short enough to be counted.

    Raises UsageError if a text is too long.
    """
    check_lengths(variant, texts)
    cells = list(models.values())
    reads_memory = cells[0].uses_memory and cells[0].memory_policy.mode != "none"
    heads = [] if reads_memory else _q_heads(cells, train)
    scores = []
    for split, samples in texts.items():
        counts = counted(train.indices, samples, train.window, cells[0].vocabulary_size) if with_counts else None
        by_cell = [probabilities(model, samples) for model in cells]
        mixed = None if counts is None else [perplexity((given + counts) / 2, samples) for given in by_cell]
        scores.append(
            Rescoring(
                variant=variant,
                split=split,
                seeds=[*models],
                scored=[perplexity(given, samples) for given in by_cell],
                sliding=None if reads_memory else [perplexity(sliding(model, samples), samples) for model in cells],
                averaged_seeds=perplexity(torch.stack(by_cell).mean(dim=0), samples),
                with_counts=mixed,
                segments=_by_segments(cells, samples, reads_memory=reads_memory),
                halting=_halting(cells, heads, samples),
            )
        )
    return scores


def check_lengths(variant: str, texts: Mapping[str, Samples]) -> None:
    """Raise UsageError if a text is too long to be rescored."""
    faults = [
        f"{variant}: the {split} text has {len(samples.indices):,} characters and at most {MOST_SCORED:,} can be "
        f"rescored; train with data.{split}_chars={MOST_SCORED}"
        for split, samples in texts.items()
        if len(samples.indices) > MOST_SCORED + 1
    ]
    if any(samples.targets is not None for samples in texts.values()):
        faults = [f"{variant}: the answers of a task are not rescored; give a sweep that was trained on text"]
    if faults:
        raise UsageError(*faults)


@torch.no_grad()
def probabilities(model: CharLM, samples: Samples, num_segments: int | None = None) -> Tensor:
    """Return the distribution after each character of a text that is read as in scoring: (N, V)."""
    logits = [model(tokens, num_segments=num_segments)[0] for tokens in _as_scored(model, samples)]
    return torch.cat([lanes.flatten(0, 1) for lanes in logits]).double().softmax(dim=-1)


def _as_scored(model: CharLM, samples: Samples) -> list[Tensor]:
    """Return the characters of a text in batches of lanes; one lane if memory is carried."""
    batches = [samples[indices][0] for indices in EvaluationBatches(samples, batch_size=MAX_LANES)]
    if model.uses_memory and model.memory_policy.evaluation_mode == "carry":
        return [torch.cat([tokens.flatten() for tokens in batches])[None]]
    return batches


@torch.no_grad()
def sliding(model: CharLM, samples: Samples) -> Tensor:
    """Return the distributions of a model without memory that reads windows overlapping by half: (N, V)."""
    stride = max(1, model.window // 2)
    last = samples.num_characters - model.window
    starts = [*range(0, last, stride), last] if last else [0]
    tokens, _ = samples.read(starts, model.window)
    windows = model(tokens)[0].double().softmax(dim=-1)
    steps = [start - before for before, start in itertools.pairwise(starts)]  # characters that each window adds
    added = [window[model.window - step :] for window, step in zip(windows[1:], steps, strict=True)]
    return torch.cat([windows[0], *added])


def counted(train: Tensor, samples: Samples, window: int, vocabulary_size: int) -> Tensor:
    """Return the distributions of a Kneser-Ney model that sees the current window from the left: (N, V)."""
    predict, text = distributions(packed(train), vocabulary_size), packed(samples.indices)
    positions = range(samples.num_characters)
    return torch.stack([torch.from_numpy(predict(text[last - last % window : last + 1])) for last in positions])


def perplexity(given: Tensor, samples: Samples) -> float:
    """Return the perplexity per character of (N, V) probabilities of the characters that follow."""
    targets = samples.indices[1 : samples.num_characters + 1].long()
    return math.exp(-float(given.gather(1, targets[:, None]).log().mean()) * samples.symbols_per_character)


def _by_segments(models: Sequence[CharLM], samples: Samples, *, reads_memory: bool) -> dict[str, list[float]]:
    if models[0].num_segments == 1:
        return {}
    curve = _reread if reads_memory else _refined
    by_model = [curve(model, samples) for model in models]
    return {str(number): list(values) for number, *values in zip(SEGMENTS, *by_model, strict=True)}


def _refined(model: CharLM, samples: Samples) -> list[float]:
    """Return perplexities of a model without memory from one reading: each number is on the way to the largest."""
    segments = halting.refined(model, samples, SEGMENTS[-1]).log_probabilities
    return [perplexity(segments[number - 1].exp(), samples) for number in SEGMENTS]


def _reread(model: CharLM, samples: Samples) -> list[float]:
    """Return perplexities of a model that writes a memory after its last segment: each number is a reading."""
    return [perplexity(probabilities(model, samples, number), samples) for number in SEGMENTS]


def _q_heads(models: Sequence[CharLM], train: Samples) -> list[nn.Linear]:
    """Return a fitted Q head per model, or none for models without Q head or without segments to choose from."""
    if models[0].num_segments == 1 or not hasattr(models[0], "q_head"):
        return []
    return [halting.fit(halting.refined(model, train, num_characters=halting.MOST_FITTED)) for model in models]


def _halting(models: Sequence[CharLM], heads: Sequence[nn.Linear], samples: Samples) -> list[Halting]:
    if not heads:
        return []
    curves = [halting.curve(model, head, samples) for model, head in zip(models, heads, strict=True)]
    return [
        Halting(
            threshold=points[0].threshold,
            mean_segments=[point.mean_segments for point in points],
            perplexity=[point.perplexity for point in points],
        )
        for points in zip(*curves, strict=True)
    ]
