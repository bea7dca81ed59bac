"""A change of any source file that decides a cell's figures changes the cell's code stamp; other changes do not."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, compose
from omegaconf import OmegaConf

PACKAGE = ROOT / "hrm_bench"
STAMPS = """
import json, os, sys
from pathlib import Path
from omegaconf import OmegaConf
from hrm_bench.cells.provenance import code_version

config, changes = json.load(sys.stdin)
cfg = OmegaConf.create(config)


def stamp():
    reader, writer = os.pipe()
    if os.fork() == 0:  # a process of its own, so that nothing is kept from one stamp to the next
        os.write(writer, code_version(cfg).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        os.wait()
        return file.read()


stamps = {"unchanged": stamp()}
for label, (addition, names) in changes.items():
    sources = {name: Path(name).read_text(encoding="utf-8") for name in names}
    for name, source in sources.items():
        Path(name).write_text(source + addition, encoding="utf-8")
    stamps[label] = stamp()
    for name, source in sources.items():
        Path(name).write_text(source, encoding="utf-8")
print(json.dumps(stamps))
"""
CODE = "\nADDED = 1\n"
DECIDING = {
    "charlm": "charlm.py",
    "objective": "objectives.py",
    "optimizer": "optimizers.py",
    "model": "models/infini_hrm.py",
    "model's base": "models/hrm.py",
    "layer": "layers/block.py",
    "memory": "layers/compressive_memory.py",
    "lanes": "layers/carried.py",
    "corpora": "data/corpora.py",
    "text": "data/text.py",
    "windows": "data/windows.py",
    "distillation": "data/distillation.py",
    "building": "training/build.py",
    "training": "training/fit.py",
    "averaging": "training/averaging.py",
}


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """The stamps of a cell of Infini-HRM by a copy of the package: as it is, and with each of the changes."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "hrm_bench", ignore=shutil.ignore_patterns("__pycache__"))
    others = [path for path in (PACKAGE / "models").glob("[!_]*.py") if path.stem not in ("hrm", "infini_hrm")]
    others += [path for room in ("report", "sweeps", "records") for path in (PACKAGE / room).glob("[!_]*.py")]
    others += PACKAGE / "cli.py", PACKAGE / "train.py", PACKAGE / "training/progress.py"
    changes = {label: (CODE, [f"hrm_bench/{name}"]) for label, name in DECIDING.items()}
    changes["comments"] = ("\n# added\n", [f"hrm_bench/{name}" for name in DECIDING.values()])
    changes["other models, reports, sweeps and commands"] = (CODE, [str(path.relative_to(ROOT)) for path in others])
    config = OmegaConf.to_container(compose("data=sample", "model=infini_hrm"), resolve=True)
    done = subprocess.run(
        [sys.executable, "-c", STAMPS],
        input=json.dumps([config, changes]),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("label", DECIDING)
def test_a_change_of_what_decides_figures_changes_the_stamp(label, stamps):
    assert stamps[label] != stamps["unchanged"]
    assert list(stamps.values()).count(stamps[label]) == 1


@pytest.mark.parametrize("label", ["comments", "other models, reports, sweeps and commands"])
def test_a_change_that_decides_no_figure_does_not(label, stamps):
    assert stamps[label] == stamps["unchanged"]
