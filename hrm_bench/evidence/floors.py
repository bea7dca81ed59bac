"""N-gram baselines: what counting characters reaches on the same text. A model that learns more must beat them.

The baselines are uniform, add-one unigram, and interpolated modified Kneser-Ney of order 2 to 7 (``data.kneser_ney``).
"""

import math
from array import array
from itertools import pairwise

import torch
from torch import Tensor

from hrm_bench.data.corpora import Corpus
from hrm_bench.data.kneser_ney import MOST_COUNTED, ORDERS, Counts
from hrm_bench.data.text import PRINTABLE_ASCII, Packed, packed
from hrm_bench.data.windows import Samples
from hrm_bench.evidence import answers
from hrm_bench.records.schema import Floors

WAYS = {
    "full": "the counts of the training text, each character after all that precede it in the scored text",
    "window": "the same counts, each character after those of its own window alone",
    "adaptive": "as full, but the counts also grow by each character once it is scored",
}


def of_corpus(corpus: Corpus, *, window: int) -> dict[str, Floors]:
    """Compute the baselines of the validation and the test text; Kneser-Ney only up to ``MOST_COUNTED`` characters.

    Perplexities are per character: those of bytes are raised to the bytes per character.
    """
    ngrams = sum(map(len, corpus.splits.values())) <= MOST_COUNTED
    if corpus.task is not None:
        return {name: answers.floors(corpus, name, window=window, ngrams=ngrams) for name in ("validation", "test")}
    return {name: of_split(corpus, name, window=window, ngrams=ngrams) for name in ("validation", "test")}


def of_split(corpus: Corpus, name: str, *, window: int, ngrams: bool = True) -> Floors:
    """Compute the baselines of one split, per character."""
    if corpus.task is not None:
        return answers.floors(corpus, name, window=window, ngrams=ngrams)
    text, size = corpus.splits[name], len(corpus.vocabulary)
    samples = Samples(name, text, window=window, windows_per_sample=1)
    baselines = floors(corpus.train.indices, text.indices, window=window, ngrams=ngrams, vocabulary_size=size)
    power = samples.symbols_per_character
    return {model: {way: value**power for way, value in ways.items()} for model, ways in baselines.items()}


def floors(
    train: Tensor, scored: Tensor, *, window: int, ngrams: bool = True, vocabulary_size: int = len(PRINTABLE_ASCII)
) -> Floors:
    """Compute perplexity per character by baseline ("uniform", "unigram", "kneser_ney_2" …) and by way (``WAYS``).

    The predicted characters are those that a model predicts: 1 … n·window, for n whole windows. Baselines without
    context have no "window", and the uniform one, which counts nothing, is "full" alone.

    If fewer characters precede than an order needs (at the start of the text or of a window), the order that needs
    exactly those predicts, with raw counts at its top. "adaptive" is exact: each character is predicted as if all that
    precede it in the scored text had been a second training text, continuation counts and discounts included.

    Args:
        train: (T,) indices of the training text.
        scored: (T,) indices of the scored text, at least one window and one character; no n-gram spans both texts.
        window: characters per window.
        ngrams: whether to include Kneser-Ney, which takes about 15 µs and 0.4 kB per character.
        vocabulary_size: number of symbols.
    """
    num_predicted = (len(scored) - 1) // window * window
    assert num_predicted, "Samples asks for a window"
    seen = scored[: num_predicted + 1]
    baselines = {
        "uniform": {"full": float(vocabulary_size)},
        "unigram": {
            "full": math.exp(unigram_nll(train, seen[1:], vocabulary_size)),
            "adaptive": math.exp(_adaptive_unigram_nll(train, seen, vocabulary_size)),
        },
    }
    if ngrams:
        by_order = _kneser_ney_nll(packed(train), packed(seen), window, vocabulary_size)
        for order, ways in by_order.items():
            baselines[f"kneser_ney_{order}"] = {way: math.exp(nll) for way, nll in ways.items()}
    return baselines


def unigram_nll(train: Tensor, scored: Tensor, vocabulary_size: int = len(PRINTABLE_ASCII)) -> float:
    """Compute the mean nats per scored character, (T,), under add-one counts of the training characters."""
    counts = torch.bincount(train, minlength=vocabulary_size).double() + 1
    return float(-(counts / counts.sum()).log()[scored.long()].mean())


def best(baselines: Floors, *ways: str) -> tuple[str, str, float]:
    """Return the baseline, the way (one of those given) and the perplexity that is lowest."""
    figures = ((name, way, by_way[way]) for name, by_way in baselines.items() for way in ways if way in by_way)
    return min(figures, key=lambda figure: figure[2])


def _adaptive_unigram_nll(train: Tensor, seen: Tensor, vocabulary_size: int) -> float:
    """Compute ``unigram_nll`` of all but the first of the (T,) seen characters, each counted before the next."""
    counts = (torch.bincount(train, minlength=vocabulary_size) + 1).tolist()
    total, nll = sum(counts), 0.0
    for previous, target in pairwise(array("i", seen.int().numpy().tobytes())):  # a list would be twice as large
        counts[previous] += 1
        total += 1
        nll -= math.log(counts[target] / total)
    return nll / (len(seen) - 1)


def _kneser_ney_nll(train: Packed, seen: Packed, window: int, vocabulary_size: int) -> dict[int, dict[str, float]]:
    """Compute the mean nats per character by order and way, of all but the first of the seen characters."""
    counts = Counts(vocabulary_size)
    for position in range(len(train)):
        counts.add(train, position)
    totals = {order: dict.fromkeys(WAYS, 0.0) for order in ORDERS}
    for position in range(1, len(seen)):
        visible = (position - 1) % window + 1  # characters of the window that precede the predicted one
        nlls = [-math.log(probability) for probability in counts.probabilities(seen, position)]
        for order, ways in totals.items():
            ways["full"] += nlls[: order - 1][-1]
            ways["window"] += nlls[: min(order - 1, visible)][-1]
    for position in range(1, len(seen)):  # from here on the counts are no longer those of the training text
        counts.add(seen, position - 1)
        nlls = [-math.log(probability) for probability in counts.probabilities(seen, position)]
        for order, ways in totals.items():
            ways["adaptive"] += nlls[: order - 1][-1]
    num_predicted = len(seen) - 1
    return {order: {way: total / num_predicted for way, total in ways.items()} for order, ways in totals.items()}
