"""The table of the benchmark: a row a ratio, in the terminal, as Markdown and as JSON."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hrm_bench.bench.timing import Quartiles, quartiles, ratios
from hrm_bench.records import store
from hrm_bench.report import tables

JSON_FILE = "bench.json"
MARKDOWN_FILE = "bench.md"
HEADINGS = ["part", "what", "on", "ratio", "of", "first", "second", "unit", "note"]
WORDS = {"part", "what", "on", "of", "unit", "note"}  # headings of words; all others are of figures
BUSY = 0.5  # load a core, before anything was measured, from which the figures are called provisional


@dataclass(frozen=True)
class Row:
    """One ratio and the two measurements that it is of."""

    what: str
    on: str  # where it ran: threads, or the GPU's name
    ratio: Quartiles
    of: str  # the two ways, as "plain ÷ eager"; the first and the second measurement are theirs
    first: Quartiles
    second: Quartiles
    unit: str  # of both measurements
    note: str = ""


def compare(
    what: str, on: object, values: Mapping[str, Sequence[float]], first: str, second: str, *, unit: str, note: str = ""
) -> Row:
    """The row of two ways of which ``values`` has a measurement a round, in ``unit``."""
    return Row(
        what,
        str(on),
        ratios(values[first], values[second]),
        f"{first} ÷ {second}",
        quartiles(values[first]),
        quartiles(values[second]),
        unit,
        note,
    )


@dataclass
class Table:
    """What one run of the benchmark has found."""

    machine: dict[str, Any]
    quick: bool
    rows: list[tuple[str, Row]] = field(default_factory=list)  # with the part that it belongs to
    remarks: list[tuple[str, str]] = field(default_factory=list)  # likewise: what was left out, and why
    seconds: dict[str, float] = field(default_factory=dict)  # of each part


def machine() -> dict[str, Any]:
    """What the figures are of."""
    cpu = Path("/proc/cpuinfo")  # of Linux
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],  # of the minute before
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning")},
    }


def figure(value: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(found: Quartiles) -> str:
    return f"{figure(found.median)} [{figure(found.low)}, {figure(found.high)}]"


def told(row: Row) -> str:
    """The row in a line, for whoever waits for the others."""
    return f"{row.what}, {row.on}: {_spread(row.ratio)} {row.of}"


def lines(rows: Iterable[tuple[str, Row]]) -> list[list[str]]:
    """The cells of each row, as a reader sees them."""
    return [
        [
            part,
            row.what,
            row.on,
            _spread(row.ratio),
            row.of,
            figure(row.first.median),
            figure(row.second.median),
            row.unit,
            row.note,
        ]
        for part, row in rows
    ]


def caption(table: Table) -> str:
    """What was measured on, and how far the figures can be believed."""
    on = table.machine
    gpu = f", {on['gpu']}" if on["gpu"] else ""
    said = [
        f"{on['processor']}, {on['cores']} cores{gpu}; PyTorch {on['torch']}, Lightning {on['lightning']}, "
        f"Python {on['python']}. Ratios: median [quartiles] over rounds in which the ways took turns; first and "
        "second: medians."
    ]
    if table.quick:
        said.append("Quick: small models and few rounds, which show that the program works and nothing else.")
    if on["load"] > BUSY * on["cores"]:
        said.append(f"The machine was busy (load {on['load']:.1f}): these figures are provisional.")
    return " ".join(said)


def _remarks(table: Table) -> list[str]:
    return [f"{part}: {remark}" for part, remark in table.remarks]


def show(table: Table) -> None:
    """Print the table, what it is of, and what was left out."""
    note = "\n".join([caption(table), *_remarks(table)])
    tables.print_grid("benchmark", HEADINGS, lines(table.rows), words=WORDS, note=note)


def write(table: Table, folder: Path) -> list[Path]:
    """Write the table into a folder as JSON, with all digits, and as Markdown; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"part": part} | _plain(row) for part, row in table.rows]
    whole = {
        "machine": table.machine,
        "quick": table.quick,
        "rows": rows,
        "remarks": _remarks(table),
        "seconds": table.seconds,
    }
    store.write_json(folder / JSON_FILE, whole)
    grid = tables.markdown_grid(HEADINGS, lines(table.rows), words=WORDS)
    remarks = "".join(f"\n- {remark}" for remark in _remarks(table))
    with store.replacing(folder / MARKDOWN_FILE) as file:
        file.write(f"{caption(table)}\n\n{grid}\n{remarks}\n".encode())
    return [folder / JSON_FILE, folder / MARKDOWN_FILE]


def _plain(row: Row) -> dict[str, Any]:
    """A row for JSON: quartiles by name."""
    values = asdict(row)
    for name in ("ratio", "first", "second"):
        found: Quartiles = getattr(row, name)
        values[name] = found._asdict()
    return values
