"""The code stamp: what decides figures changes it, and nothing else, whatever Python computes it."""

import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

STAMP = """
import sys, types
from hrm_bench.cells import provenance

provenance.version = lambda _: "2"  # of PyTorch, which other Pythons may not have
target, objective = sys.argv[1:]
model = types.SimpleNamespace(_target_=target, objective=types.SimpleNamespace(_target_=objective))
nothing = types.SimpleNamespace(get=lambda key, default: default)
print(provenance.code_version(types.SimpleNamespace(model=model, trainer=nothing, recipe=nothing, get=nothing.get)))
"""
OBJECTIVE = "hrm_bench.objectives.DeepSupervision"


@pytest.fixture
def package(tmp_path):
    """A copy of the package, whose source a test may change."""
    shutil.copytree(ROOT / "hrm_bench", tmp_path / "hrm_bench", ignore=shutil.ignore_patterns("__pycache__", "*.txt"))
    return tmp_path / "hrm_bench"


def stamp(package, target="hrm_bench.models.infini_hrm.InfiniHRM", python=sys.executable):
    command = [python, "-c", STAMP, target, OBJECTIVE]
    return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True).stdout.strip()


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_adding_a_model_outdates_no_cell(package):
    before = stamp(package)
    (package / "models" / "gru.py").write_text("class GRU:\n    pass\n")
    assert stamp(package) == before


def test_a_message_a_docstring_or_a_comment_outdates_no_cell(package):
    before = stamp(package)
    replace(package / "training" / "build.py", "fewer than one each", "not one for each")
    replace(package / "training" / "build.py", "a batch of", "one batch of")
    replace(package / "data" / "corpora.py", "cannot be read", "is not readable")
    replace(package / "training" / "recorder.py", "SECONDS_BETWEEN_REPORTS = 1.0", "SECONDS_BETWEEN_REPORTS = 2.0")
    for path in (package / "charlm.py", package / "layers" / "block.py"):
        path.write_text(path.read_text() + '\n\ndef added():\n    """Do nothing."""\n')
    documented = stamp(package)
    assert documented != before  # a function is code
    for path in (package / "charlm.py", package / "layers" / "block.py"):
        replace(path, '\n\ndef added():\n    """Do nothing."""\n', "\n# added\n")
    assert stamp(package) == before


@pytest.mark.parametrize(
    "name",
    [
        *("charlm", "objectives", "optimizers", "models/infini_hrm", "models/hrm", "layers/block", "data/windows"),
        *("data/distillation", "training/build", "training/fit", "training/averaging"),
    ],
)
def test_code_that_decides_figures_outdates_a_cell(name, package):
    before = stamp(package)
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "\nADDED = 1\n")
    assert stamp(package) != before


def test_a_users_own_model_counts_with_what_it_imports_of_its_package_and_of_our_models(package):
    own = package.parent / "mine"
    own.mkdir()
    (own / "__init__.py").write_text("")
    (own / "parts.py").write_text("SIZE = 1\n")
    (own / "other.py").write_text("SIZE = 1\n")
    (own / "model.py").write_text(
        "from hrm_bench.models.hrm import HRM\nfrom mine import parts\n\nclass Mine(HRM):\n    size = parts.SIZE\n"
    )
    stamps = [stamp(package, "mine.model.Mine")]
    (own / "other.py").write_text("SIZE = 2\n")
    assert stamp(package, "mine.model.Mine") == stamps[0]
    (own / "parts.py").write_text("SIZE = 2\n")
    stamps.append(stamp(package, "mine.model.Mine"))
    replace(own / "model.py", "size = parts.SIZE", "size = parts.SIZE + 1")
    stamps.append(stamp(package, "mine.model.Mine"))
    (package / "models" / "hrm.py").write_text((package / "models" / "hrm.py").read_text() + "\nADDED = 1\n")
    stamps.append(stamp(package, "mine.model.Mine"))
    assert len(set(stamps)) == 4


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_computes_the_same_stamp(version, package):
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {version} here")
    path = package / "layers" / "block.py"  # with what versions of Python parse into different trees
    path.write_text(
        path.read_text() + "\n\ndef added(value, width):\n    return f'{value:{width}.2f}', f\"{value!r}\"\n"
    )
    assert stamp(package, python=python) == stamp(package)
