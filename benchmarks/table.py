"""The table of the benchmarks: one ratio per row, as Markdown and as JSON."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Quartiles, quartiles, ratios
from hrm_bench.records import store

JSON_FILE = "bench.json"
MARKDOWN_FILE = "bench.md"
HEADINGS = ["what", "on", "ratio", "of", "first", "second", "unit", "note"]
RULER = ["---", "---", "---:", "---", "---:", "---:", "---", "---"]
BUSY = 0.5  # load per core, before the first measurement, above which the figures are called provisional


@dataclass(frozen=True)
class Row:
    """One ratio and its two measurements."""

    what: str
    on: str  # threads, or the GPU's name
    ratio: Quartiles
    of: str  # "first ÷ second", the names of the two measurements
    first: Quartiles
    second: Quartiles
    unit: str  # of both measurements
    note: str = ""

    def __str__(self) -> str:
        return f"{self.what}, {self.on}: {spread(self.ratio)} {self.of}"

    def cells(self) -> list[str]:
        """Return the row's text under each heading."""
        medians = [figure(self.first.median), figure(self.second.median)]
        return [self.what, self.on, spread(self.ratio), self.of, *medians, self.unit, self.note]


def compare(
    what: str, on: object, values: Mapping[str, Sequence[float]], first: str, second: str, *, unit: str, note: str = ""
) -> Row:
    """Return the row of two names in ``values``, which has one measurement per round in ``unit``."""
    ratio = ratios(values[first], values[second])
    sides = quartiles(values[first]), quartiles(values[second])
    return Row(what, str(on), ratio, f"{first} ÷ {second}", *sides, unit, note)


def figure(value: float) -> str:
    """Return three digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Quartiles) -> str:
    """Return the median and the quartiles around it; without these if there was one round."""
    if values.low == values.high:
        return figure(values.median)
    return f"{figure(values.median)} [{figure(values.low)}, {figure(values.high)}]"


@dataclass
class Part:
    """The rows that answer one question."""

    question: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what was left out, and why
    seconds: float = 0.0


@dataclass
class Table:
    """The results of one run of the benchmarks."""

    machine: dict[str, Any]
    quick: bool
    parts: dict[str, Part] = field(default_factory=dict)

    def caption(self) -> str:
        """Return what was measured on, and how far the figures can be trusted."""
        on = self.machine
        gpu = f", {on['gpu']}" if on["gpu"] else ""
        sentences = [
            f"{on['processor']}, {on['cores']} cores{gpu}; PyTorch {on['torch']}, Lightning {on['lightning']}, "
            f"Python {on['python']}.",
            "A ratio is the median [quartiles] over rounds in which both sides took turns. "
            "The columns first and second are medians.",
        ]
        if self.quick:
            sentences.append("Quick run: small models and few rounds show that the program works, and nothing else.")
        if on["load"] > BUSY * on["cores"]:
            sentences.append(f"The machine was busy (load {on['load']:.1f}): these figures are provisional.")
        return " ".join(sentences)

    def markdown(self) -> str:
        """Return the caption and one table per question."""
        paragraphs = [self.caption()]
        for name, part in self.parts.items():
            paragraphs.append(f"## {name}: {part.question}")
            if part.rows:
                lines = [HEADINGS, RULER, *(row.cells() for row in part.rows)]
                paragraphs.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
            paragraphs.extend(part.remarks)
        return "\n\n".join(paragraphs) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write the table as JSON, with all digits, and as Markdown; return both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        store.write_json(folder / JSON_FILE, asdict(self, dict_factory=_named))
        (folder / MARKDOWN_FILE).write_text(self.markdown())
        return [folder / JSON_FILE, folder / MARKDOWN_FILE]


def _named(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dataclass as a dictionary, with its quartiles by name."""
    return {key: value._asdict() if isinstance(value, Quartiles) else value for key, value in items}


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = Path("/proc/cpuinfo")  # on Linux
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],  # over the last minute
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": version("torch"),
        "lightning": version("lightning"),
    }
