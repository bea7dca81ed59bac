"""Records: written whole or not at all, upgraded when read, from a folder or from an archive."""

import json
import math
import shutil

import made_up
import pytest

from hrm_bench.errors import UsageError
from hrm_bench.records import check, store
from hrm_bench.records.schema import score

LATER = store.DEFAULTS.keys() - {"history", "leak"}  # keys that the first records of this version lacked
OLD = {key: value for key, value in made_up.record("data=sample").items() if key not in LATER} | {"identity": "0" * 12}


def write(folder, record):
    folder.mkdir(parents=True)
    (folder / store.RECORD_FILE).write_text(json.dumps(record))


def test_a_damaged_record_is_refused_with_what_to_do(tmp_path):
    for content in ('{"status": "fin', "[]", "{}"):
        (tmp_path / store.RECORD_FILE).write_text(content)
        with pytest.raises(UsageError, match=r"record\.json: not a record .*; its sweep, run again, sets it aside"):
            store.read(tmp_path)


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / store.RECORD_FILE
    store.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        store.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == [store.RECORD_FILE]


def test_an_old_record_gets_the_keys_that_it_lacks_and_a_new_one_keeps_its_own(tmp_path):
    write(tmp_path / "old", OLD)
    write(tmp_path / "new", {**OLD, "overrides": ["seed=1"], "text": "abc", "notes": ["slow"]})
    old, new = store.read(tmp_path / "old"), store.read(tmp_path / "new")
    assert (old["overrides"], old["text"], old["notes"], old["model"]) == ([], "", [], "hrm")
    assert (new["overrides"], new["text"], new["notes"]) == (["seed=1"], "abc", ["slow"])
    old["notes"].append("changed")
    assert store.read(tmp_path / "old")["notes"] == []


def test_a_number_that_json_lacks_is_written_as_null_and_read_as_it_was(tmp_path):
    without_words = score(2.0, characters=10, words=0)
    hopeless = score(800.0, characters=10, words=2)
    leak = {"best": {"perturbation": math.nan, "gradient": 0.0}}
    tmp_path.joinpath("cell").mkdir()
    record = {**OLD, "validation": without_words, "test": hopeless, "leak": leak}
    store.write_json(tmp_path / "cell" / store.RECORD_FILE, record)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads((tmp_path / "cell" / store.RECORD_FILE).read_text(), parse_constant=refuse)
    read = store.read(tmp_path / "cell")
    assert math.isnan(read["validation"]["word_perplexity"])
    assert read["test"] == hopeless
    assert read["test"]["perplexity"] == math.inf
    assert math.isnan(read["leak"]["best"]["perturbation"])
    assert read["leak"]["best"]["gradient"] == 0


def test_the_records_of_a_folder_and_of_its_archive_are_the_same(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / "sweep" / name, {**OLD, "identity": name})
    file = tmp_path / "sweep.jsonl"
    entries = [(f"{name}/record.json", {**OLD, "identity": name}) for name in ("a", "b")]
    entries.append(("evaluation.json", {"variants": []}))
    file.write_text("".join(json.dumps({"path": path, "content": content}) + "\n" for path, content in entries))
    assert list(store.read_all(file)) == list(store.read_all(tmp_path / "sweep"))
    assert [record["identity"] for record in store.read_all(file)] == ["a", "b"]


@pytest.mark.parametrize(
    "line", ["not json", "[]", '{"path": "a/record.json"}', '{"path": "a/record.json", "content": {}}']
)
def test_a_file_that_is_not_an_archive_is_refused_by_name(line, tmp_path):
    file = tmp_path / "sweep.jsonl"
    file.write_text(line)
    with pytest.raises(UsageError, match=r"sweep\.jsonl: .*archive"):
        list(store.read_all(file))
    with pytest.raises(UsageError, match=r"none\.jsonl: cannot be read"):
        list(store.read_all(tmp_path / "none.jsonl"))


def test_whole_records_are_read_past_a_damaged_one(tmp_path):
    write(tmp_path / f"whole-{OLD['identity']}", OLD)
    write(tmp_path / "damaged", [])
    assert [record["identity"] for record in store.read_whole(tmp_path)] == ["0" * 12]
    record, notes = store.read_or_set_aside(tmp_path / "damaged")
    assert record is None
    assert notes == [
        "record.json was damaged (not a record) and is kept as record.json.damaged-1: the cell began again"
    ]
    assert len(list(store.read_all(tmp_path))) == 1


def test_a_file_that_was_set_aside_is_kept_when_another_one_is_damaged(tmp_path):
    path = tmp_path / store.RECORD_FILE
    for content in ("first", "second", "third"):
        path.write_text(content)
        store.read_or_set_aside(tmp_path)
    aside = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert aside == {f"record.json.damaged-{n}": text for n, text in enumerate(("first", "second", "third"), start=1)}


@pytest.mark.parametrize("key", [*check.ALWAYS, *check.FINISHED])
def test_a_finished_record_that_lacks_a_key_is_refused_by_name(key, tmp_path):
    whole = made_up.record("data=sample")
    assert check.fault(whole) is None
    assert key in check.fault({name: value for name, value in whole.items() if name != key})
    assert key in check.fault(whole | {key: None})


def test_a_best_epoch_that_is_not_the_best_of_its_history_is_refused():
    whole = made_up.record("data=sample")
    assert "its history has a lower loss" in check.fault(whole | {"best_epoch": 1})
    assert "lacks the best epoch" in check.fault(whole | {"best_epoch": 99})
    assert check.fault(whole | {"test": {}}) == "test.nll is missing"
    assert "lacks the unigram model" in check.fault(whole | {"floors": {"validation": {}, "test": {}}})
    for number in (1e200, -1e308):
        assert check.fault(whole | {"test": whole["test"] | {"nll": number}}) == "test.nll is larger than any figure"
    assert check.fault(whole | {"config": {}}) == "config.model is missing"


def test_a_copy_of_a_cell_under_another_name_is_left_out_and_named(tmp_path, caplog):
    made_up.write([made_up.record("data=sample", seed=1)], tmp_path)
    (cell,) = tmp_path.iterdir()
    shutil.copytree(cell, cell.with_name(f"{cell.name}.old"))
    assert len(list(store.read_all(tmp_path))) == len(list(store.read_whole(tmp_path))) == 1
    assert f"{cell.name}.old: left out: its record is of the cell" in caplog.text
