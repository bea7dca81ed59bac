"""Weights that are given away: their card, how they are read again, and those in ``examples/weights``."""

import json
import math
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from commands import hrm_bench
from conftest import quick
from safetensors.torch import load_file

from hrm_bench import archive, audit, evaluate, generate
from hrm_bench.cells.reopen import load_cell, reopen
from hrm_bench.cells.run import run_cell
from hrm_bench.errors import UsageError
from hrm_bench.evidence.reading import read
from hrm_bench.records import store
from hrm_bench.report.card import card
from hrm_bench.report.frame import Sweep

EXAMPLES = Path(__file__).parents[1] / "examples" / "weights"
CELLS = sorted(path.parent for path in EXAMPLES.glob("*/record.json"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A finished cell with a memory, and one that is not causal."""
    root = tmp_path_factory.mktemp("multirun")
    for words in (("model=infini_hrm", "memory=carry"), ("model=hrm", "model.causal=false")):
        assert run_cell(quick(*words, "recipe.max_epochs=1"), root)["status"] == "finished"
    return root


@pytest.fixture
def released(sweep, tmp_path, capsys):
    assert archive.main(["weights", str(sweep), str(tmp_path / "given")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"1 cell with weights: {tmp_path / 'given'}, described in ")
    assert printed.endswith("1 left out: not causal\n")
    (folder,) = (path.parent for path in (tmp_path / "given").glob("*/record.json"))
    return folder


def test_a_released_cell_has_the_best_weights_and_does_what_the_cell_does(sweep, released, capsys):
    own = next(sweep.glob("infini_hrm-*"))
    assert sorted(path.name for path in released.iterdir()) == ["config.yaml", "record.json", "weights.safetensors"]
    best = torch.load(own / "best.ckpt", weights_only=True)["state_dict"]
    given = load_file(released / "weights.safetensors")
    assert given.keys() == best.keys()
    assert all(torch.equal(given[name], best[name]) for name in best)
    printed = []
    for folder in (own, released):
        assert generate.main([f"run={folder}", "length=30"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_a_release_is_evaluated_as_its_sweep(sweep, released):
    for folder in (sweep, released.parent):
        assert evaluate.main([str(folder)]) == 0
    first, second = (json.loads((folder / "evaluation.json").read_text()) for folder in (sweep, released.parent))
    assert first == second


def test_trained_cells_are_audited_causal_or_not(sweep, released, capsys):
    assert audit.main([f"run={released}"]) == 0
    assert "infini_hrm: causal" in capsys.readouterr().out
    assert audit.main([f"run={next(sweep.glob('hrm-*'))}"]) == 1
    assert "hrm: NOT CAUSAL" in capsys.readouterr().out


def test_the_card_has_the_cells_figures_and_commands_that_can_be_typed(released):
    card, record = (released.parent / "README.md").read_text(), store.read(released)
    for split in ("validation", "test"):
        assert f"| {record[split]['perplexity']:.2f} |" in card
    assert "Trained weights of infini_hrm" in card
    word = next(line.split()[3] for line in card.splitlines() if "hrm_bench.generate" in line)
    assert word == f"run={released}"
    assert "/work" not in (released / "config.yaml").read_text()


def test_a_release_is_written_again_but_never_over_other_scores(sweep, released):
    before = (released / "weights.safetensors").read_bytes()
    assert archive.main(["weights", str(sweep), str(released.parent)]) == 0
    assert (released / "weights.safetensors").read_bytes() == before
    record = json.loads((released / "record.json").read_text())
    record["validation"]["nll"] += 1
    (released / "record.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="is there already, with other scores; give another folder"):
        archive.main(["weights", str(sweep), str(released.parent)])


def test_what_cannot_be_given_away_is_one_line(sweep, tmp_path):
    with pytest.raises(UsageError, match="nowhere: no such folder; give the folder of a sweep"):
        archive.main(["weights", str(tmp_path / "nowhere"), str(tmp_path / "given")])
    copy = shutil.copytree(sweep, tmp_path / "copy")
    next(copy.glob("infini_hrm-*/best.ckpt")).unlink()
    with pytest.raises(UsageError, match=r"infini_hrm-.* has no best\.ckpt"):
        archive.main(["weights", str(copy), str(tmp_path / "given")])
    assert not (tmp_path / "given").exists()


def test_a_target_is_never_mixed_with_anything_else(sweep, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"README\.md: is there already, and no card of weights; give another folder"):
        archive.main(["weights", str(sweep), str(other)])
    assert (other / "README.md").read_text() == "mine"
    shutil.copytree(CELLS[0], tmp_path / "given" / CELLS[0].name)
    with pytest.raises(UsageError, match=f"has other cells, such as {CELLS[0].name}"):
        archive.main(["weights", str(sweep), str(tmp_path / "given")])
    for target in (other / "README.md", other / "README.md" / "below"):
        with pytest.raises(UsageError, match="a file, or in one; give a folder"):
            archive.main(["weights", str(sweep), str(target)])
    monkeypatch.chdir(other)
    with pytest.raises(UsageError, match="weights: a name is empty; give both"):
        archive.main(["weights", str(sweep), ""])


def test_the_commands_of_a_card_can_be_typed_whatever_the_folders_name(sweep, tmp_path):
    target = tmp_path / "with a space=1"
    assert archive.main(["weights", str(sweep), str(target)]) == 0
    commands = [
        line.split("hrm_bench.")[1] for line in (target / "README.md").read_text().splitlines() if "-m hrm_" in line
    ]
    words = [shlex.split(command) for command in commands if command.startswith(("generate", "evaluate", "audit"))]
    assert [len(some) for some in words] == [3, 2, 2]
    assert load_cell(words[0][1].removeprefix("run=")).vocabulary_size == 97
    assert words[1][1] == str(target)


def test_a_trained_cell_is_audited_by_itself(released):
    with pytest.raises(UsageError) as refused:
        audit.main([f"run={released}", "length=8", "module=a:b"])
    assert [fault.partition(":")[0] for fault in refused.value.faults] == ["length=8", "module=a"]
    assert "not with run=FOLDER" in refused.value.faults[0]


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_damaged_weights_are_one_line(released, content):
    file = released / "weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UsageError, match=r"weights\.safetensors: cannot be read, or not by this version") as error:
        load_cell(released)
    assert len(error.value.faults) == 1


def test_the_card_among_the_examples_is_that_of_today(monkeypatch):
    monkeypatch.chdir(EXAMPLES.parents[1])
    folder = Path("examples/weights")
    assert (folder / "README.md").read_text() == card(Sweep.of(store.read_all(folder), path=folder), folder)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name.partition("-")[0])
def test_the_weights_among_the_examples_write_and_are_causal(cell, tmp_path):
    done = hrm_bench(f"run={cell}", "length=40", cwd=tmp_path, module="hrm_bench.generate")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) == len("The ") + 40 + 1
    assert audit.main([f"run={cell}"]) == 0


@pytest.mark.skipif("HRM_BENCH_WIKITEXT" not in os.environ, reason="needs a copy of WikiText-2")
def test_the_weights_among_the_examples_score_what_their_records_say():
    assert [cell.name.partition("-")[0] for cell in CELLS] == ["hrm", "lstm", "transformer"]
    for cell in CELLS:
        record = store.read(cell)
        cells = reopen(EXAMPLES, [record])
        for split in ("validation", "test"):
            given = read(cells.models[42], getattr(cells.windows, split)).probabilities
            assert math.exp(-float(given.log().mean())) == pytest.approx(record[split]["perplexity"], rel=1e-3)
