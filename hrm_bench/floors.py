"""What counting alone reaches on the same characters: floors that a trained model must go under to have learnt more.

Uniform, add-one unigram, and interpolated modified Kneser-Ney (Chen & Goodman 1998, section 3). For a character w after
a context h of n − 1 characters, h′ being h less its first and V the 97 symbols:

    P(w | h) = (c(hw) − D(c(hw))) / c(h·) + γ(h) P′(w | h′)                                               (1)
    γ(h)     = (D1 N1(h·) + D2 N2(h·) + D3 N3(h·)) / c(h·)                                                (2)
    D1 = 1 − 2 Y n2/n1,   D2 = 2 − 3 Y n3/n2,   D3 = 3 − 4 Y n4/n3,   Y = n1 / (n1 + 2 n2)                (3)
    P′ is (1) again, with c(hw) the number of distinct characters that precede hw; P′ below one character: 1 / V    (4)

c(h·) sums c(hw) over w; N1, N2 and N3 are how many w follow h once, twice and more often; n1 … n4 are how many n-grams
of that length have such a count; D(c) is 0, D1, D2 and, from three on, D3. A context that was never seen has P = P′.

``python -m hrm_bench.floors data=wikitext2`` shows all of them; the words are those of ``python -m hrm_bench``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hrm_bench.config.compose import compose
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.errors import command
from hrm_bench.records.schema import Floors

ORDERS = range(2, 8)  # of Kneser-Ney: characters of an n-gram, the predicted one included
WAYS = {
    "full": "the counts of the training text, each character after all that precede it in the scored text",
    "window": "the same counts, each character after those of its own window alone",
    "adaptive": "as full, but the counts go on with each character once it is scored",
}
FALLBACK = (0.5, 1.0, 1.5)


def unigram_nll(train: Tensor, scored: Tensor) -> float:
    """Mean negative log-likelihood, nats a character, of (T,) scored characters under add-one counts of the others."""
    counts = torch.bincount(train, minlength=len(CHARACTERS)).double() + 1
    return float(-(counts / counts.sum()).log()[scored.long()].mean())


def floors(train: Tensor, scored: Tensor, *, window: int, ngrams: bool = True) -> Floors:
    """Perplexity a character by floor ("uniform", "unigram", "kneser_ney_2" …) and by way (those of ``WAYS``).

    ``train`` and ``scored`` are (T,) indices of two texts, of which the second begins anew: no n-gram spans both. What
    is predicted is what a model predicts: of n whole windows the characters 1 … n·window, so there must be one window.
    Floors without context have no "window", and the uniform one, which counts nothing, is "full" alone. ``ngrams``
    false leaves Kneser-Ney out, which takes about 15 µs and 0.4 kB a character.

    After fewer characters than an order wants (at the start of the text or of a window) the order of those that there
    are predicts, with raw counts at its top: in a window's second prediction, which sees two characters,
    ``kneser_ney_5`` is ``kneser_ney_3``. "adaptive" is exact: each character is predicted as if all that precede it in
    the scored text had been a second training text, continuation counts and discounts (3) included.
    """
    num_predicted = (len(scored) - 1) // window * window
    assert num_predicted, "Samples asks for a window"
    seen = scored[: num_predicted + 1]
    found = {
        "uniform": {"full": float(len(CHARACTERS))},
        "unigram": {
            "full": math.exp(unigram_nll(train, seen[1:])),
            "adaptive": math.exp(_adaptive_unigram_nll(train, seen)),
        },
    }
    if not ngrams:
        return found
    for order, ways in _kneser_ney_nll(bytes(train.tolist()), bytes(seen.tolist()), window=window).items():
        found[f"kneser_ney_{order}"] = {way: math.exp(nll) for way, nll in ways.items()}
    return found


def best(found: Floors, *ways: str) -> tuple[str, str, float]:
    """The floor, the way (one of those asked for) and the perplexity that is lowest."""
    return min(
        ((name, way, figures[way]) for name, figures in found.items() for way in ways if way in figures),
        key=lambda each: each[2],
    )


def _adaptive_unigram_nll(train: Tensor, seen: Tensor) -> float:
    """As ``unigram_nll``, of all but the first of the (T,) seen characters; each is counted before the next."""
    counts = (torch.bincount(train, minlength=len(CHARACTERS)) + 1).tolist()
    total, nll = sum(counts), 0.0
    for previous, target in pairwise(bytes(seen.byte().numpy())):  # as a list it would be eight times as large
        counts[previous] += 1
        total += 1
        nll -= math.log(counts[target] / total)
    return nll / (len(seen) - 1)


def _kneser_ney_nll(train: bytes, seen: bytes, *, window: int) -> dict[int, dict[str, float]]:
    """Mean nats a character by order and way, of all but the first of the seen characters."""
    counts = Counts()
    for position in range(len(train)):
        counts.add(train, position)
    totals = {order: dict.fromkeys(WAYS, 0.0) for order in ORDERS}
    for position in range(1, len(seen)):
        visible = (position - 1) % window + 1  # characters of the window that precede the predicted one
        nlls = [-math.log(each) for each in counts.probabilities(seen, position)]
        for order, ways in totals.items():
            ways["full"] += nlls[: order - 1][-1]
            ways["window"] += nlls[: min(order - 1, visible)][-1]
    for position in range(1, len(seen)):  # from here on the counts are no longer those of the training text
        counts.add(seen, position - 1)
        nlls = [-math.log(each) for each in counts.probabilities(seen, position)]
        for order, ways in totals.items():
            ways["adaptive"] += nlls[: order - 1][-1]
    num_predicted = len(seen) - 1
    return {order: {way: total / num_predicted for way, total in ways.items()} for order, ways in totals.items()}


class Counts:
    """The counts from which every order predicts; they can go on growing. A text is bytes, a byte a character.

    All orders share them: an order's top level is the raw counts of its own length, and below that level all orders
    have the same continuation counts.
    """

    def __init__(self) -> None:
        self.raw = {length: Level() for length in ORDERS}
        self.continuation = {length - 1: Level() for length in ORDERS}

    def add(self, text: bytes, position: int) -> None:
        """Count the n-grams of ``text`` that end at ``position``; the text's own start precedes nothing."""
        for length in ORDERS[:position]:
            ngram = text[position + 1 - length : position + 1]
            if self.raw[length].add(ngram):
                self.continuation[length - 1].add(ngram[1:])  # one more character that precedes it: (4)

    def probabilities(self, text: bytes, position: int) -> list[float]:
        """Of the character at ``position``, at least 1: under order 2, 3 …, up to the last whose context there is."""
        found = []
        lower = self.continuation[1].probability(text[position : position + 1], 1 / len(CHARACTERS))
        for length in ORDERS[:position]:
            ngram = text[position + 1 - length : position + 1]
            found.append(self.raw[length].probability(ngram, lower))
            if length in self.continuation:
                lower = self.continuation[length].probability(ngram, lower)
        return found


