"""How well the answers of a task are predicted: by a model, per slice, and by exact knowledge or counting.

Shapes: N scored characters.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hrm_bench.data.corpora import Corpus
from hrm_bench.data.kneser_ney import ORDERS, Counts
from hrm_bench.data.task import Task
from hrm_bench.data.tasks.by_split import BySplit
from hrm_bench.data.text import Packed, Text, packed
from hrm_bench.data.windows import Samples
from hrm_bench.evidence.probes import Reading, are_asked
from hrm_bench.records.schema import Answers, Floors
from hrm_bench.steps import UNSCORED

WAYS = {
    "exact": "what a perfect reader reaches that knows just this",
    "full": "the counts of the training samples, each answer after all that precede it in its sample",
    "window": "the same counts, each answer after the characters of its own window alone",
    "adaptive": "as full, but the counts also grow by each character of a sample, and forget them at its end",
    "sample": "the counts of what precedes in the sample alone",
}


def by_slice(text: Sequence[Reading], samples: Samples) -> dict[str, Answers]:
    """Return how well a text's answers were predicted: all of them, then those of each slice by its label."""
    asked = [are_asked(reading) for reading in text]
    nats = torch.cat([reading.nats[mask] for reading, mask in zip(text, asked, strict=True)])
    right = torch.cat([(r.predicted == r.targets.cpu())[mask] for r, mask in zip(text, asked, strict=True)])
    assert samples.targets is not None
    assert samples.labels is not None
    labels = samples.labels[samples.targets != UNSCORED]  # samples are read in their order
    slices = {"all": torch.ones_like(right)} | {str(label): labels == label for label in labels.unique().tolist()}
    return {name: _answers(nats[mask], right[mask]) for name, mask in slices.items()}


def _answers(nats: Tensor, right: Tensor) -> Answers:
    nll = float(nats.mean())
    accuracy = float(right.double().mean())
    return Answers(nll=nll, perplexity=math.exp(min(nll, 700)), accuracy=accuracy, answers=len(nats))


def floors(corpus: Corpus, name: str, *, window: int, ngrams: bool = True) -> Floors:
    """Compute the perplexity per answer of a split by baseline and by way (``WAYS``).

    An n-gram model counts what follows each character of the training samples, and where something is asked, the
    answer. No n-gram spans two samples. "adaptive" counts forget a sample at its end, as a memory does.
    """
    assert corpus.task is not None
    size, length = len(corpus.vocabulary), corpus.task.length
    train, scored = corpus.train, corpus.splits[name]
    baselines: Floors = {level: {"exact": value} for level, value in levels(corpus.task, name).items()}
    baselines["uniform"] = {"full": float(size)}
    assert scored.targets is not None
    counts = torch.bincount(_following(train, length).flatten().clamp(min=0).long(), minlength=size).double() + 1
    asked = scored.targets[scored.targets != UNSCORED].long()
    baselines["unigram"] = {"full": math.exp(-float((counts / counts.sum()).log()[asked].mean()))}
    if ngrams:
        for order, ways in _kneser_ney_nll(train, scored, size, length, window).items():
            baselines[f"kneser_ney_{order}"] = {way: math.exp(nll) for way, nll in ways.items()}
    return baselines


def levels(task: Task, split: str) -> dict[str, float]:
    """Return the exact levels of a task's split: the perplexity per answer, by what a reader knows."""
    return task.levels_of(split) if isinstance(task, BySplit) else task.levels()


def _following(text: Text, length: int) -> Tensor:
    """Return what follows each character, (samples, length): the answer, or the next one; UNSCORED at the end."""
    assert text.targets is not None
    tokens, targets = text.indices[:-1].view(-1, length).short(), text.targets.view(-1, length)
    following = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], UNSCORED)), dim=1)
    return torch.where(targets == UNSCORED, following, targets)


def _ngrams(text: Text, length: int) -> Iterator[list[tuple[int, Packed]]]:
    """Yield, per sample, each place after which something follows: up to 6 characters, and what follows them."""
    context = ORDERS[-1] - 1
    for tokens, following in zip(text.indices[:-1].split(length), _following(text, length), strict=True):
        read = packed(tokens)
        after = following.tolist()
        ends = (packed(torch.tensor([max(0, value)], dtype=torch.uint8)) for value in after)
        ngrams = [read[max(0, place + 1 - context) : place + 1] + end for place, end in enumerate(ends)]  # type: ignore[operator]
        yield [(place, ngram) for place, ngram in enumerate(ngrams) if after[place] != UNSCORED]


def _kneser_ney_nll(train: Text, scored: Text, size: int, length: int, window: int) -> dict[int, dict[str, float]]:
    """Compute the mean nats per answer by order and way."""
    counts = Counts(size)
    for sample in _ngrams(train, length):
        for _, ngram in sample:
            counts.add(ngram, len(ngram) - 1)
    own, ways_of_counting = Counts(size), [way for way in WAYS if way != "exact"]
    totals = {order: dict.fromkeys(ways_of_counting, 0.0) for order in ORDERS}
    assert scored.targets is not None
    number = 0
    for sample, targets in zip(_ngrams(scored, length), scored.targets.split(length), strict=True):
        asked = set((targets != UNSCORED).nonzero().flatten().tolist())
        number += len(asked)
        for place, ngram in sample:
            if place in asked:
                nlls = _nlls(counts, ngram)
                for order, ways in totals.items():
                    ways["full"] += nlls[: order - 1][-1]
                    ways["window"] += nlls[: min(order - 1, place % window + 1)][-1]
        for way, growing in (("adaptive", counts), ("sample", own)):
            for place, ngram in sample:
                if place in asked:
                    nlls = _nlls(growing, ngram)
                    for order, ways in totals.items():
                        ways[way] += nlls[: order - 1][-1]
                growing.add(ngram, len(ngram) - 1)
            for _, ngram in reversed(sample):
                growing.discard(ngram, len(ngram) - 1)
    return {order: {way: total / number for way, total in ways.items()} for order, ways in totals.items()}


def _nlls(counts: Counts, ngram: Packed) -> list[float]:
    """Return the nats of the last character of an n-gram under each order whose context fits."""
    return [-math.log(probability) for probability in counts.probabilities(ngram, len(ngram) - 1)]
