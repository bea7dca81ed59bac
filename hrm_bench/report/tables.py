"""The results table of a sweep: a row a variant (a cell less its seed), in the terminal, as CSV and as Markdown.

Perplexities are of characters, at the epoch that is best on validation.
"""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from hrm_bench.records import Record

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
    difference: float | None  # mean difference of validation perplexity to the baseline, over the seeds of both
    difference_sd: float | None
    difference_percent: float | None  # of the baseline's mean
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
    return [(_row(key, seeds, _baseline(key, found)), seeds) for key, seeds in found.items()]


def rows(records: Sequence[Record]) -> list[Row]:
    """The table's rows."""
    return [row for row, _ in variants(records)]


def _row(key: tuple[str, str, str], seeds: Mapping[int, Record], baseline: Mapping[int, Record]) -> Row:
    any_record = next(iter(seeds.values()))
    validation = [record["validation"]["perplexity"] for record in seeds.values()]
    test = [record["test"]["perplexity"] for record in seeds.values()]
    left = [perplexity(record) for record in seeds.values() if _has_left_plateau(record)]
    pairs = [(perplexity(seeds[seed]), perplexity(baseline[seed])) for seed in seeds if seed in baseline]
    differences = [ours - theirs for ours, theirs in pairs]
    difference = statistics.fmean(differences) if differences else None
    base = statistics.fmean(theirs for _, theirs in pairs) if pairs else None
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
        difference=difference,
        difference_sd=_sd(differences),
        difference_percent=None if difference is None or base is None else 100 * difference / base,
        left_plateau=len(left),
        left_mean=statistics.fmean(left) if left else None,
        left_sd=_sd(left),
        causal=all(record["causal"] for record in seeds.values()),
    )


def perplexity(record: Record) -> float:
    """What variants are compared by."""
    return record["validation"]["perplexity"]


def _has_left_plateau(record: Record) -> bool:
    return perplexity(record) < PLATEAU * record["floors"]["unigram"]["validation"]


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


def _with_sd(mean: float | None, sd: float | None, form: str = ".2f") -> str:
    if mean is None:
        return ""
    return f"{mean:{form}}" + ("" if sd is None else f" ± {sd:.2f}")


def _cells(row: Row) -> dict[str, str]:
    """A row as a reader sees it, by heading."""
    memory = "" if row.memory == "none" else row.memory
    percent = "" if row.difference_percent is None else f" ({row.difference_percent:+.1f} %)"
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
        "difference to baseline": _with_sd(row.difference, row.difference_sd, "+.2f") + percent,
    }


def _grid(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without the columns that are empty everywhere."""
    lines = [_cells(row) for row in rows(records)]
    headings = [heading for heading in lines[0] if any(line[heading] for line in lines)]
    return headings, [[line[heading] for heading in headings] for line in lines]


def caption(records: Sequence[Record]) -> str:
    """What the figures are of; one sentence for each text in the records."""
    texts = Counter(
        (
            record["config"]["data"]["source"],
            record["validation"]["characters"],
            record["test"]["characters"],
            record["floors"]["unigram"]["validation"],
            record["floors"]["unigram"]["test"],
        )
        for record in records
    )
    return (
        " ".join(
            f"Perplexity a character, mean ± sd over seeds, on {validation:,} validation and {test:,} test characters "
            f"of {source}; unigram counts reach {floor:.2f} and {test_floor:.2f}."
            for source, validation, test, floor, test_floor in texts
        )
        + " Best epoch chosen on validation. A seed has left the plateau when its validation perplexity is more than "
        "5 % under that of unigram counts."
    )


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
        writer = csv.DictWriter(file, fieldnames=[each.name for each in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows(records))
    return [folder / "results.md", folder / "results.csv"]
