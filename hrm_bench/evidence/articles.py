"""Held-out articles: texts that no cell is trained or chosen on, which show how a model does beside its own text.

The articles of WikiText are kept apart for good. *Scoring*: the first 5,000 characters of the first 8 articles that are
as long, from validation's third article and from test's second on. *Choosing*: the last 8 such articles of validation.
Of any other text, what follows the scored characters of a split is cut into 8 pieces. Every article is read from an
empty memory, in windows and samples as the cell's own text is.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional

from hrm_bench.charlm import CharLM
from hrm_bench.data import sources
from hrm_bench.data.corpora import Corpus, Library, Request
from hrm_bench.data.text import Text
from hrm_bench.data.windows import EvaluationBatches, Samples
from hrm_bench.errors import UsageError
from hrm_bench.evidence.probes import MAX_LANES, in_precision
from hrm_bench.records.schema import Article

NUMBER = 8  # articles per split that score, and that choose
LENGTH = 5_000  # characters of each
FEWEST_WINDOWS, MOST_WINDOWS = 4, 78  # of a piece of another text
FIRST = {"validation": 2, "test": 1}  # the articles before have the characters that cells are scored and searched on
HEADING = re.compile(r"(?:^|(?<= \n)) = (?!= )(?P<title>[^\n]+?) = \n(?= \n)")  # of an article, not of its parts


class Piece(NamedTuple):
    """A text of its own: an article, or a part of a split."""

    title: str
    text: str


class Held(NamedTuple):
    """A piece as a model reads it."""

    title: str
    samples: Samples


def pieces(data: DictConfig, *, window: int) -> dict[str, list[Piece]]:
    """Return the held-out pieces of the validation and the test split; none of a task, or of a split without a rest."""
    if data.task is not None:
        return {}
    request = Request.of(data)
    splits = dict(zip(sources.SPLITS, request.splits(), strict=True))
    validation, test = ("".join(splits[name]) for name in ("validation", "test"))
    if request.source in sources.HUB_CONFIGS:
        return {
            "validation": scoring(validation, first=FIRST["validation"]),
            "test": scoring(test, first=FIRST["test"]),
        }
    ends = {
        "validation": None if request.validation is None else request.validation_start + request.validation,
        "test": request.test,
    }
    texts = {"validation": validation, "test": test}
    return {name: [] if end is None else rest(texts[name], end, window=window) for name, end in ends.items()}


def articles(text: str) -> list[Piece]:
    """Return the articles of a split of WikiText, each with its title as it stands there."""
    headings = [*HEADING.finditer(text)]
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    return [Piece(h["title"], text[h.start() : end]) for h, end in zip(headings, ends, strict=True)]


def scoring(text: str, *, first: int) -> list[Piece]:
    """Return the beginnings of the articles that score: from article number ``first`` on, counted from 0."""
    return beginnings(articles(text)[first:])[:NUMBER]


def choosing(text: str) -> list[Piece]:
    """Return the beginnings of the articles of validation that searches and mixing weights may be chosen on."""
    return beginnings(articles(text))[-NUMBER:]


def beginnings(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the first 5,000 characters of each piece that has as many."""
    return [Piece(title, text[:LENGTH]) for title, text in pieces if len(text) >= LENGTH]


