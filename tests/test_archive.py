"""Records in one file and back: only what holds on one machine is lost on the way."""

import json

import made_up
import pytest
from commands import hrm_bench

from hrm_bench.errors import UsageError
from hrm_bench.records import archive, extras, store

RESCORING = {"answers": []}


def record(seed, **values):
    """A finished record that names paths of a machine."""
    record = made_up.record("data=wikitext2", seed=seed)
    record["config"]["data"]["path"] = "/home/somebody/wikitext"
    return {**record, "identity": f"{seed:012}", "notes": [], "log": "/home/somebody/log.txt", **values}


def failed(finished):
    return finished | {"status": "failed", "reason": "RuntimeError: planted"}


@pytest.fixture
def packed(tmp_path):
    """A sweep of 8 finished cells and one that failed, with a result of the sweep; and its archive."""
    folder, file = tmp_path / "mine", tmp_path / "kept" / "mine.jsonl"
    for content in [*map(record, range(8)), failed(record(8))]:
        cell = folder / f"hrm-{content['identity']}"
        cell.mkdir(parents=True)
        store.write_json(cell / "record.json", content)
    (folder / "evaluation.json").write_text(json.dumps(RESCORING))
    (folder / "sweep.json").write_text("{}")
    assert archive.pack(folder, file) == 8
    return folder, file


def test_what_is_unpacked_is_what_was_packed_without_the_paths_of_that_machine(packed, tmp_path):
    folder, file = packed
    assert archive.unpack(file, tmp_path / "theirs") == (9, 0)
    unpacked = {record["identity"]: record for record in store.read_all(tmp_path / "theirs")}
    expected = {record["identity"]: record for record in store.read_all(folder) if record["status"] == "finished"}
    assert unpacked.keys() == expected.keys()
    for identity, record in expected.items():
        record["config"]["data"]["path"] = None
        del record["log"]
        assert unpacked[identity] == record
    assert json.loads((tmp_path / "theirs" / "evaluation.json").read_bytes()) == RESCORING
    assert "somebody" not in file.read_text()


def test_a_text_file_keeps_its_path_since_that_names_the_text(tmp_path):
    own = record(1)
    own["config"]["data"] |= {"source": "text_file", "path": "mine.txt"}
    (tmp_path / "mine" / "cell").mkdir(parents=True)
    store.write_json(tmp_path / "mine" / "cell" / "record.json", own)
    archive.pack(tmp_path / "mine", tmp_path / "mine.jsonl")
    (packed,) = store.read_all(tmp_path / "mine.jsonl")
    assert packed["config"]["data"]["path"] == "mine.txt"


def test_a_report_reads_from_an_archive_what_it_reads_from_its_folder(packed, tmp_path):
    _, file = packed
    archive.unpack(file, tmp_path / "theirs")
    assert list(store.read_all(file)) == list(store.read_all(tmp_path / "theirs"))
    assert extras.read_rescoring(file) == extras.read_rescoring(tmp_path / "theirs")


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
    for words, message in (
        (("unpack", file, "theirs"), "9 files written, 0 kept: theirs"),
        (("pack", "theirs", "again.jsonl"), "8 records: again.jsonl"),
    ):
        done = hrm_bench(*map(str, words), cwd=tmp_path, module="hrm_bench.archive")
        assert (done.returncode, done.stdout.strip()) == (0, message)
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()
    for words, message in (
        (("send", "a", "b"), "send: no such choice; allowed are pack, unpack, check, weights"),
        (
            ("weight", "a", "b"),
            "weight: no such choice; allowed are pack, unpack, check, weights; did you mean weights?",
        ),
        (("pack", "a"), "pack a: not understood; type python -m hrm_bench.archive pack FOLDER FILE | "),
        (("unpack", "nothing.jsonl", "b"), "nothing.jsonl: cannot be read (No such file or directory)"),
        (("pack", "nothing", "b"), "nothing: no finished cells here"),
        (("unpack", "theirs", file), "theirs: cannot be read (Is a directory); give a file"),
        (("pack", "theirs", "theirs"), "theirs: cannot be written (Is a directory); give a file"),
        (("unpack", file, file), "cannot be written (Not a directory); give a folder"),
    ):
        done = hrm_bench(*map(str, words), cwd=tmp_path, module="hrm_bench.archive")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
