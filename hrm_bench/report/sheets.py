"""The tables of the page beside the results: what cells cost, what the audits found, what a memory is worth."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hrm_bench.records.schema import Leak, Record
from hrm_bench.report.forest import percent_interval
from hrm_bench.report.variants import Variant, counting
from hrm_bench.statistics import paired_difference

SPLITS = ("validation", "test")
LONG = 10  # lines from which a table is folded away


class Mark(NamedTuple):
    """A cell with a look of its own."""

    text: str
    kind: str  # a class of the page's style sheet


@dataclass(frozen=True)
class Sheet:
    """A table as the page shows it."""

    caption: str
    headings: list[str]
    lines: list[list[str | Mark]]
    faint: list[bool] = field(default_factory=list)  # by line: not causal
    words: frozenset[str] = frozenset()  # headings of columns of words; all others are of figures

    @property
    def is_long(self) -> bool:
        """Whether it is folded away."""
        return len(self.lines) > LONG


def sheet(
    caption: str, lines: Sequence[Mapping[str, str | Mark]], *, faint: Iterable[bool] = (), words: Iterable[str] = ()
) -> Sheet | None:
    """A table without the columns that are empty everywhere; None where nothing but the first is left."""
    headings = [heading for heading in (lines[0] if lines else {}) if any(line.get(heading) for line in lines)]
    if len(headings) < 2:
        return None
    first = headings[0]
    cells = [[line.get(heading, "") for heading in headings] for line in lines]
    return Sheet(caption, headings, cells, list(faint), frozenset(words) | {first})


def cost(shown: Sequence[Variant]) -> Sheet | None:
    """Size and time of each variant."""
    lines = []
    for variant in shown:
        records = list(variant.seeds.values())
        any_record = records[0]
        lines.append(
            {
                "variant": variant.label,
                "parameters": f"{variant.row.parameters:,}",
                "state, numbers a lane": _whole(any_record.get("state_size")),
                "FLOPs a character": _whole(any_record.get("flops_per_character")),
                "characters a second in training": _median(records, "characters_per_second"),
                "seconds a cell": _median(records, "seconds"),
                "peak memory, MB": _median(records, "peak_memory", scale=1e-6),
            }
        )
    caption = (
        "Parameters; the numbers that a lane carries from window to window; operations to read one character, without "
        "training (twice the multiply-adds of all matrix products). Speed, time and memory are medians over seeds, on "
        "the machine that ran the cells and with what ran beside them."
    )
    return sheet(caption, lines, faint=_faint(shown))


def leaks(shown: Sequence[Variant]) -> Sheet | None:
    """The largest leak that either audit found in any seed, before training or after."""
    lines: list[dict[str, str | Mark]] = []
    for variant in shown:
        found = [leak for record in variant.seeds.values() for leak in record.get("leak", {}).values()]
        causal = Mark("✓ causal", "good") if variant.row.causal else Mark("✗ not causal", "bad")
        lines.append(
            {
                "variant": variant.label,
                "by perturbation": _largest(found, "perturbation"),
                "by gradient": _largest(found, "gradient"),
                "audit": causal,
            }
        )
    caption = (
        "How much of the future any logit shows, the largest over all seeds, before training and at the best epoch: by "
        "how much a logit moves when a later character changes, and the gradient of a logit in a later character's "
        "embedding. Both are but rounding where a model is causal."
    )
    return sheet(caption, lines, faint=_faint(shown), words=["audit"])


def coverage(shown: Sequence[Variant]) -> Sheet | None:
    """Which losses reach each component, a column a model; a column a variant where a model's variants differ."""
    columns: dict[str, dict[str, list[str]]] = {}
    by_model: dict[str, list[Variant]] = {}
    for variant in shown:
        by_model.setdefault(variant.key.model, []).append(variant)
    for model, group in by_model.items():
        found = [_coverage(variant) for variant in group]
        alike = all(each == found[0] for each in found)
        columns |= {model: found[0]} if alike else {v.label: each for v, each in zip(group, found, strict=True)}
    columns = {name: column for name, column in columns.items() if column}
    components = dict.fromkeys(component for column in columns.values() for component in column)
    lines: list[dict[str, str | Mark]] = [
        {
            "component": component,
            **{name: _losses(column[component]) if component in column else "–" for name, column in columns.items()},
        }
        for component in components
    ]
    caption = (
        "The loss that trains each component, measured from the gradients of two windows: the task loss, OACD "
        "(unsupervised), or none. A dash: the model has no such component. levels.0 is the lowest level."
    )
    return sheet(caption, lines, words=columns)


def memory_use(shown: Sequence[Variant]) -> list[Sheet]:
    """A table a split: perplexity with the own memory, an empty one, and another lane's."""
    having = [variant for variant in shown if all(record.get("memory_use") for record in variant.seeds.values())]
    made = []
    for split in SPLITS:
        lines = []
        for variant in having:
            uses = [record["memory_use"][split] for record in variant.seeds.values()]
            own, zeroed = [use["own"] for use in uses], [use["zeroed"] for use in uses]
            lines.append(
                {
                    "variant": variant.label,
                    "own memory": _mean(own),
                    "zeroed": _mean(zeroed),
                    "another lane's": _mean([use["another_lane"] for use in uses]),
                    "zeroed − own, by seed": _difference(zeroed, own),
                }
            )
        caption = (
            f"Perplexity a character on {split}, mean ± sd over seeds, when the best checkpoint reads its own memory, "
            "an empty one before each window, and that of a lane that has read other text. Above zero, the memory "
            "helps; if another lane's does as well, what it holds is not of this text."
        )
        found = sheet(caption, lines, faint=_faint(having))
        made += [found] if found else []
    return made