class Level:
    """The n-grams of one length: their counts, raw or of continuation, and all that (1) to (3) need of them."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self.contexts: dict[bytes, list[int]] = {}  # c(h·), N1(h·), N2(h·), N3(h·)
        self.num_with_count = [0] * 6  # n1 … n4, each at its own place; the two at the ends are not used
        self.discounts: tuple[float, float, float] | None = None  # None: to be estimated

    def add(self, ngram: bytes) -> bool:
        """Count one more; whether it is the first of its kind."""
        count = self.counts.get(ngram, 0) + 1
        self.counts[ngram] = count
        context = self.contexts.setdefault(ngram[:-1], [0, 0, 0, 0])
        context[0] += 1
        if count <= 3:
            context[count] += 1
        if 2 <= count <= 3:
            context[count - 1] -= 1
        if count <= 5:
            self.num_with_count[count] += 1
            self.num_with_count[count - 1] -= 1
            self.discounts = None
        return count == 1

    def probability(self, ngram: bytes, lower: float) -> float:
        """P(last | those before it) by (1), from that of the context less its first character."""
        if ngram[:-1] not in self.contexts:
            return lower
        if self.discounts is None:
            self.discounts = discounts(*self.num_with_count[1:5])
        first, second, third = self.discounts
        total, ones, twos, more = self.contexts[ngram[:-1]]
        count = self.counts.get(ngram, 0)
        discounted = count - (0.0, first, second, third)[min(count, 3)]
        return (discounted + (first * ones + second * twos + third * more) * lower) / total  # γ: (2)


def discounts(n1: int, n2: int, n3: int, n4: int) -> tuple[float, float, float]:
    """D1, D2 and D3 by (3), or all three ``FALLBACK`` where the counts of a small text give no usable ones.

    Usable is 0 < Dj < j for each: then every n-gram that was seen keeps some probability, and so does every other.
    With one of n1 … n4 zero, a discount is undefined or takes a whole count away; Dj < j for all others. The fallback
    is KenLM's, half of each count.
    """
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimated = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if min(estimated) > 0:
            return estimated
    return FALLBACK


def show(found: Floors, *, title: str) -> None:
    """Print the table of one split, and which floors are lowest."""
    console = Console()
    table = Table(title=title)
    table.add_column("floor", overflow="fold")
    for way in WAYS:
        table.add_column(way, justify="right", overflow="fold")
    for name, figures in found.items():
        table.add_row(name, *(_cell(figures[way]) if way in figures else "" for way in WAYS))
    console.print(table)
    for kind, ways in (("frozen", ("full", "window")), ("window", ("window",)), ("adaptive", ("adaptive",))):
        name, way, perplexity = best(found, *ways)
        console.print(f"Best {kind} floor: {name} {way}, {_cell(perplexity)}", highlight=False)


def _cell(perplexity: float) -> str:
    return f"{perplexity:.2f} ({math.log2(perplexity):.3f})"


def main(words: Sequence[str]) -> int:
    """Show the floors of the validation and the test text of a config."""
    from hrm_bench.training.build import load_windows

    cfg = compose(*words)
    data = load_windows(cfg)
    for name, split in (("validation", data.validation), ("test", data.test)):
        show(
            floors(data.train.indices, split.indices, window=split.window),
            title=f"{name}: perplexity a character (bits)",
        )
    print(
        f"\n{data.validation.num_characters:,} validation and {data.test.num_characters:,} test characters of "
        f"{cfg.data.source} after {len(data.train.indices):,} of training, in windows of {cfg.data.window}."
    )
    for way, meaning in WAYS.items():
        print(f"{way}: {meaning}.")
    return 0


if __name__ == "__main__":
    command(main)
