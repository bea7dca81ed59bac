"""Tables of text: made of rows and a description of their columns, and written for a terminal or as Markdown."""

import math
import re
import statistics
import string
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas

FIGURE = re.compile(r"\[?[-+±≈–<] ?\d|\[?\d|–?$")  # how each cell of a column of figures begins


class _Blank(string.Formatter):
    """Formatter that writes nothing for what is missing."""

    def format_field(self, value: Any, spec: str) -> str:
        return "" if value is None or value != value else super().format_field(value, spec)


class Table(NamedTuple):
    """A table of text as a reader sees it."""

    title: str
    caption: str
    data: pandas.DataFrame
    faint: list[bool]  # per row: whether it is not causal
    least: list[str]  # columns that a narrow terminal leaves out first
    name: str = ""  # its name among the tables of a report

    @property
    def words(self) -> list[str]:
        """The columns of words, aligned to the left; the others are figures."""
        return [name for name in self.data if not all(FIGURE.match(cell) for cell in self.data[name])]

    def markdown(self) -> str:
        """Return caption and table in Markdown."""
        words = self.words
        rows = [[cell.replace("\n", "<br>") for cell in row] for row in self.data.itertuples(index=False)]
        ruler = ["---" if name in words else "---:" for name in self.data]
        lines = ["| " + " | ".join(row) + " |" for row in [list(self.data), ruler, *rows]]
        return "\n".join([*([self.caption, ""] if self.caption else []), *lines, ""])

    @property
    def has_long_cells(self) -> bool:
        """Whether a cell has several lines."""
        return any("\n" in cell for row in self.data.itertuples(index=False) for cell in row)


def make_table(text: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], **values: Any) -> Table | None:
    """Make a table of rows; None if no column but the first has anything.

    ``text`` has ``title`` and ``caption``, in which names in braces stand for ``values``. Its ``columns`` may say by
    heading what stands in each column, with names of a row's values in braces. Else a row's keys are the headings;
    ``causal`` is none of them. ``least`` names the columns that a narrow terminal leaves out first.
    """
    rows, blank, columns = list(rows), _Blank(), text.get("columns")

    def cells(row: Mapping[str, Any]) -> dict[str, str]:
        if columns is None:
            return {key: value for key, value in row.items() if key != "causal"}
        values = defaultdict(lambda: None, row)
        return {heading: blank.vformat(form, (), values) for heading, form in columns.items()}

    data = pandas.DataFrame([cells(row) for row in rows], dtype=object).fillna("")
    data = data[[column for column in data if any(data[column])]]
    if data.shape[1] < 2:
        return None
    faint = [not row.get("causal", True) for row in rows]
    title, caption = (text[name].format(**values) for name in ("title", "caption"))
    return Table(title, caption, data, faint, text.get("least", []))


def count(number: int, noun: str) -> str:
    """Return a number of things in words: 1 cell, 2 cells."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def mean_sd(values: Sequence[float]) -> str:
    """Return mean ± sd as text; empty for no values."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return f"{statistics.fmean(values):.2f}" if values else ""
    return f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
