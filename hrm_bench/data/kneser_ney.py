"""Interpolated modified Kneser-Ney smoothing over characters (Chen & Goodman 1998, section 3).

For a character w after a context h of n - 1 characters, with h' being h without its first character and V the size of
the vocabulary:

    P(w | h) = (c(hw) − D(c(hw))) / c(h·) + γ(h) P'(w | h')                                               (1)
    γ(h)     = (D1 N1(h·) + D2 N2(h·) + D3 N3(h·)) / c(h·)                                                (2)
    D1 = 1 − 2 Y n2/n1,   D2 = 2 − 3 Y n3/n2,   D3 = 3 − 4 Y n4/n3,   Y = n1 / (n1 + 2 n2)                (3)
    P' is (1) again, with c(hw) the number of distinct characters that precede hw; P' below one character: 1 / V    (4)

c(h·) sums c(hw) over w. N1, N2 and N3 are the numbers of characters w that follow h once, twice and more often.
n1 … n4 are the numbers of n-grams of that length that have such a count. D(c) is 0, D1, D2 and, from three on, D3. A
context that was never seen has P = P'.
"""

from hrm_bench.data.text import PRINTABLE_ASCII, Packed

ORDERS = range(2, 8)  # characters of an n-gram, the predicted one included
FALLBACK = (0.5, 1.0, 1.5)
MOST_COUNTED = 1_000_000  # characters up to which a cell's text is counted: half a minute, 0.4 GB


class Counts:
    """The counts from which every order predicts; more can be added at any time. Texts are packed.

    All orders share them: an order's top level is the raw counts of its own length, and below that level all orders
    have the same continuation counts.
    """

    def __init__(self, vocabulary_size: int = len(PRINTABLE_ASCII)) -> None:
        self.vocabulary_size = vocabulary_size
        self.raw = {length: Level() for length in ORDERS}
        self.continuation = {length - 1: Level() for length in ORDERS}

    def add(self, text: Packed, position: int) -> None:
        """Count the n-grams of ``text`` that end at ``position``."""
        for length in ORDERS[:position]:
            ngram = text[position + 1 - length : position + 1]
            if self.raw[length].add(ngram):
                self.continuation[length - 1].add(ngram[1:])  # (4): one more character precedes it

    def discard(self, text: Packed, position: int) -> None:
        """Forget the n-grams that ``add`` has counted last; everything is as it was before."""
        for length in reversed(ORDERS[:position]):
            ngram = text[position + 1 - length : position + 1]
            if self.raw[length].discard(ngram):
                self.continuation[length - 1].discard(ngram[1:])

    def probabilities(self, text: Packed, position: int) -> list[float]:
        """Return the probability of the character at ``position`` (at least 1) under each order whose context fits."""
        by_order = []
        lower = self.continuation[1].probability(text[position : position + 1], 1 / self.vocabulary_size)
        for length in ORDERS[:position]:
            ngram = text[position + 1 - length : position + 1]
            by_order.append(self.raw[length].probability(ngram, lower))
            if length in self.continuation:
                lower = self.continuation[length].probability(ngram, lower)
        return by_order


class Level:
    """The n-grams of one length: their counts, raw or of continuation, and what (1) to (3) need of them."""

    def __init__(self) -> None:
        self.counts: dict[Packed, int] = {}
        self.contexts: dict[Packed, list[int]] = {}  # c(h·), N1(h·), N2(h·), N3(h·)
        self.num_with_count = [0] * 6  # n1 … n4 at the indices 1 … 4; the two ends are not used
        self.discounts: tuple[float, float, float] | None = None  # None: to be estimated

    def add(self, ngram: Packed) -> bool:
        """Count one more; return whether it is the first of its kind."""
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

    def discard(self, ngram: Packed) -> bool:
        """Count one less; return whether it was the last of its kind."""
        count, context = self.counts.pop(ngram), self.contexts[ngram[:-1]]
        if count > 1:
            self.counts[ngram] = count - 1
        context[0] -= 1
        if count <= 3:
            context[count] -= 1
        if 2 <= count <= 3:
            context[count - 1] += 1
        if not context[0]:
            del self.contexts[ngram[:-1]]
        if count <= 5:
            self.num_with_count[count] -= 1
            self.num_with_count[count - 1] += 1
            self.discounts = None
        return count == 1

    def probability(self, ngram: Packed, lower: float) -> float:
        """Return P(last character | those before it) by (1), given the probability under the shorter context."""
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
    """Estimate D1, D2 and D3 by (3), or return ``FALLBACK`` if the counts of a small text give no usable ones.

    They are usable if 0 < Dj < j for each: then every n-gram, seen or unseen, has some probability. If one of n1 … n4
    is zero, a discount is undefined or removes a whole count. The fallback is KenLM's, half of each count.
    """
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimated = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if min(estimated) > 0:
            return estimated
    return FALLBACK
