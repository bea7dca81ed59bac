"""The results table of a sweep: a row a variant, in the terminal, as CSV and as Markdown."""

import csv
import json
import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from hrm_bench.records.schema import Record
from hrm_bench.report.variants import Row, Variant, counting, unigram, variants
from hrm_bench.statistics import Difference

WIDEST = 10_000  # characters
TEXT = {"model", "memory", "settings"}  # headings of words; all others are of figures


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
    values["on_plateau"] = " ".join(map(str, row.on_plateau))
    for name in Difference._fields:
        values[f"difference_{name}"] = None if difference is None else getattr(difference, name)
    return values


def cells(variant: Variant) -> dict[str, str]:
    """A row as a reader sees it, by heading."""
    row = variant.row
    return {
        "rank": str(row.rank or ""),
        "model": row.model,
        "memory": variant.memory if row.causal else f"{variant.memory}, not causal".lstrip(", "),
        "settings": row.settings,
        "parameters": f"{row.parameters:,}",
        "seeds": str(row.seeds),
        "validation perplexity": _with_sd(row.validation_mean, row.validation_sd),
        "test perplexity": _with_sd(row.test_mean, row.test_sd),
        "best epoch": f"{row.best_epoch:.1f}",
        "left the plateau": f"{row.left_plateau} of {row.seeds}",
        "on the plateau": ", ".join(map(str, row.on_plateau)) if row.left_plateau else "",
        "of those that left": _with_sd(row.left_mean, row.left_sd) if 0 < row.left_plateau < row.seeds else "",
        "published": _with_sd(row.published, None),
        "difference to baseline": _difference(row.difference),
        "p": "" if row.p_holm is None else f"{row.p_holm:.3f}",
    }


def grid(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells, without the columns that are empty everywhere."""
    lines = [cells(variant) for variant in variants(records)]
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
    """What the figures are of, and what counting reaches there: a sentence for each text in the records."""
    by_length = sorted(records, key=lambda record: record["config"]["data"]["train_chars"] or math.inf)
    texts = {json.dumps([record["config"]["data"]["source"], record["floors"]]): record for record in by_length}
    scored = {
        f"{record['validation']['characters']:,} validation and {record['test']['characters']:,} test characters of "
        f"{record['config']['data']['source']}": None
        for record in texts.values()
    }
    told = [f"Perplexity a character, mean ± sd over seeds, on {', and on '.join(scored)}."]
    for record in texts.values():
        data = record["config"]["data"]
        which = "whole training text" if data["train_chars"] is None else f"{data['train_chars']:,} training characters"
        of = f"the {which} of {data['source']}" if len(texts) > 1 else "the same training characters"
        told.append(
            f"Counting {of} reaches, on validation and test: "
            f"unigram {unigram(record):.2f} and {record['floors']['test']['unigram']['full']:.2f}{_counted(record)}."
        )
    told.append("Best epoch chosen on validation.")
    codes: dict[str, set[str]] = {}
    for record in records:
        codes.setdefault(record["model"], set()).add(record["code"])
    told += [
        f"The cells of {model} are of {len(found)} versions of the code; force=true runs them again with this one."
        for model, found in codes.items()
        if len(found) > 1
    ]
    found = [variant.row for variant in variants(records)]
    if any(row.left_plateau < row.seeds for row in found):
        told.append("A seed has left the plateau when it is more than 5 % under the unigram counts on validation.")
    if not all(row.causal for row in found):
        told.append("What is not causal has seen what it was to predict: it is shown, and not ranked.")
    if any(row.p_holm is not None for row in found):
        told.append("Differences are of validation, paired by seed, with 95 % BCa intervals; p: sign-flip, Holm.")
    return " ".join(told)


def show(records: Sequence[Record]) -> None:
    """Print the table."""
    title = ", ".join(sorted({record["config"]["experiment"]["name"] for record in records}))
    print_grid(title, *grid(records), words=TEXT, note=caption(records))


def print_grid(
    title: str,
    headings: Sequence[str],
    lines: Iterable[Sequence[str]],
    *,
    words: Container[str],
    note: str,
    ruled: bool = False,
) -> None:
    """Print any table and its note; where there is no terminal that sets a width, as wide as it needs to be."""
    console = Console()
    table = Table(title=Text(title), show_lines=ruled)
    for heading in headings:
        table.add_column(Text(heading), justify="left" if heading in words else "right", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    if not console.is_terminal:
        console.width = WIDEST
        console.width = max(Measurement.get(console, console.options, table).maximum, 1)
    console.print(table)
    console.print(note, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def markdown(records: Sequence[Record]) -> str:
    """The table in Markdown, under its caption."""
    return f"{caption(records)}\n\n{markdown_grid(*grid(records), words=TEXT)}\n"


def markdown_grid(headings: Sequence[str], lines: Iterable[Sequence[str]], *, words: Container[str]) -> str:
    """Any table in Markdown, columns of words to the left and all others to the right."""
    ruler = ["---" if heading in words else "---:" for heading in headings]
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, ruler, *lines])


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write results.md and results.csv into a sweep's folder; the paths written."""
    (folder / "results.md").write_text(markdown(records), encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        lines = [_flat_row(variant.row) for variant in variants(records)]
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return [folder / "results.md", folder / "results.csv"]
