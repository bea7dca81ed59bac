"""Single tables of the report, printed for a paper: as CSV, LaTeX or Markdown."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hrm_bench.errors import UsageError
from hrm_bench.report import __main__ as report
from hrm_bench.report import export

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "results" / "recipes.jsonl"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def printed(capsys, *words):
    assert report.main([str(RECIPES), *words]) == 0
    return capsys.readouterr().out


def test_a_table_is_printed_as_csv_with_the_figures_of_the_page_and_nothing_is_written(tmp_path, capsys):
    before = RECIPES.stat().st_mtime_ns, sorted(RECIPES.parent.iterdir())
    rows = [*csv.DictReader(io.StringIO(printed(capsys, "table=results", "format=csv")))]
    hrm = next(row for row in rows if row["model"] == "hrm" and row["settings"] == "recipe=published")
    assert (hrm["validation perplexity"], hrm["test perplexity"]) == ("11.33 ± 0.14", "9.91 ± 0.27")
    assert len(rows) == 26
    assert not [*tmp_path.iterdir()]
    assert before == (RECIPES.stat().st_mtime_ns, sorted(RECIPES.parent.iterdir()))
    assert printed(capsys, "table=results") == printed(capsys, "table=results", "format=csv")


def test_columns_are_chosen_and_ordered_by_their_headings(capsys):
    words = ("table=results", 'columns=test perplexity,model,"settings"', "format=markdown")
    assert re.search(r"^\|\s*test perplexity\s*\|\s*model\s*\|\s*settings\s*\|$", printed(capsys, *words), re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["table=result"], "table=result: no such choice; .* did you mean results?"),
        (["table=results", "columns=model,modeel"], "columns=modeel: no such choice; .* did you mean model"),
        (["table=results", "format=tex"], "format=tex: no such format; allowed are csv, latex, markdown"),
        (["format=latex"], "format=latex: is of one table; add table=NAME, such as table=results"),
        (["table=results", "columns=model,,memory"], "columns: an empty name between commas; leave it out"),
        (["table=results", "columns=model, model"], "columns: model is given twice"),
        (["table=results", "table=baselines"], "table: given twice; give it once"),
        (["table="], "table=: has no value; give one, or leave it out"),
        (["columns=model"], "columns=model: is of one table; add table=NAME"),
    ],
)
def test_a_word_that_cannot_be_meant_is_one_line(words, fault):
    with pytest.raises(UsageError, match=fault) as refused:
        report.main([str(RECIPES), *words])
    assert len(refused.value.faults) == 1


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("5 %", r"5 \%"),
        ("a_b & {c}", r"a\_b \& \{c\}"),
        ("-1.5 [-2, 3]", r"$-$1.5 [$-$2, 3]"),
        ("1e-05", r"1e$-$05"),
        ("n-gram", "n-gram"),
        ("seeds 1-3", "seeds 1-3"),
        ("\\x", r"\textbackslash{}x"),
        ("--help", "-{}-help"),
        ('the "best" one', r"the ``best'' one"),
        ("[+0.1]", "{[}+0.1]"),  # a row that begins with [ would be an argument of the line break before it
    ],
)
def test_signs_are_shown_as_they_are(text, latex):
    assert export.escaped(text) == latex


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("name", ["results", "verdicts", "memory_use", "cost", "commands"])
def test_latex_compiles_and_no_character_is_missing(tmp_path, capsys, name):
    packages = "\n".join(rf"\usepackage{{{name}}}" for name in ("booktabs", "textcomp"))
    body = printed(capsys, f"table={name}", "format=latex")
    if name == "results":
        body = printed(
            capsys,
            "table=results",
            "columns=model,memory,settings,validation perplexity,test perplexity",
            "format=latex",
        )
    text = (
        rf"\documentclass{{article}}\usepackage[utf8]{{inputenc}}\usepackage[T1]{{fontenc}}{packages}\begin{{document}}"
    )
    (tmp_path / "a.tex").write_text(f"{text}\n{body}\\end{{document}}\n", encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout


def test_a_heading_with_a_comma_is_quoted_and_offered_so(capsys):
    assert printed(capsys, "table=cost", 'columns=variant,"state, numbers per lane"').startswith(
        'variant,"state, numbers'
    )
    with pytest.raises(UsageError, match=r'allowed are .*"state, numbers per lane"'):
        report.main([str(RECIPES), "table=cost", "columns=state"])


def test_latex_has_as_many_cells_in_each_row_as_the_table_has_columns(capsys):
    lines = printed(capsys, "table=verdicts", "format=latex").splitlines()
    top = lines.index(r"\midrule") - 1
    rows = [lines[top], *lines[top + 2 : lines.index(r"\bottomrule")]]
    assert len(rows) > 5
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1
    assert all(row.endswith(r" \\") for row in rows)


def test_a_table_of_several_sweeps_says_whose_each_row_is(capsys):
    other = ROOT / "results" / "articles.jsonl"
    assert report.main([str(RECIPES), str(other), "table=results", "format=csv"]) == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert len({row["study"] for row in rows}) == 2
    assert report.main([str(RECIPES), str(other), "table=results", "format=latex"]) == 0
    assert {r"\label{tab:results-1}", r"\label{tab:results-2}"} <= {*capsys.readouterr().out.splitlines()}
