"""The notebooks in ``examples/``, run from top to bottom."""

import json
import sys

import matplotlib.pyplot as plt
import pytest
from conftest import ROOT


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """No window is opened, and nothing that a notebook sets stays."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    plt.switch_backend("agg")
    yield
    plt.close("all")


def run(name, **replaced):
    """Run the code of a notebook, with some of its text replaced; return its names."""
    names = {}
    for cell in json.loads((ROOT / "examples" / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"{name} has outputs; a reader makes his own"
            source = "".join(cell["source"])
            for old, new in replaced.items():
                source = source.replace(old, new)
            exec(compile(source, name, "exec"), names)
    return names


def test_the_first_figure_is_drawn_from_cells_that_were_just_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fewer = {"max_epochs=12": "max_epochs=1", '"seed=42,43,44,45"': '"seed=42,43,44,45", "data.train_chars=2000"'}
    names = run("first_figure.ipynb", **fewer)
    assert len(names["cells"]) == 8
    (axes,) = names["figure"].axes
    assert len(axes.lines) == 9  # a line per cell, and the plateau
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"hrm", "lstm", "unigram: the plateau"}
    assert len(names["comparison"].levels) == 2
    assert "HRM scores" in capsys.readouterr().out


def test_the_archived_results_are_read_as_the_documentation_tells_them(monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "examples")
    names = run("reading_results.ipynb")
    assert names["comparison"].answer == "different"
    assert (round(names["found"].estimate, 1), names["found"].seeds) == (8.1, 12)
    printed = capsys.readouterr().out
    assert r"\begin{tabular}" in printed
    assert "7.66" not in printed  # validation, which was not asked for
    assert "6.52" in printed
