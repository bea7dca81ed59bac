"""The parts that all commands share: their words, ``--help``, exit statuses and tables.

A command module has a ``HELP``, a ``main(words)`` that returns the exit status, and ends in ``cli.run(main, HELP)``.
Heavy imports are inside ``main``, so that ``--help`` is answered at once.
"""

import difflib
import io
import os
import shlex
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hrm_bench.errors import UsageError, allowed

if TYPE_CHECKING:
    from pandas import DataFrame

    from hrm_bench.table import Table

COMMANDS = {  # every command besides training, with what it does
    "archive": "pack the records of a sweep into one file, unpack them, or check that they can be true",
    "audit": "check that a model sees no later character, and which loss trains which part",
    "claims": "train what the claims of a file need, and decide them",
    "compare": "compare models by scores per seed that were made elsewhere",
    "evaluate": "score the trained cells of a sweep in other ways: sliding windows, averaged seeds, adaptation",
    "floors": "show what n-gram models reach on the same text",
    "generate": "continue a text with a trained cell",
    "new": "write a folder for a study of one's own: model, text, claim, notebook",
    "report": "make the tables, plots and page of sweeps again from their records",
    "status": "show how far sweeps are, also while they run",
}
KINDS: dict[type, str] = {int: "a whole number", float: "a number"}
UNLIMITED = 10_000  # characters of a line that no terminal breaks
LINES = 2  # of a cell, where not all of a table fits the terminal
WORDS = 20  # characters that a column of words has, if it needs them


@dataclass(frozen=True)
class Help:
    """The help text of a command."""

    name: str
    words: str  # as one types them: FOLDER, [key=value ...]
    arguments: Mapping[str, str]  # by word: what it is for
    example: str  # the words of a real call

    def __str__(self) -> str:
        width = max(map(len, self.arguments), default=0)
        return "\n".join(
            [
                f"{self.usage}\n\n{COMMANDS[self.name].capitalize()}.\n",
                *(f"  {word:{width}}  {meaning}" for word, meaning in self.arguments.items()),
                f"\nExample:\n  python -m hrm_bench.{self.name} {self.example}",
            ]
        )

    @property
    def usage(self) -> str:
        return f"python -m hrm_bench.{self.name} {self.words}"

    def misuse(self, words: Sequence[str]) -> UsageError:
        """Return the error for words that the command does not take."""
        return UsageError(f"{shlex.join(words) or 'no words'}: not understood; type {self.usage}")


@dataclass(frozen=True)
class Key:
    """A ``key=value`` word of a command; one without a default must be given."""

    meaning: str
    kind: type = str
    default: Any = None
    shown: str = ""  # the value in --help, if it is not the default
    at_least: float | None = None


def arguments(keys: Mapping[str, Key]) -> dict[str, str]:
    """Return the lines of ``--help`` for keys."""
    return {f"{name}={key.shown or key.default}": key.meaning for name, key in keys.items()}


def parse(
    words: Sequence[str],
    keys: Mapping[str, Key],
    check: Callable[[Mapping[str, Any]], Iterable[str]] = lambda _: (),
) -> dict[str, Any]:
    """Return a value for every key.

    ``check`` returns the faults of values that are each of the right kind. Raises UsageError with one line per fault.
    """
    values = {name: key.default for name, key in keys.items() if key.default is not None}
    faults, given = [], set[str]()
    for word in words:
        name, equals, text = word.partition("=")
        if equals and name in given:
            faults.append(f"{name}: given twice; give it once")
            continue
        given.add(name)
        if not equals:
            faults.append(f"{word}: not understood; write key=value, and put a value with spaces in quotes")
        elif name not in keys:
            near = difflib.get_close_matches(name, keys, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"{name}: no such key; allowed are {allowed(keys)}{hint}")
        elif not text and not keys[name].default:
            faults.append(f"{word}: has no value; give one, or leave it out")
        else:
            try:
                values[name] = keys[name].kind(text)
            except ValueError:
                faults.append(f"{word}: must be {KINDS[keys[name].kind]}")
    for name, key in keys.items():
        if name not in values:
            faults.append(f"{name}: must be given; {name}={key.shown}")
        elif key.at_least is not None and values[name] < key.at_least:
            faults.append(f"{name}={values[name]}: must be at least {key.at_least}; try {name}={key.default}")
    faults += check(values)
    if faults:
        raise UsageError(*faults)
    return values


