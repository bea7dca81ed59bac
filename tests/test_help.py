"""What all commands share: their words, their --help, their exit statuses and their tables."""

import importlib
import re
import subprocess
import sys

import pandas
import pytest

from hrm_bench import cli
from hrm_bench.cli import COMMANDS, Key
from hrm_bench.errors import UsageError

KEYS = {
    "run": Key("a folder", shown="FOLDER"),
    "length": Key("characters", int, 200, at_least=1),
    "temperature": Key("randomness", float, 0.8),
}
HELP = cli.Help("generate", "run=FOLDER [key=value ...]", cli.arguments(KEYS), "run=here length=3")
WITHOUT = {"report"}  # its help has its own tests


def exit_status(main, *words, **settings):
    with pytest.raises(SystemExit) as ended:
        cli.run(main, HELP, words, **settings)
    return ended.value.code


def raising(error):
    def main(_):
        raise error

    return main


def test_words_are_read_by_their_kind_and_missing_ones_have_their_default():
    assert cli.parse(["run=a=b", "length=3"], KEYS) == {"run": "a=b", "length": 3, "temperature": 0.8}


def test_all_faults_of_words_are_reported_together():
    with pytest.raises(UsageError) as refused:
        cli.parse(["lenght=3", "cat", "temperature=hot", "length=0"], KEYS, check=lambda given: [f"{len(given)} given"])
    assert refused.value.faults == (
        "lenght: no such key; allowed are run, length, temperature; did you mean length?",
        "cat: not understood; write key=value, and put a value with spaces in quotes",
        "temperature=hot: must be a number",
        "run: must be given; run=FOLDER",
        "length=0: must be at least 1; try length=200",
        "2 given",
    )


@pytest.mark.parametrize(
    ("main", "status", "line"),
    [
        (lambda _: 0, 0, ""),
        (lambda _: 1, 1, ""),
        (raising(UsageError("a fault", "another")), 2, "hrm_bench: a fault\nhrm_bench: another\n"),
        (
            raising(PermissionError(13, "Permission denied", "out.json")),
            2,
            "hrm_bench: out.json: cannot be read or written (Permission denied); choose another path\n",
        ),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
    ids=["success", "failure", "usage", "file", "Ctrl-C"],
)
def test_every_way_to_end_has_its_exit_status_and_its_line(main, status, line, capsys):
    assert exit_status(main, interrupted="interrupted") == status
    assert capsys.readouterr().err == line


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), HELP, [])


def test_help_has_usage_arguments_and_an_example_and_runs_nothing(capsys):
    assert exit_status(raising(AssertionError), "run=x", "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "python -m hrm_bench.generate run=FOLDER [key=value ...]"
    assert [line.split() for line in lines if line.startswith("  run=F")] == [["run=FOLDER", "a", "folder"]]
    assert lines[-1].endswith("generate run=here length=3")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - WITHOUT))
def test_every_command_explains_itself_with_the_words_of_its_own_example(name):
    module = importlib.import_module(f"hrm_bench.{name}")
    assert module.HELP.name == name
    assert module.HELP.usage.startswith(f"python -m hrm_bench.{name} ")
    assert f"python -m hrm_bench.{name} {module.HELP.example}" in str(module.HELP)
    assert callable(module.main)


def test_the_help_of_commands_and_of_training_loads_no_heavy_library():
    program = (
        "import importlib, sys; from hrm_bench import cli; import hrm_bench.__main__;"
        f"[importlib.import_module('hrm_bench.' + name) for name in {sorted(COMMANDS.keys() - WITHOUT)}];"
        "print(cli.command_list());"
        "print(sorted({'torch', 'lightning', 'matplotlib', 'pandas', 'scipy', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert [line.split()[0] for line in lines[1:]] == sorted(COMMANDS)


def test_a_table_is_as_wide_as_it_needs_to_be_where_no_terminal_limits_it(capsys):
    cli.print_table("a [title]", ["name", "value"], [["x " * 100, 1.5]], text_columns={"name"}, caption="note " * 60)
    title, *_, row, _, caption = capsys.readouterr().out.splitlines()
    assert title.strip() == "a [title]"
    assert row == f"│ {'x ' * 100} │   1.5 │"
    assert caption.split() == ["note"] * 60


def test_a_table_of_pandas_has_its_columns_and_leaves_missing_values_empty(capsys):
    cli.print_table("", pandas.DataFrame({"name": ["a", None], "value": [1.5, None]}))
    *_, first, second, _ = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in first.split("│")[1:3]] == ["a", "1.5"]
    assert [cell.strip() for cell in second.split("│")[1:3]] == ["", ""]


RUNS = [
    [str(n), f"model_{n}", f"1{n}.25 ± 0.50", f"some words and {n} more of them, and more", "0.001"] for n in range(3)
]
RUN_HEADINGS = ["rank", "model", "validation perplexity", "note", "p"]


@pytest.fixture
def terminal(monkeypatch, capsys):
    """Print the table of RUNS in a terminal of some width; return its lines."""

    def lines(width, rows=RUNS, **look):
        for name, value in {"FORCE_COLOR": "1", "COLUMNS": str(width)}.items():
            monkeypatch.setenv(name, value)
        cli.print_table("", RUN_HEADINGS, rows, text_columns={"model", "note"}, **look)
        return re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()

    return lines


def test_a_wide_terminal_shows_every_column_on_one_line_per_row(terminal):
    lines = terminal(120)
    assert max(map(len, lines)) <= 120
    assert [row[3] for row in RUNS] == [line.split("│")[4].strip() for line in lines if "± 0.50" in line]
    assert not any("left out" in line for line in lines)


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_no_terminal_breaks_a_figure_or_a_word(terminal, width):
    lines = terminal(width, least=["p", "rank", "note"])
    assert max(map(len, lines)) <= width
    words = " ".join(lines).replace("┃", " ").replace("│", " ").split()
    for rank, model, perplexity, note, p in RUNS:
        assert model in words
        assert any(perplexity in line for line in lines)
        shown = [rank, p, *note.split()] if width >= 60 else []
        assert set(shown) <= set(words) or "left out" in " ".join(words)


def test_a_narrow_terminal_says_which_columns_it_leaves_out_the_least_first(terminal):
    assert "For the width of this terminal, left out: p." in " ".join(terminal(58, least=["p", "rank"]))
    told = " ".join(line.strip() for line in terminal(40, least=["p", "rank", "note"]))
    assert "left out: rank, note, p." in told


def test_where_columns_are_left_out_cells_keep_their_first_two_lines(terminal):
    rows = [[*RUNS[0][:3], "first line of it\nsecond line of it\nthird", "0.001"]]
    shown = " ".join(terminal(120, rows))
    assert "third" in shown
    shown = " ".join(line.strip() for line in terminal(54, rows, least=["p"]))
    assert "second" in shown
    assert "third" not in shown
    assert "long cells are cut" in shown
