"""Records in one file and back: what is lost on the way is what is true of one machine alone."""

import json

import pytest
from commands import hrm_bench
from test_load import failed, sweep, write

from hrm_bench import archive
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.report import outputs

ANSWER = {"variants": []}


@pytest.fixture
def packed(tmp_path):
    """A sweep with a cell that failed and an answer beside its cells; and its archive."""
    made = sweep(seeds=range(42, 45))
    made[0]["config"]["data"]["path"] = "/home/somebody/wikitext"
    made[1] = failed(made[1])
    for each in made:
        each["log"] = "/home/somebody/log.txt"
    folder = write(made, tmp_path / "mine")
    (folder / "evaluation.json").write_text(json.dumps(ANSWER))
    (folder / "sweep.json").write_text("{}")
    assert archive.pack(folder, tmp_path / "kept" / "mine.jsonl") == len(made) - 1
    return folder, tmp_path / "kept" / "mine.jsonl"


def test_what_is_unpacked_is_what_was_packed_less_the_places_on_that_machine(packed, tmp_path):
    folder, file = packed
    assert archive.unpack(file, tmp_path / "theirs") == (9, 0)
    theirs = {record["identity"]: record for record in store.read_all(tmp_path / "theirs")}
    ours = {record["identity"]: record for record in store.read_all(folder) if record["status"] == "finished"}
    assert theirs.keys() == ours.keys()
    for identity, record in ours.items():
        record["config"]["data"]["path"] = None
        del record["log"]
        assert theirs[identity] == record
    assert json.loads((tmp_path / "theirs" / "evaluation.json").read_bytes()) == ANSWER
    assert "somebody" not in file.read_text()


def test_the_report_of_what_is_unpacked_is_that_of_the_sweep(packed, tmp_path):
    folder, file = packed
    archive.unpack(file, tmp_path / "theirs" / "mine")
    for place in (folder, tmp_path / "theirs" / "mine"):
        (place / "evaluation.json").unlink()
        outputs.write_all([r for r in store.read_all(place) if r["status"] == "finished"], place)
    for name in ("results.md", "results.csv", "results.svg"):
        assert (folder / name).read_bytes() == (tmp_path / "theirs" / "mine" / name).read_bytes()


def test_what_is_there_already_stays(packed):
    folder, file = packed
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    assert archive.unpack(file, folder) == (0, 9)
    assert {path: path.read_bytes() for path in folder.rglob("*.json")} == before


def test_a_record_of_a_cell_that_failed_gives_way_to_a_finished_one(packed, tmp_path):
    _, file = packed
    archive.unpack(file, tmp_path / "theirs")
    path = next((tmp_path / "theirs").glob("*/record.json"))
    finished = path.read_bytes()
    path.write_text(json.dumps(failed(json.loads(finished))))
    assert archive.unpack(file, tmp_path / "theirs") == (1, 8)
    assert json.loads(path.read_bytes()) == json.loads(finished)


def test_what_lies_beside_and_is_no_json_is_told(packed, tmp_path):
    folder, _ = packed
    (folder / "search.json").write_text("<<<<<<< ours")
    with pytest.raises(UsageError, match=r"search\.json: not JSON"):
        archive.pack(folder, tmp_path / "again.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '{"path": "../record.json", "content": {}}',
        '{"path": "/tmp/record.json", "content": {}}',
        '{"path": "cell/best.ckpt", "content": {}}',
        '{"path": "a/b/record.json", "content": {}}',
        '{"path": "sweep.json", "content": {}}',
    ],
)
def test_a_file_that_pack_has_not_written_is_refused_whole(packed, tmp_path, line):
    _, file = packed
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"mine\.jsonl"):
        archive.unpack(file, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_the_command_packs_unpacks_and_tells_faults_in_a_line(packed, tmp_path):
    _, file = packed
    for words, told in (
        (("unpack", file, "theirs"), "9 files, and 0 were there already: theirs"),
        (("pack", "theirs", "again.jsonl"), "8 records: again.jsonl"),
    ):
        done = hrm_bench(*map(str, words), cwd=tmp_path, module="hrm_bench.archive")
        assert (done.returncode, done.stdout.strip()) == (0, told)
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()
    for words, told in (
        (("send", "a", "b"), "send a b: type python -m hrm_bench.archive pack FOLDER FILE"),
        (("unpack", "nothing.jsonl", "b"), "nothing.jsonl: cannot be read (No such file or directory)"),
        (("pack", "nothing", "b"), "nothing: no finished cells here"),
        (("unpack", "theirs", file), "theirs: cannot be read (Is a directory); give a file"),
        (("pack", "theirs", "theirs"), "theirs: cannot be written (Is a directory); give a file"),
        (("unpack", file, file), "cannot be written (Not a directory); give a folder"),
    ):
        done = hrm_bench(*map(str, words), cwd=tmp_path, module="hrm_bench.archive")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert told in done.stderr
