"""Two sweeps side by side, matched cell by cell; of more than two, each against the first."""

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hrm_bench.records.schema import Record
from hrm_bench.report.forest import percent_interval
from hrm_bench.report.settings import APART, TEXT, flat, settings, settings_text
from hrm_bench.report.sheets import Mark, Sheet
from hrm_bench.report.tables import markdown_grid, print_grid
from hrm_bench.report.variants import Key, perplexity, variants
from hrm_bench.statistics import Difference, holm, paired_difference

Cells = dict[int, Record]  # by seed
WORDS = frozenset({"variant"})  # headings of words; all others are of figures
NOT_COMPARED = (*APART, "data.path", "seed", "model.name", "recipe.name")


@dataclass(frozen=True)
class Pairing:
    """A variant in two sweeps: its cells, and the difference of those whose seeds both have."""

    first: str  # the sweeps' names
    second: str
    variant: str
    pairs: int
    first_alone: int  # cells
    second_alone: int
    first_mean: float | None  # validation perplexity over all its cells there
    second_mean: float | None
    difference: Difference | None  # second less first, paired by seed
    p_holm: float | None  # its p, adjusted for all variants of the two sweeps
    not_causal: tuple[str, ...]  # the sweeps in which a cell of it is not causal


@dataclass(frozen=True)
class Comparison:
    """A sweep against another."""

    first: str
    second: str
    differing: list[str]  # settings and versions in which paired cells differ
    pairings: list[Pairing]


def compare(sweeps: Mapping[str, Sequence[Record]]) -> list[Comparison]:
    """Each sweep's finished records against those of the first."""
    (first, ours), *others = sweeps.items()
    return [_compared(first, name, ours, theirs) for name, theirs in others]


def _compared(first: str, second: str, ours: Sequence[Record], theirs: Sequence[Record]) -> Comparison:
    # What tells variants of one sweep apart tells cells apart; what all of a sweep have in common does not, since it
    # may be what the two are compared for.
    apart = sorted({name for its in (ours, theirs) for each in variants(its) for name, _ in each.key.settings})
    mine, other = _by_variant(ours, apart), _by_variant(theirs, apart)
    alone = [_pairing(first, second, key, mine.get(key, {}), other.get(key, {})) for key in {**mine, **other}]
    adjusted = holm([each.difference.p if each.difference else None for each in alone])
    paired = [
        (cells[seed], other[key][seed])
        for key, cells in mine.items()
        if key in other
        for seed in cells.keys() & other[key]
    ]
    made = [replace(each, p_holm=p) for each, p in zip(alone, adjusted, strict=True)]
    return Comparison(first, second, _differing(paired), made)


def _by_variant(records: Sequence[Record], apart: Sequence[str]) -> dict[Key, Cells]:
    found: dict[Key, Cells] = {}
    for record in records:
        key = Key(record["model"], record["memory"], settings(record, apart))
        found.setdefault(key, {})[record["seed"]] = record
    return found


def _pairing(first: str, second: str, key: Key, mine: Cells, other: Cells) -> Pairing:
    common = [seed for seed in mine if seed in other]
    return Pairing(
        first=first,
        second=second,
        variant=" ".join(
            filter(None, (key.model, "" if key.memory == "none" else key.memory, settings_text(key.settings)))
        ),
        pairs=len(common),
        first_alone=len(mine) - len(common),
        second_alone=len(other) - len(common),
        first_mean=_mean(mine),
        second_mean=_mean(other),
        difference=paired_difference(
            [perplexity(other[seed]) for seed in common], [perplexity(mine[seed]) for seed in common]
        ),
        p_holm=None,
        not_causal=tuple(
            name for name, its in ((first, mine), (second, other)) if not all(cell["causal"] for cell in its.values())
        ),
    )


def _mean(cells: Cells) -> float | None:
    return statistics.fmean(map(perplexity, cells.values())) if cells else None


