"""Single tables of the report as CSV, LaTeX or Markdown, with the rounded figures that the page shows."""

import csv
import math
import re
import textwrap
from collections.abc import Sequence

import pandas

from hrm_bench.errors import UsageError, choices
from hrm_bench.report.write import Report, all_sections
from hrm_bench.table import Table

FORMATS = ("csv", "latex", "markdown")
LATEX = {  # by sign: what LaTeX shows it for
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"${sign}$" for sign in "<>|"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", '"': "''"},
    **{"--": "-{}-", "-": "$-$", "−": "$-$", "–": "--", "±": r"$\pm$", "≈": r"$\approx$", "×": r"$\times$"},
    **{"✓": r"$\surd$", "✗": r"$\times$", "²": "$^2$", "·": r"$\cdot$", "≥": r"$\ge$", "≤": r"$\le$"},
}
MINUS = r"(?<![\w)\]-])-(?=\.?\d)|(?<=\de)-(?=\d)"  # a hyphen that is read as a minus
SPECIAL = re.compile("|".join([MINUS, "--", *(re.escape(sign) for sign in LATEX if "-" not in sign)]))
NEW_LINE, ROW_END = r" \newline ", r" \\ "
LINE = 80  # characters of a line in LaTeX; if a table is wider, its columns of words have their lines broken
SHORT = 12  # characters of a column whose lines are never broken
HEADING = 14  # characters of a line of a heading


def single(report: Report, side: Sequence[Table], *, name: str, form: str, columns: str = "") -> str:
    """Return the tables of the page that have a name, which are several if there are several studies or splits.

    Args:
        report: The parts of the page.
        side: The tables of sweeps side by side.
        name: The name of the function that makes the tables.
        form: One of FORMATS.
        columns: Headings, with commas between them; a heading with commas has quotes. Default: all.

    Raises:
        UsageError: If the page has no table of this name, or none of these has a column.
    """
    named: dict[str, list[tuple[str, Table]]] = {}
    for section in all_sections(report, side):
        for table in (block for _, blocks in section.parts for block in blocks if isinstance(block, Table)):
            named.setdefault(table.name or table.title, []).append((section.title, table))
    if name not in named:
        raise UsageError(choices(f"table={name}", name, named))
    shown = _of_columns(named[name], next(csv.reader([columns], skipinitialspace=True), [])) if columns else named[name]
    if form == "csv":
        return one_csv(shown)
    heads = [study if len({study for study, _ in shown}) > 1 else "" for study, _ in shown]
    if form == "latex":
        labels = [f"{name}-{number}" if len(shown) > 1 else name for number in range(1, len(shown) + 1)]
        texts = [latex(table, head, label) for head, label, (_, table) in zip(heads, labels, shown, strict=True)]
    else:
        texts = [(head and f"{head}\n\n") + table.markdown() for head, (_, table) in zip(heads, shown, strict=True)]
    return "\n".join(texts)


def _of_columns(shown: Sequence[tuple[str, Table]], names: Sequence[str]) -> list[tuple[str, Table]]:
    """Return tables with those of these columns that they have. Raises UsageError for a column that none has."""
    names = [name.strip() for name in names]
    known = dict.fromkeys(column for _, table in shown for column in table.data)
    quoted = {name: f'"{name}"' if "," in name else name for name in known}
    faults = [choices(f"columns={name}", name, quoted.values()) for name in names if name and name not in known]
    faults += [f"columns: {name} is given twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    faults += ["columns: an empty name between commas; leave it out"] * ("" in names)
    if faults:
        raise UsageError(*faults)
    return [
        (study, table._replace(data=table.data[[name for name in names if name in table.data]]))
        for study, table in shown
    ]


def one_csv(shown: Sequence[tuple[str, Table]]) -> str:
    """Return tables, each with its study, as one CSV, which begins with study and title if these tell rows apart."""
    heads = [{"study": study, "table": table.title} for study, table in shown]
    telling = [key for key in ("study", "table") if len({head[key] for head in heads}) > 1]
    frames = [
        pandas.concat([pandas.DataFrame(head, index=table.data.index)[telling], table.data], axis="columns")
        for head, (_, table) in zip(heads, shown, strict=True)
    ]
    return pandas.concat(frames).to_csv(index=False, lineterminator="\n")


def latex(table: Table, heading: str = "", label: str = "") -> str:
    """Return a table in LaTeX that needs the package booktabs only.

    Args:
        table: The table.
        heading: What stands before its title in the caption.
        label: What stands in its label after "tab:".
    """
    looks = _looks(table)

    def cell(column: str, text: str) -> str:
        lines = [*map(escaped, text.split("\n"))]
        if looks[column].startswith("p"):
            breakable = re.sub(r"(\\_|[=/])", r"\1\\allowbreak{}", NEW_LINE.join(lines))
            return rf"{{\raggedright {breakable}\par}}"
        return _stacked(lines, looks[column])

    headings = [_stacked([*map(escaped, _wrapped(column))], looks[column]) for column in table.data]
    rows = [map(cell, table.data, cells) for cells in table.data.itertuples(index=False)]
    top, *body = [" & ".join(row) + r" \\" for row in (headings, *rows)]
    sentences = filter(None, (heading, table.title, table.caption))
    caption = " ".join(escaped(text if text[-1] in ".?!" else f"{text}.") for text in sentences)
    return "\n".join(
        [
            *(r"\begin{table}", r"\centering", r"\small", r"\setlength{\tabcolsep}{4pt}"),
            *(rf"\caption{{{caption}}}", rf"\label{{tab:{label}}}"),
            *(rf"\begin{{tabular}}{{@{{}}{''.join(looks.values())}@{{}}}}", r"\toprule", top, r"\midrule"),
            *(*body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""),
        ]
    )


def _wrapped(heading: str) -> list[str]:
    return textwrap.wrap(heading, HEADING, break_long_words=False, break_on_hyphens=False)


def _looks(table: Table) -> dict[str, str]:
    """Return how each column is aligned: l, r, or p with a share of the line, if the table is wider than a line."""
    texts = {name: [*_wrapped(name), *"\n".join(table.data[name]).split("\n")] for name in table.data}
    widths = {name: max(map(len, lines)) for name, lines in texts.items()}
    broken = [name for name in table.words if widths[name] > SHORT] if sum(widths.values()) > LINE else []
    rest = 0.95 - sum(width + 2 for name, width in widths.items() if name not in broken) / LINE
    parts = {name: math.sqrt(widths[name]) for name in broken}
    words = {name: max(map(len, re.split("[=_/ ]", " ".join(texts[name])))) for name in broken}
    shares = {name: max(words[name] / LINE, rest * part / sum(parts.values())) for name, part in parts.items()}
    looks = {name: "l" if name in table.words else "r" for name in table.data}
    return looks | {name: rf"p{{{share:.2f}\linewidth}}" for name, share in shares.items()}


def escaped(line: str) -> str:
    """Return a line of text as LaTeX shows it."""
    text = SPECIAL.sub(lambda match: LATEX[match[0]], re.sub(r'"([^"]*)"', r"``\1''", line))
    return f"{{{text[0]}}}{text[1:]}" if text[:1] in ("[", "*") else text  # else it is an argument of a \\ before it


def _stacked(lines: Sequence[str], look: str) -> str:
    """Return the lines of a cell one above the other."""
    return lines[0] if len(lines) == 1 else rf"\shortstack[{look[0].replace('p', 'l')}]{{{ROW_END.join(lines)}}}"
