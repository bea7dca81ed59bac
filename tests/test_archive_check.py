"""An archive is checked: a good one passes, each kind of tampering is named, and training again finds a forged cell."""

import copy
import json
import math
import random
import re

import pytest
from conftest import FEW, ROOT, compose, quick

from hrm_bench import archive
from hrm_bench.cells import verify
from hrm_bench.cells.run import run_cell
from hrm_bench.errors import UsageError
from hrm_bench.records import archive as packing
from hrm_bench.records.schema import score


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The lines of an archive of two real cells."""
    root = tmp_path_factory.mktemp("sweep")
    small = ["data=sample", "data.window=8", "model=lstm", "model.width=16", "logger=none", "seed=1", *FEW]
    for cfg in (compose(*small), quick(*FEW, "model=infini_hrm", "memory=carry", "seed=2")):
        assert run_cell(cfg, root)["status"] == "finished"
    packing.pack(root, root / "good.jsonl")
    made = [json.loads(line) for line in (root / "good.jsonl").read_text().splitlines()]
    return sorted(made, key=lambda line: line["path"])  # infini_hrm, lstm


def written(lines, folder):
    file = folder / "some.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def changed(lines, change, number=0):
    made = copy.deepcopy(lines)
    change(made[number]["content"])
    return made


def put(*path_and_value):
    """A change of one value deep in a record."""
    *path, key, value = path_and_value

    def change(content):
        for name in path:
            content = content[name]
        content[key] = value

    return change


def better(content):
    """A score that agrees with itself, but not with the history."""
    given = content["validation"]
    content["validation"] = dict(score(0.9 * given["nll"], characters=given["characters"], words=given["words"]))
    content["windows"]["validation"] = [0.9 * nats for nats in content["windows"]["validation"]]


TAMPERED = {
    "a perplexity": (put("test", "perplexity", 5.0), r"test\.perplexity=5\.0: does not follow from test\.nll=.*"),
    "a score that agrees with itself": (better, r"best_epoch=\d: its loss in the history is not validation\.nll"),
    "a seed": (put("seed", 7), r"seed=7: the config has 1"),
    "a seed in the config too": (
        lambda content: (put("seed", 7)(content), put("config", "seed", 7)(content)),
        r"identity=\w+: config and text give \w+",
    ),
    "a text": (put("text", "0" * 12), r"text=000000000000: the text of the config has \w+"),
    "the characters of a text": (put("config", "data", "train_chars", 300), r"identity=\w+: config and text give \w+"),
    "an audit": (put("causal", False), r"causal=False: the leaks that it records say the opposite"),
    "a leak": (put("leak", "best", "gradient", 0.5), r"causal=True: the leaks that it records say the opposite"),
    "the code": (put("code", "the code of today"), r"code=the code of today: must be twelve hexadecimal digits"),
    "the parameters": (put("parameters", 100), r"parameters=100: the model of the config has \d+"),
    "the operations": (put("flops_per_character", 1.0), r"flops_per_character=1\.0: the model of the config has .*"),
    "a baseline": (
        put("floors", "validation", "unigram", "full", 99.0),
        r"floors\.validation\.unigram\.full=99\.0: the text gives .*",
    ),
    "the history": (put("history", 0, "validation_perplexity", 2.0), r"history: the perplexity of epoch 1 does not .*"),
    "an epoch that is left out": (lambda content: content["history"].pop(0), r"history: its epochs are not 1, 2, 3 .*"),
    "a window": (put("windows", "test", 0, 1.0), r"windows\.test: do not add up to test\.nll times its characters"),
    "an article": (put("articles", "test", 0, "nats", 1.0), r"articles\.test: the windows of .* do not add up .*"),
    "the number of characters": (
        lambda content: (
            content["test"].update(score(content["test"]["nll"], characters=4, words=1)),
            content.pop("windows"),  # as in records that are older than windows
        ),
        r"test\.characters=4: the text has \d+",
    ),
    "a key that is removed": (lambda content: content.pop("leak"), r"leak is missing"),
    "a class from elsewhere": (
        put("config", "model", "_target_", "os.path.Join"),
        r"config\.model\._target_=os\.path\.Join: is no class of hrm_bench; trust=true imports it",
    ),
    "a callback from elsewhere": (
        put("config", "trainer", "callbacks", [{"_target_": "antigravity.Fly"}]),
        r"config\.trainer\.callbacks\._target_=antigravity\.Fly: is no class of hrm_bench; .*",
    ),
    "a cell that is not finished": (put("status", "failed"), r"its cell is not finished, .*"),
}


def test_a_good_archive_has_no_fault_and_trains_again_to_the_same_figures(lines, tmp_path, capsys):
    file = written(lines, tmp_path)
    assert archive.main(["check", str(file), "train=2", "tolerance=0.000001"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "2 cells (2 by the code of today): no faults"
    assert told[-2] == (
        "If a tenth of the cells were forged, training 2 of 2 again would miss them with probability 0.00."
    )
    assert sum("trained again" in line for line in told) == 4


@pytest.mark.parametrize("kind", TAMPERED)
def test_each_kind_of_tampering_is_named(kind, lines, tmp_path):
    change, message = TAMPERED[kind]
    checked = verify.check_archive(written(changed(lines, change, 1), tmp_path))
    assert checked.faults
    pattern = rf"{lines[1]['path'].split('/')[0]}: {message}"
    assert any(re.fullmatch(pattern, line) for line in checked.faults), checked.faults
    assert not any(line.startswith(lines[0]["path"].split("/")[0]) for line in checked.faults)


def test_a_cell_that_comes_twice_is_named(lines, tmp_path):
    twice = [*lines, lines[0] | {"path": f"copy-{lines[0]['path']}"}]
    checked = verify.check_archive(written(twice, tmp_path))
    assert sum("the file has this cell more than once" in line for line in checked.faults) == 2


def test_a_class_from_elsewhere_is_imported_only_if_trusted(lines, tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = written(changed(lines, put("config", "model", "_target_", "elsewhere.Model")), tmp_path)
    assert verify.check_archive(file).faults
    with pytest.raises(SystemExit, match="imported"):
        verify.check_archive(file, trust=True)


def test_training_again_finds_a_cell_that_was_made_up_consistently(lines, tmp_path):
    def forge(content):
        for split in ("validation", "test"):
            given = content[split]
            content[split] = dict(score(0.8 * given["nll"], characters=given["characters"], words=given["words"]))
            content["windows"][split] = [0.8 * nats for nats in content["windows"][split]]
            content["bits_by_position"][split] = [0.8 * bits for bits in content["bits_by_position"][split]]
        for row in content["history"]:
            row["validation_nll"] *= 0.8
            row["validation_perplexity"] = math.exp(row["validation_nll"])

    file = written(changed(lines, forge), tmp_path)
    assert not verify.check_archive(file).faults  # nothing contradicts it but training
    faults = verify.train_again(file, 2, tolerance=0.05, draw=random.Random(0), said=lambda line: None)
    assert [line.split(": ")[1].split("=")[0] for line in faults] == ["validation.perplexity", "test.perplexity"]


def test_the_odds_of_missing_forged_cells_are_those_of_a_draw_without_replacement():
    assert verify.odds_of_missing(100, 0) == 1.0
    assert verify.odds_of_missing(100, 1) == pytest.approx(0.9)
    assert verify.odds_of_missing(10, 2) == pytest.approx(8 / 10)
    assert verify.odds_of_missing(100, 95) == 0.0


def test_the_text_that_is_not_at_hand_is_told_and_the_rest_is_checked(lines, tmp_path):
    def elsewhere(content):
        content["config"]["data"] |= {"source": "text_file", "path": "/nowhere/text.txt"}

    checked = verify.check_archive(written(changed(lines, elsewhere), tmp_path))
    assert checked.unread == 1
    assert checked.faults == []


def test_cells_of_the_repositorys_archives_pass(tmp_path):
    lines = (ROOT / "results" / "hierarchical_vs_flat.jsonl").read_text().splitlines()
    assert archive.main(["check", str(written(map(json.loads, lines[:20:8]), tmp_path))]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda file: file.stem)
def test_every_archive_of_the_repository_passes(file):
    assert archive.main(["check", str(file)]) == 0


def test_words_that_check_does_not_take_are_refused(tmp_path):
    with pytest.raises(UsageError, match="trust=yes: must be true or false"):
        archive.main(["check", "some.jsonl", "trust=yes"])
    with pytest.raises(UsageError, match=r"nothing\.jsonl: cannot be read"):
        archive.main(["check", str(tmp_path / "nothing.jsonl")])