def against_counts(shown: Sequence[Variant]) -> Sheet | None:
    """What a carried memory gains on the same model without one, beside what counts gain that go on counting."""
    lines = []
    having = []
    for variant in shown:
        without = _without_memory(variant, shown)
        if variant.key.memory != "carry" or without is None:
            continue
        having.append(variant)
        line = {"variant": variant.label}
        for place, split in enumerate(SPLITS):
            common = sorted(variant.seeds.keys() & without.seeds.keys())
            ours, theirs = (_perplexities(each, split, common) for each in (variant, without))
            line[f"carried memory, {split}"] = _difference(ours, theirs)
            line[f"counts that go on, {split}"] = _counts_gain(variant.seeds[common[0]], place) if common else ""
        lines.append(line)
    caption = (
        "What knowing more than the window is worth: perplexity with the memory that is carried less that of the same "
        "model trained without one, by seed, and that of the best n-gram counts that go on counting in the scored text "
        "less that of those that see the window alone. Below zero is better; where the first is not below the second, "
        "the memory does not make of the past what counting does."
    )
    return sheet(caption, lines, faint=_faint(having))


def _perplexities(variant: Variant, split: str, seeds: Iterable[int]) -> list[float]:
    records: list[Any] = [variant.seeds[seed] for seed in seeds]
    return [record[split]["perplexity"] for record in records]


def _without_memory(variant: Variant, shown: Sequence[Variant]) -> Variant | None:
    """The variant that is the same but for its memory."""
    mine = dict(variant.key.settings)
    for other in shown:
        same = (other.key.model, other.key.memory) == (variant.key.model, "none")
        if same and all(mine.get(name, value) == value for name, value in other.key.settings):
            return other
    return None


def _counts_gain(record: Record, place: int) -> str:
    within, going_on = counting(record, "window"), counting(record, "adaptive")
    if within is None or going_on is None:
        return ""
    before, after = within[1:][place], going_on[1:][place]
    return f"{after - before:+.3f} ({100 * (after / before - 1):+.2f} %)"


def _largest(found: Sequence[Leak], audit: Literal["perturbation", "gradient"]) -> str:
    largest = max((leak[audit] for leak in found), default=None)
    return "" if largest is None else f"{largest:.1e}" if largest else "0"


def _coverage(variant: Variant) -> dict[str, list[str]]:
    return next(iter(variant.seeds.values())).get("gradient_coverage", {})


def _losses(kinds: Sequence[str]) -> str | Mark:
    return " and ".join(kinds) or Mark("none", "bad")


def _faint(shown: Sequence[Variant]) -> list[bool]:
    return [not variant.row.causal for variant in shown]


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _median(records: Sequence[Record], key: str, *, scale: float = 1) -> str:
    values: list[Any] = [record.get(key) for record in records]
    known = [value for value in values if value is not None]
    return f"{scale * statistics.median(known):,.0f}" if known else ""


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    found = paired_difference(ours, theirs)
    if found is None:
        return ""
    interval = percent_interval(found, statistics.fmean(theirs))
    told = f"{found.mean:+.3f} ({found.percent:+.2f} %"
    return told + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}])" if interval else ")")


class Reference(NamedTuple):
    """A figure that the reports quote for a model that they did not train."""

    model: str
    perplexity: float  # a word
    text: str


# Of both reports. The text of Transformer-XL's figure is that of its paper, and not the reports' "WikiText-2".
REFERENCES = (
    Reference("GPT-2 small (117M)", 30.0, "WikiText-2, whole"),
    Reference("LSTM (10M)", 100.0, "WikiText-2, whole"),
    Reference("Transformer-XL (257M)", 24.0, "WikiText-103"),
)


def word_perplexities(records: Sequence[Record], shown: Sequence[Variant]) -> Sheet | None:
    """The word perplexities that the reports quote and those of our causal variants on one text, and their conversion.

    Of each of our models, the variant that is best on validation. None where no record is of WikiText-2.
    """
    counts = next((r["validation"] for r in records if r["config"]["data"]["source"] == "wikitext2"), None)
    if counts is None or not counts["words"]:
        return None
    ratio = counts["characters"] / counts["words"]
    lines = [_word_line(each.model, each.text, math.log(each.perplexity) / ratio, ratio, "≈ ") for each in REFERENCES]
    best: dict[str, Variant] = {}
    for variant in sorted(shown, key=lambda variant: variant.row.validation_mean):
        record = next(iter(variant.seeds.values()))
        same_text = record["config"]["data"]["source"] == "wikitext2" and all(
            record["validation"][name] == counts[name] for name in ("characters", "words")
        )
        if variant.row.causal and same_text:
            best.setdefault(variant.key.model, variant)
    for variant in best.values():
        nll = statistics.fmean(each["validation"]["nll"] for each in variant.seeds.values())
        text = f"{counts['characters']:,} characters of WikiText-2"
        lines.append(_word_line(variant.label, text, nll, ratio, ""))
    caption = (
        f"Word perplexity to the power of 1/{ratio:.3f} is perplexity a character, at the {ratio:.3f} characters a "
        f"word ({counts['characters']:,} characters, {counts['words']:,} words, blanks counted as characters) of the "
        "validation text of these cells. Of each of our models stands the causal variant that is best on validation; "
        "what is converted of it is the mean negative log-likelihood over seeds."
    )
    return sheet(caption, lines, words=["of"])


def _word_line(name: str, text: str, nll: float, ratio: float, about: str) -> dict[str, str]:
    word = math.exp(nll * ratio) if nll * ratio < 700 else math.inf
    return {
        "model": name,
        "of": text,
        "word perplexity": f"{about}{word:,.0f}",
        "bits a character": f"{about}{nll / math.log(2):.2f}",
        "perplexity a character": f"{about}{math.exp(nll):.2f}",
    }