def command_list() -> str:
    """Return one line per command besides training, for ``--help``."""
    lines = [f"  {name:{max(map(len, COMMANDS))}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["Commands (hrm_bench COMMAND or python -m hrm_bench.COMMAND; each has --help):", *lines])


def run(
    main: Callable[[list[str]], int],
    help_text: "Help | None" = None,
    words: Sequence[str] | None = None,
    *,
    disk_hint: str = "choose another path",
    interrupted: str = "",
) -> NoReturn:
    """Run a command on the words after its name and exit with its status.

    The status is what ``main`` returns; 2 after a UsageError or a file that cannot be used, with one line per fault;
    1 if the reader of the output has closed the pipe; 130 after Ctrl-C, with the line ``interrupted``.
    """
    words = sys.argv[1:] if words is None else words
    if (here := str(Path.cwd())) not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # so that the script finds models here, as python -m does
    if sys.stdout is None or sys.stderr is None:  # closed by the caller, as `>&-` does
        nowhere = Path(os.devnull).open("w")  # noqa: SIM115
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a notebook puts in its place
            stream.reconfigure(errors="replace")  # a terminal may lack a sign such as ±
    try:
        if help_text is not None and {"-h", "--help"} & set(words):
            print(help_text)
            status = 0
        else:
            status = main(list(words))
        sys.stdout.flush()
    except UsageError as error:
        stop(error)
    except BrokenPipeError:  # as in `| head`; nothing else may be written, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        place = error.filename or "the disk"
        stop(UsageError(f"{place}: cannot be read or written ({error.strerror or error}); {disk_hint}"))
    except KeyboardInterrupt:
        if interrupted:
            print(interrupted, file=sys.stderr)
        status = 130
    sys.exit(status)


def stop(error: UsageError) -> NoReturn:
    """Print one line per fault and exit with status 2."""
    for fault in error.faults:
        print(f"hrm_bench: {fault}", file=sys.stderr)
    sys.exit(2)


def fitted(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: Container[str],
    width: int,
    least: Sequence[str],
) -> dict[int, int | None]:
    """Return the columns of a table that fit a terminal of ``width`` characters, by number, with their widths.

    A figure is never broken, and text only between words. Columns are left out in the order ``least``, then from the
    right. Two columns stay: without a width, if they do not fit.
    """
    natural, needed = [], []
    for column, heading in enumerate(headings):
        cells = [line for row in rows for line in row[column].split("\n")]
        longest, word = (max(map(len, some), default=0) for some in (cells, " ".join(cells).split()))
        title = max(map(len, heading.split()), default=0)
        natural.append(max(longest, len(heading)))
        needed.append(max(title, word, min(longest, WORDS)) if heading in text_columns else max(title, longest))
    kept = [*range(len(headings))]
    order = [headings.index(name) for name in least if name in headings]
    order += [column for column in kept[::-1] if column not in order]
    while (spare := width + 3 - sum(needed[column] + 3 for column in kept)) < 0 and len(kept) > 2:
        kept.remove(order.pop(0))
    widths = {column: needed[column] for column in kept}
    while spare > 0 and (narrow := [column for column in kept if widths[column] < natural[column]]):
        for column in narrow[:spare]:
            widths[column] += 1
        spare -= len(narrow[:spare])
    return {column: None if spare < 0 else size for column, size in widths.items()}


def print_table(
    title: str,
    headings: "Sequence[str] | DataFrame",
    rows: Iterable[Sequence[Any]] = (),
    *,
    text_columns: Container[str] = (),
    caption: str = "",
    ruled: bool = False,
    least: Sequence[str] = (),
) -> None:
    """Print a table and its caption; a pandas DataFrame, given as ``headings``, has its own rows.

    ``text_columns`` are aligned to the left, all others to the right. Outside a terminal no line is broken. Where a
    terminal is too narrow, columns are left out, those of ``least`` first, and cells keep their first lines; a line
    below says so.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not isinstance(headings, Sequence):
        rows = headings.itertuples(index=False)
        headings = list(headings.columns)
    cells = [["" if value is None or value != value else str(value) for value in row] for row in rows]  # NaN != NaN
    console, widths, cut = Console(), dict.fromkeys(range(len(headings))), ""
    if console.is_terminal:
        widths = fitted(headings, cells, text_columns, console.width, least)
        if len(widths) < len(headings) and any("\n" in cell for row in cells for cell in row):
            cells = [["\n".join(cell.split("\n")[:LINES]) for cell in row] for row in cells]
            widths, cut = fitted(headings, cells, text_columns, console.width, least), "long cells are cut"
    else:
        console.width = UNLIMITED
    edges = sum(size or 0 for size in widths.values()) + 3 * len(widths) < console.width
    table = Table(title=Text(title), show_lines=ruled, show_edge=edges, pad_edge=edges)
    for column, width in widths.items():
        look: Any = {"justify": "left" if headings[column] in text_columns else "right"}
        table.add_column(Text(headings[column]), overflow="fold", width=width, **look)
    for row in cells:
        table.add_row(*(Text(row[column]) for column in widths))
    console.print(table)
    hidden = ", ".join(heading for column, heading in enumerate(headings) if column not in widths)
    cut = "; ".join(filter(None, (hidden and f"left out: {hidden}", cut)))
    note = cut and f"For the width of this terminal, {cut}."
    for line in filter(None, (note, caption)):
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def show(*tables: "Table | None") -> None:
    """Print tables that a report has made."""
    for table in filter(None, tables):
        look: Any = {"text_columns": table.words, "caption": table.caption, "ruled": table.has_long_cells}
        print_table(table.title, table.data, **look, least=table.least)
