"""From records to variants: a variant is a cell less its seed, and its row is what all its seeds say together.

Perplexities are of characters, at the epoch that is best on validation.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hrm_bench.records.schema import Record
from hrm_bench.report.settings import settings, settings_apart, settings_text
from hrm_bench.statistics import Difference, holm, paired_difference

PLATEAU = 0.95  # of the unigram counts' perplexity: a model above it sits where frequencies alone lead
PUBLISHED_TEXT = {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000, "validation_start": 0}


class Key(NamedTuple):
    """What sets a variant apart from the others of its sweep."""

    model: str
    memory: str
    settings: tuple[tuple[str, Any], ...]  # config keys and values, of those that differ within the sweep


@dataclass(frozen=True)
class Row:
    """A variant over its seeds. Standard deviations are over seeds, None where there is one seed."""

    model: str
    memory: str
    settings: str  # what else sets the variant apart from others of the same model and memory
    parameters: int
    seeds: int
    validation_mean: float
    validation_sd: float | None
    test_mean: float
    test_sd: float | None
    best_epoch: float  # mean
    published: float | None
    difference: Difference | None  # of validation perplexity to the baseline, paired by seed
    p_holm: float | None  # its p, adjusted for all differences of the table
    left_plateau: int  # seeds that learnt more than how often each character occurs
    left_mean: float | None  # validation perplexity of those seeds alone
    left_sd: float | None
    on_plateau: tuple[int, ...]  # the seeds that did not
    causal: bool
    rank: int | None  # by validation mean, among the causal variants of the same text; None where not causal


@dataclass(frozen=True)
class Variant:
    """A row, what it stands for, and the records behind it by seed."""

    key: Key
    memory: str  # as a reader sees it: empty for a model that has none
    label: str  # model, memory, settings and, where it is so, that it is not causal
    row: Row
    seeds: Mapping[int, Record]


def variants(records: Sequence[Record]) -> list[Variant]:
    """The variants of one experiment: models and memories as the records name them first, then settings, sorted."""
    apart = settings_apart(records)
    named: dict[Key, dict[int, Record]] = {}
    for record in records:
        key = Key(record["model"], record["memory"], settings(record, apart))
        named.setdefault(key, {})[record["seed"]] = record
    models, memories = [*dict.fromkeys(key.model for key in named)], [*dict.fromkeys(key.memory for key in named)]
    found = dict(
        sorted(
            named.items(),
            key=lambda item: (models.index(item[0].model), memories.index(item[0].memory), _sortable(item[0].settings)),
        )
    )
    alone = [_row(key, seeds, baseline(key, found)) for key, seeds in found.items()]
    adjusted = holm([row.difference.p if row.difference else None for row in alone])
    ranks = _ranks([(row, next(iter(seeds.values()))) for row, seeds in zip(alone, found.values(), strict=True)])
    with_memory = {key.model for key in found if key.memory != "none"}
    made = []
    for (key, seeds), row, p, rank in zip(found.items(), alone, adjusted, ranks, strict=True):
        memory = key.memory if key.model in with_memory else ""
        label = " ".join(filter(None, (key.model, memory, row.settings, "" if row.causal else "(not causal)")))
        made.append(Variant(key, memory, label, replace(row, p_holm=p, rank=rank), seeds))
    return made


def _sortable(settings: Iterable[tuple[str, Any]]) -> list[tuple[str, bool, float, str]]:
    """Settings so that numbers come by size and before words."""
    return [
        (name, not isinstance(value, int | float), value if isinstance(value, int | float) else 0.0, str(value))
        for name, value in settings
    ]


def by_experiment(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each experiment, in the order in which they name them first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["config"]["experiment"]["name"], []).append(record)
    return found


def perplexity(record: Record) -> float:
    """What variants are compared by."""
    return record["validation"]["perplexity"]


def left_plateau(record: Record) -> bool:
    """Whether the cell learnt more than how often each character occurs."""
    return perplexity(record) < PLATEAU * unigram(record)


def unigram(record: Record) -> float:
    """The perplexity of unigram counts on validation."""
    return record["floors"]["validation"]["unigram"]["full"]


def _same_text(one: Record, other: Record) -> bool:
    """Whether counting characters finds the same in both cells' texts, on whatever machine it did."""
    return all(
        math.isclose(one["floors"][split]["unigram"]["full"], other["floors"][split]["unigram"]["full"], rel_tol=1e-9)
        for split in ("validation", "test")
    )


