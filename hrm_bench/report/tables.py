"""The results table of a sweep: a row a variant (a cell less its seed), in the terminal, as CSV and as Markdown.

Perplexities are of characters, at the epoch that is best on validation.
"""

import csv
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from hrm_bench.records import Record
from hrm_bench.statistics import Difference, holm, paired_difference

PLATEAU = 0.95  # of the unigram counts' perplexity: a model above it sits where frequencies alone lead
PUBLISHED_TEXT = {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000}


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
    causal: bool


def variants(records: Sequence[Record]) -> list[tuple[Row, Mapping[int, Record]]]:
    """Each variant's row and its records by seed, in the order in which the records name them first."""
    apart = _settings_apart(records)
    found: dict[tuple[str, str, str], dict[int, Record]] = {}
    for record in records:
        settings = _settings(record, apart)
        found.setdefault((record["model"], record["memory"], settings), {})[record["seed"]] = record
    alone = [_row(key, seeds, _baseline(key, found)) for key, seeds in found.items()]
    adjusted = holm([row.difference.p if row.difference else None for row in alone])
    return [(replace(row, p_holm=p), seeds) for row, p, seeds in zip(alone, adjusted, found.values(), strict=True)]


def rows(records: Sequence[Record]) -> list[Row]:
    """The table's rows."""
    return [row for row, _ in variants(records)]


def _row(key: tuple[str, str, str], seeds: Mapping[int, Record], baseline: Mapping[int, Record]) -> Row:
    any_record = next(iter(seeds.values()))
    validation = [record["validation"]["perplexity"] for record in seeds.values()]
    test = [record["test"]["perplexity"] for record in seeds.values()]
    left = [perplexity(record) for record in seeds.values() if _has_left_plateau(record)]
    common = [seed for seed in seeds if seed in baseline]
    return Row(
        *key,
        parameters=any_record["parameters"],
        seeds=len(seeds),
        validation_mean=statistics.fmean(validation),
        validation_sd=_sd(validation),
        test_mean=statistics.fmean(test),
        test_sd=_sd(test),
        best_epoch=statistics.fmean(record["best_epoch"] for record in seeds.values()),
        published=_published(any_record),
        difference=paired_difference(
            [perplexity(seeds[seed]) for seed in common], [perplexity(baseline[seed]) for seed in common]
        ),
        p_holm=None,
        left_plateau=len(left),
        left_mean=statistics.fmean(left) if left else None,
        left_sd=_sd(left),
        causal=all(record["causal"] for record in seeds.values()),
    )


def perplexity(record: Record) -> float:
    """What variants are compared by."""
    return record["validation"]["perplexity"]


def _has_left_plateau(record: Record) -> bool:
    return perplexity(record) < PLATEAU * unigram(record)


def unigram(record: Record) -> float:
    """The perplexity of unigram counts on validation."""
    return record["floors"]["validation"]["unigram"]["full"]


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


def _baseline(
    key: tuple[str, str, str], found: Mapping[tuple[str, str, str], dict[int, Record]]
) -> Mapping[int, Record]:
    """The cells that a variant is compared with: the experiment's baseline at the same settings, where it is causal."""
    model = next(iter(found[key].values()))["config"]["experiment"]["baseline"]
    if key[0] == model:
        return {}
    candidates = [
        seeds
        for (name, memory, settings), seeds in found.items()
        if name == model and settings == key[2] and memory in ("none", key[1])
    ]
    return {seed: record for candidate in candidates for seed, record in candidate.items() if record["causal"]}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _settings_apart(records: Iterable[Record]) -> list[str]:
    """The keys, other than model, memory and seed, by which cells of one model and memory differ somewhere."""
    seen: dict[tuple[str, str, str], set[str]] = {}
    for record in records:
        for key, value in _flat(record["config"]):
            if key not in {"seed", "model.name", "memory.mode"} and not key.startswith(("experiment.", "logger.")):
                seen.setdefault((record["model"], record["memory"], key), set()).add(json.dumps(value))
    return sorted({key for (_, memory, key), values in seen.items() if len(values) > 1 and _matters(memory, key)})


def _matters(memory: str, key: str) -> bool:
    return memory != "none" or not key.startswith("memory.")


def _settings(record: Record, apart: Sequence[str]) -> str:
    values = dict(_flat(record["config"]))
    return " ".join(f"{key}={values[key]}" for key in apart if key in values and _matters(record["memory"], key))


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


@cache
def _figures() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())
    return loaded


def _published(record: Record) -> float | None:
    config = record["config"]
    if any(config["data"][key] != value for key, value in PUBLISHED_TEXT.items()):
        return None
    for published in _figures():
        if config["experiment"]["name"] in published["experiments"]:
            for figure in published["figures"]:
                if (figure["model"], figure["memory"]) == (record["model"], record["memory"]):
                    return float(figure["perplexity"])
    return None