def _differing(paired: Sequence[tuple[Record, Record]]) -> list[str]:
    """The settings, versions and texts that differ between paired cells, with both values where all have the same."""
    seen: dict[str, set[tuple[str, str]]] = {}
    for mine, other in paired:
        both = [dict(flat({**record["config"], "version": record.get("versions", {})})) for record in (mine, other)]
        if TEXT in mine and TEXT in other:  # older records lack it
            both = [values | {TEXT: record["text"]} for values, record in zip(both, (mine, other), strict=True)]
        for key in both[0].keys() | both[1].keys():
            values = tuple(json.dumps(each.get(key)) for each in both)
            if values[0] != values[1] and not key.startswith(NOT_COMPARED):
                seen.setdefault(key, set()).add((values[0], values[1]))
    return [
        f"{key} ({' → '.join(next(iter(values)))})" if len(values) == 1 else key for key, values in sorted(seen.items())
    ]


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of its table."""
    lines = [_line(each) for each in comparison.pairings]
    return list(lines[0]), [list(line.values()) for line in lines]


def _line(pairing: Pairing) -> dict[str, str]:
    found = pairing.difference
    told = ""
    if found is not None and pairing.first_mean is not None:
        interval = percent_interval(found, pairing.first_mean)
        told = f"{found.percent:+.2f} %" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")
    return {
        "variant": pairing.variant
        + (f" (not causal in {' and '.join(pairing.not_causal)})" if pairing.not_causal else ""),
        pairing.first: "" if pairing.first_mean is None else f"{pairing.first_mean:.2f}",
        pairing.second: "" if pairing.second_mean is None else f"{pairing.second_mean:.2f}",
        "difference": told,
        "p": "" if pairing.p_holm is None else f"{pairing.p_holm:.3f}",
        "pairs": str(pairing.pairs),
        f"only in {pairing.first}": str(pairing.first_alone or ""),
        f"only in {pairing.second}": str(pairing.second_alone or ""),
    }


def caption(comparison: Comparison) -> str:
    """What the figures are, and in what paired cells differ."""
    differing = "; ".join(comparison.differing) or "nothing that is recorded, apart from names and places"
    return (
        f"{comparison.second} less {comparison.first}: validation perplexity a character, mean over all cells of each "
        "sweep; the difference is paired by seed, in percent of the first, with a 95 % BCa interval; p is of the "
        f"sign-flip test, Holm. Paired cells differ in: {differing}."
    )


def sheets(found: Sequence[Comparison]) -> list[Sheet]:
    """A table a comparison, for the page."""
    made = []
    for each in found:
        headings, lines = grid(each)
        cells: list[list[str | Mark]] = [list(line) for line in lines]
        faint = [bool(pairing.not_causal) for pairing in each.pairings]
        made.append(Sheet(caption(each), headings, cells, faint, WORDS))
    return made


def show(found: Sequence[Comparison]) -> None:
    """Print each table."""
    for each in found:
        print_grid(f"{each.second} against {each.first}", *grid(each), words=WORDS, note=caption(each))


def markdown(found: Sequence[Comparison]) -> str:
    """Each table in Markdown, under its caption."""
    return "\n".join(f"{caption(each)}\n\n{markdown_grid(*grid(each), words=WORDS)}\n" for each in found)


def write(found: Sequence[Comparison], folder: Path) -> list[Path]:
    """Write comparison.md and comparison.csv into a folder; the paths written."""
    (folder / "comparison.md").write_text(markdown(found), encoding="utf-8")
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [_flat_row(pairing) for each in found for pairing in each.pairings]
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return [folder / "comparison.md", folder / "comparison.csv"]


def _flat_row(pairing: Pairing) -> dict[str, Any]:
    values = {each.name: getattr(pairing, each.name) for each in fields(Pairing)}
    difference = values.pop("difference")
    values["not_causal"] = " ".join(pairing.not_causal)
    for name in Difference._fields:
        values[f"difference_{name}"] = None if difference is None else getattr(difference, name)
    return values