def counting(record: Record, way: str) -> tuple[str, float, float] | None:
    """The n-gram order that is best on validation, and its perplexity on validation and on test.

    None where the text was too long for its n-grams to be counted.
    """
    validation, test = (record["floors"][split] for split in ("validation", "test"))
    names = [name for name, ways in validation.items() if "window" in ways]
    if not names:
        return None
    name = min(names, key=lambda name: validation[name][way])
    return name, validation[name][way], test[name][way]


def baseline(key: Key, found: Mapping[Key, Mapping[int, Record]]) -> Mapping[int, Record]:
    """The causal cells that a variant is compared with, by seed.

    They are those of the variant that has the values of ``experiment.baseline``, the same text and is else the same. A
    model without memory is the same under any memory, and a setting that one of the two does not have tells nothing.
    There are none where several variants could be meant.
    """
    values = dict(next(iter(found[key].values()))["config"]["experiment"]["baseline"])
    model, memory = values.pop("model", key.model), values.pop("memory", key.memory)
    wanted = dict(key.settings) | values
    if (key.model, key.memory) == (model, memory) and all(dict(key.settings).get(n, v) == v for n, v in values.items()):
        return {}  # it is the baseline
    ours = next(iter(found[key].values()))
    has_memory = any(other.model == model and other.memory != "none" for other in found)
    candidates = [
        {seed: record for seed, record in seeds.items() if record["causal"]}
        for other, seeds in found.items()
        if other != key
        and other.model == model
        and other.memory == (memory if has_memory else "none")
        and _same_text(next(iter(seeds.values())), ours)
        and all(wanted.get(name, value) == value for name, value in other.settings)
    ]
    common = [seed for candidate in candidates for seed in candidate]
    if len(set(common)) < len(common):
        return {}  # several could be meant
    return {seed: record for candidate in candidates for seed, record in candidate.items()}


def _row(key: Key, seeds: Mapping[int, Record], theirs: Mapping[int, Record]) -> Row:
    any_record = next(iter(seeds.values()))
    validation = [perplexity(record) for record in seeds.values()]
    test = [record["test"]["perplexity"] for record in seeds.values()]
    left = [perplexity(record) for record in seeds.values() if left_plateau(record)]
    common = [seed for seed in seeds if seed in theirs]
    return Row(
        model=key.model,
        memory=key.memory,
        settings=settings_text(key.settings),
        parameters=any_record["parameters"],
        seeds=len(seeds),
        validation_mean=statistics.fmean(validation),
        validation_sd=_sd(validation),
        test_mean=statistics.fmean(test),
        test_sd=_sd(test),
        best_epoch=statistics.fmean(record["best_epoch"] for record in seeds.values()),
        published=_published(any_record),
        difference=paired_difference(
            [perplexity(seeds[seed]) for seed in common], [perplexity(theirs[seed]) for seed in common]
        ),
        p_holm=None,
        left_plateau=len(left),
        left_mean=statistics.fmean(left) if left else None,
        left_sd=_sd(left),
        on_plateau=tuple(sorted(seed for seed, record in seeds.items() if not left_plateau(record))),
        causal=all(record["causal"] for record in seeds.values()),
        rank=None,
    )


def _ranks(found: Sequence[tuple[Row, Record]]) -> list[int | None]:
    """Places from 1 among the causal rows that are of the same text."""
    ranks: list[int | None] = []
    for row, record in found:
        better = [
            other
            for other, its_record in found
            if other.causal and _same_text(its_record, record) and other.validation_mean < row.validation_mean
        ]
        ranks.append(1 + len(better) if row.causal else None)
    return ranks


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


@cache
def _figures() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return loaded


def _published(record: Record) -> float | None:
    config = record["config"]
    if any(config["data"].get(key, 0) != value for key, value in PUBLISHED_TEXT.items()):
        return None
    for published in _figures():
        if config["experiment"]["name"] in published["experiments"]:
            for figure in published["figures"]:
                if (figure["model"], figure["memory"]) == (record["model"], record["memory"]):
                    return float(figure["perplexity"])
    return None
