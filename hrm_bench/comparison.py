"""Two variants by their scores, one per seed, made anywhere: the difference, an answer, and how to report it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from hrm_bench import statistics
from hrm_bench.errors import UsageError
from hrm_bench.intervals import (
    MIN_SEEDS,
    Difference,
    Quantity,
    Rate,
    difference,
    level,
    percent_difference,
    rate,
)
from hrm_bench.table import count

Scores = Sequence[float] | Mapping[int, float]  # one per seed
Answer = Literal["different", "equivalent", "undecided"]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What two variants' scores say about each other; ``str`` of it is how to report it."""

    names: tuple[str, str]  # ours and theirs
    levels: tuple[Quantity, Quantity]  # of the runs that left the plateau, or of all if none did
    rates: tuple[Rate, Rate] | None  # of leaving the plateau, if one is given
    difference: Difference  # ours minus theirs
    percent: Quantity  # the same, in percent of theirs
    answer: Answer
    margin: float
    published: float | None = None  # percent
    verdict: statistics.Verdict | None = None  # on the published difference

    @property
    def rates_differ(self) -> bool:
        """Whether the intervals of the two rates have nothing in common."""
        return self.rates is not None and not max(r.low for r in self.rates) <= min(r.high for r in self.rates)

    @property
    def seeds_needed(self) -> int | None:
        """How many seeds would decide, if means, sds and rates stayed the same; None if decided, or too many."""
        bounds = statistics.Bounds(0.0, None, self.margin)
        if self.answer != "undecided" or statistics.verdict(self.percent, bounds) == "undecided":
            return statistics.seeds_to_decide(self.percent, bounds) if self.answer == "undecided" else None
        return statistics.seeds_for_rates(self.rates or ()) or None

    def __str__(self) -> str:
        return " ".join(filter(None, [self._levels(), self._plateau(), self._difference(), self._answer(), LIMIT]))

    def _levels(self) -> str:
        sides = []
        for name, q in zip(self.names, self.levels, strict=True):
            spread = "" if q.sd is None else f" (sd {q.sd:.2g})"
            sides.append(
                f"{name} scores {q.estimate:.4g}{_interval(q.low, q.high, '.4g')}{spread} over {count(q.seeds, 'run')}"
            )
        return f"{' and '.join(sides)}."

    def _plateau(self) -> str:
        if self.rates is None:
            return ""
        parts = [
            f"{r.number} of {r.runs} runs of {name} [{100 * r.low:.0f}, {100 * r.high:.0f}] %"
            for name, r in zip(self.names, self.rates, strict=True)
        ]
        return f"The plateau was left by {' and '.join(parts)}; means are of those runs."

    def _difference(self) -> str:
        d, q = self.difference, self.percent
        p = "" if d.p is None else f" (p = {d.p:.2g})"
        percent = f"{d.percent:+.2f} %{_interval(d.percent_low, d.percent_high, '+.2f')}{p}"
        single = _interval(q.single_low, q.single_high, "+.2f")
        more = single and f" One more run of each would differ by{single} %."
        return f"The difference is {d.mean:+.4g}{_interval(d.low, d.high, '+.4g')}, {percent}.{more}"

    def _answer(self) -> str:
        low, high = self.percent.low or 0.0, self.percent.high or 0.0
        how = ["scores lower"] * (high < 0) + ["scores higher"] * (low > 0)
        if self.rates is not None and self.rates_differ:
            more = self.rates[0].low > self.rates[1].high
            how.append(f"leaves the plateau {'more' if more else 'less'} often")
        texts = {
            "different": f"Different: {self.names[0]} {' and '.join(how)}.",
            "equivalent": f"Equivalent: the difference is within ±{self.margin:g} %.",
            "undecided": f"Undecided: {self._needed()}.",
        }
        claim = "" if self.verdict is None else f" A published difference of {self.published:+g} % is {self.verdict}."
        return texts[self.answer] + claim

    def _needed(self) -> str:
        if self.percent.low is None:
            return f"an interval needs at least {MIN_SEEDS} seeds of each"
        if self.seeds_needed is None:
            return "more seeds would decide it only if the estimates changed"
        return f"about {self.seeds_needed:,} seeds of each would decide it"


LIMIT = "Brackets are 95 % intervals over seeds; they do not say what another text would give."


def compare(
    ours: Scores,
    theirs: Scores,
    *,
    names: tuple[str, str] = ("ours", "theirs"),
    margin: float = statistics.MARGIN,
    plateau: float | None = None,
    published: float | None = None,
) -> Comparison:
    """Compare the scores of two variants by the rules of the report; their runs are not paired.

    Args:
        ours: one score per seed, in any order; lower or higher may be better.
        theirs: the scores that ours are compared with; they need not have the same seeds.
        names: of the two variants.
        margin: percent of theirs within which a difference is none.
        plateau: a perplexity or loss from which on a run has learned nothing. Such runs are counted apart.
        published: a published difference in percent of theirs, which gets a verdict.

    Raises UsageError for scores that cannot be compared.
    """
    sides, rates = [_values(name, scores) for name, scores in zip(names, (ours, theirs), strict=True)], None
    if plateau is not None:
        left = [[value for value in side if value < plateau] for side in sides]
        rates = (rate(len(left[0]), len(sides[0])), rate(len(left[1]), len(sides[1])))
        sides = [some or side for some, side in zip(left, sides, strict=True)]
    found = difference(*sides)
    if found is None or sum(sides[1]) <= 0:
        raise UsageError(f"{names[1]}: the mean must be above 0, since a difference is in percent of it")
    percent, on_rates = percent_difference(*sides), [statistics.verdict_on_rate(some) for some in rates or ()]
    of_margin = statistics.verdict(percent, statistics.Bounds(math.inf, None, margin))
    is_equivalent = statistics.combined(of_margin, on_rates) == "equivalent"
    verdict = None
    if published is not None:
        bounds = statistics.published_range("difference", published, margin=margin)
        verdict = statistics.combined(statistics.verdict(percent, bounds), on_rates)
    answer: Answer = "equivalent" if is_equivalent else "undecided"
    levels = (level(sides[0]), level(sides[1]))
    comparison = Comparison(names, levels, rates, found, percent, answer, margin, published, verdict)
    is_different = percent.low is not None and percent.high is not None and not percent.low <= 0 <= percent.high
    if not is_equivalent and (is_different or comparison.rates_differ):
        return dataclasses.replace(comparison, answer="different")
    return comparison


def _values(name: str, scores: Scores) -> list[float]:
    values = [float(value) for value in (scores.values() if isinstance(scores, Mapping) else scores)]
    if not values or not all(map(math.isfinite, values)):
        raise UsageError(f"{name}: needs at least one score, and each must be a finite number")
    return values


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