def rest(text: str, start: int, *, window: int) -> list[Piece]:
    """Return what follows ``start`` in up to 8 pieces of equal length, of 5,000 characters or 78 windows at most."""
    left = text[start:]
    number = min(NUMBER, len(left) // (FEWEST_WINDOWS * window + 1))
    length = min(LENGTH, MOST_WINDOWS * window + 1, len(left) // number) if number else 0
    places = range(start, start + number * length, length) if number else ()
    return [Piece(f"characters {place + 1:,} to {place + length:,}", text[place : place + length]) for place in places]


def that_choose(data: DictConfig, corpus: Corpus) -> list[Held]:
    """Return the texts on which mixing weights are chosen, at least two.

    Of WikiText they are the articles kept for it. Of any other text they are the held-out pieces of validation, which
    are no part of the scored text either. Raises UsageError if there are fewer, or the scored text has some of them.
    """
    if Request.of(data).source in sources.HUB_CONFIGS:
        _, validation, _ = ("".join(split) for split in Request.of(data).splits())
        chosen = choosing(validation)
        first = min(validation.index(piece.text) for piece in chosen)
        end = len(validation) if data.validation_chars is None else data.validation_start + data.validation_chars
        if end > first:
            raise UsageError(
                f"data.validation_chars={data.validation_chars}: from character {first + 1:,} of validation on lie the "
                "articles that choose; train with a scored text that ends before it"
            )
    else:
        chosen = pieces(data, window=data.window)["validation"]
    held = _held("validation", chosen, data, corpus)
    if len(held) < 2:
        raise UsageError(
            f"data.validation_chars={data.validation_chars}: what follows the scored validation text is too short to "
            "choose weights on; train with a smaller one"
        )
    return held


def unseen(data: DictConfig, corpus: Corpus, characters: int) -> Samples:
    """Return what follows the trained characters in the training split. Raises UsageError if that is too short."""
    train = "" if data.task is not None else "".join(next(iter(Request.of(data).splits())))
    start = len(train) if data.train_chars is None else data.train_chars
    if len(train) < start + characters:
        rest = max(0, len(train) - start)
        raise UsageError(
            f"memory_chars={characters}: {rest:,} characters of the training split follow those that the cells were "
            f"trained on; try memory_chars={rest}, or train with a smaller data.train_chars"
        )
    text = Text.read([train[start : start + characters]], corpus.vocabulary)
    return Samples("train", text, window=data.window, windows_per_sample=data.windows_per_sample)


def of_cell(data: DictConfig, corpus: Corpus, library: Library) -> dict[str, list[Held]]:
    """Return the held-out pieces that have a whole window, by split, each in samples as the cell's own text is."""
    texts = library.derive(corpus, ("articles", str(data)), lambda: pieces(data, window=data.window))
    return {split: _held(split, some, data, corpus) for split, some in texts.items()}


def _held(split: str, some: Sequence[Piece], data: DictConfig, corpus: Corpus) -> list[Held]:
    """Return the pieces of a split that have a whole window."""
    encoded = [(piece.title, Text.read([piece.text], corpus.vocabulary)) for piece in some]
    shape = {"window": data.window, "windows_per_sample": data.windows_per_sample}
    return [Held(title, Samples(split, text, **shape)) for title, text in encoded if len(text) > data.window]


@torch.no_grad()
def read(model: CharLM, texts: Sequence[Held], *, precision: str = "32-true") -> list[Tensor]:
    """Return the nats of each character of some texts, (T,) each, in double precision on the CPU.

    A model that carries its memory reads texts of equal length side by side, each as one lane.
    """
    model.eval()
    with in_precision(model, precision):
        if not (model.uses_memory and model.memory_policy.evaluation_mode == "carry"):
            return [_in_samples(model, samples) for _, samples in texts]
        by_length = defaultdict[int, list[int]](list)
        for number, (_, samples) in enumerate(texts):
            by_length[samples.num_characters].append(number)
        nats = dict[int, Tensor]()
        for length, numbers in by_length.items():
            lanes = [texts[number].samples.read([0], length) for number in numbers]
            tokens, targets = (torch.cat(parts) for parts in zip(*lanes, strict=True))
            nats |= dict(zip(numbers, _nats(model, tokens, targets), strict=True))
    return [nats[number] for number in range(len(texts))]


def _in_samples(model: CharLM, samples: Samples) -> Tensor:
    batches = (samples[indices] for indices in EvaluationBatches(samples, batch_size=MAX_LANES))
    return torch.cat([_nats(model, *batch).flatten() for batch in batches])


def _nats(model: CharLM, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the nats of (B, T) targets."""
    logits, _ = model(tokens.to(model.device))
    losses = functional.cross_entropy(logits.transpose(1, 2), targets.to(model.device), reduction="none")
    return losses.double().cpu()


def scores(texts: Sequence[Held], nats: Sequence[Tensor]) -> list[Article]:
    """Return what a record says of some texts and the nats of their characters."""
    return [
        Article(
            title=title,
            nats=float(values.sum()),
            characters=samples.num_decoded,
            unknown=samples.unknown_characters,
            windows=by_window(values, samples.window),
        )
        for (title, samples), values in zip(texts, nats, strict=True)
    ]


def by_window(nats: Tensor, window: int) -> list[float]:
    """Return the nats of each window of a text, rounded to a ten-thousandth."""
    return [round(value, 4) for value in nats.reshape(-1, window).sum(dim=1).tolist()]