# The same table, three ways


def _with_sd(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f}" + ("" if sd is None else f" ± {sd:.2f}")


def _difference(found: Difference | None) -> str:
    if found is None:
        return ""
    interval = "" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.mean:+.2f}{interval} ({found.percent:+.1f} %)"


def _flat_row(row: Row) -> dict[str, Any]:
    """A row for CSV: the parts of the difference as columns of their own."""
    values = {each.name: getattr(row, each.name) for each in fields(Row)}
    difference = values.pop("difference")
    for name in Difference._fields:
        values[f"difference_{name}"] = None if difference is None else getattr(difference, name)
    return values


def _cells(row: Row) -> dict[str, str]:
    """A row as a reader sees it, by heading."""
    memory = "" if row.memory == "none" else row.memory
    return {
        "model": row.model,
        "memory": memory if row.causal else f"{memory}, not causal".lstrip(", "),
        "settings": row.settings,
        "parameters": f"{row.parameters:,}",
        "seeds": str(row.seeds),
        "validation perplexity": _with_sd(row.validation_mean, row.validation_sd),
        "test perplexity": _with_sd(row.test_mean, row.test_sd),
        "best epoch": f"{row.best_epoch:.1f}",
        "left plateau": f"{row.left_plateau} of {row.seeds}",
        "of those": _with_sd(row.left_mean, row.left_sd) if 0 < row.left_plateau < row.seeds else "",
        "published": _with_sd(row.published, None),
        "difference to baseline": _difference(row.difference),
        "p": "" if row.p_holm is None else f"{row.p_holm:.3f}",
    }


def _grid(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without the columns that are empty everywhere."""
    lines = [_cells(row) for row in rows(records)]
    headings = [heading for heading in lines[0] if any(line[heading] for line in lines)]
    return headings, [[line[heading] for heading in headings] for line in lines]


def _counted(record: Record) -> str:
    within, going_on = counting(record, "window"), counting(record, "adaptive")
    if within is None or going_on is None:
        return "; its n-grams are too many to count in passing, but python -m hrm_bench.floors does"
    name, validation, test = within
    return (
        f"; {name} {validation:.2f} and {test:.2f} within the window, "
        f"{going_on[1]:.2f} and {going_on[2]:.2f} when it goes on counting"
    )


def caption(records: Sequence[Record]) -> str:
    """What the figures are of, and what counting reaches there: some sentences for each text in the records."""
    texts = {json.dumps([record["config"]["data"]["source"], record["floors"]]): record for record in records}
    told = [
        f"Perplexity a character, mean ± sd over seeds, on {record['validation']['characters']:,} validation and "
        f"{record['test']['characters']:,} test characters of {record['config']['data']['source']}. Counting the same "
        f"training characters reaches, on validation and test: unigram {unigram(record):.2f} and "
        f"{record['floors']['test']['unigram']['full']:.2f}{_counted(record)}."
        for record in texts.values()
    ]
    told.append("Best epoch chosen on validation.")
    found = rows(records)
    if any(row.left_plateau < row.seeds for row in found):
        told.append("A seed has left the plateau when it is more than 5 % under the unigram counts on validation.")
    if any(row.p_holm is not None for row in found):
        told.append("Differences are of validation, paired by seed, with 95 % BCa intervals; p: sign-flip, Holm.")
    return " ".join(told)


def show(records: Sequence[Record]) -> None:
    """Print the table; where there is no terminal that sets a width, as wide as it needs to be."""
    console = Console()
    if not console.is_terminal:
        console.width = 200
    headings, lines = _grid(records)
    table = Table(title=", ".join(sorted({record["config"]["experiment"]["name"] for record in records})))
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in {"model", "memory", "settings"} else "right", overflow="fold"
        )
    for line in lines:
        table.add_row(*line)
    console.print(table)
    console.print(caption(records), highlight=False, soft_wrap=not console.is_terminal)


def markdown(records: Sequence[Record]) -> str:
    """The table in Markdown, under its caption."""
    headings, lines = _grid(records)
    ruler = ["---" if heading in {"model", "memory", "settings"} else "---:" for heading in headings]
    body = "\n".join("| " + " | ".join(line) + " |" for line in [headings, ruler, *lines])
    return f"{caption(records)}\n\n{body}\n"


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write results.md and results.csv into a sweep's folder; the paths written."""
    (folder / "results.md").write_text(markdown(records), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        lines = [_flat_row(row) for row in rows(records)]
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return [folder / "results.md", folder / "results.csv"]
