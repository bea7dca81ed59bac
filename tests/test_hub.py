"""Data sets in the Hugging Face hub's layout: from a folder, from a server on this machine, and from the cache."""

import csv
import http.server
import json
import os
import subprocess
import sys
import threading

import pyarrow
import pytest
from pyarrow import parquet

import hrm_bench
from hrm_bench.data import corpora, sources
from hrm_bench.errors import UsageError
from hrm_bench.records.facts import text_name

SHA = "0123456789abcdef0123456789abcdef01234567"
ROWS = {
    "train": ["The first row.", "", "A row that ends itself.\n", "Two\nlines."],
    "validation": ["Another split."],
    "test": ["The last split.", "Its end."],
}


def text_of(rows):
    return "".join(row if row.endswith("\n") else f"{row}\n" for row in rows)


def write(file, rows, column="text"):
    """Write rows as a file of the kind that its name says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    objects = [{"id": number, column: row} for number, row in enumerate(rows)]
    if file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(objects), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in objects), encoding="utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(objects), encoding="utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, ["id", column])
            writer.writeheader()
            writer.writerows(objects)
    else:
        file.write_text(text_of(rows), encoding="utf-8")


def data(*words):
    return hrm_bench.compose("data=hub", *words).data


def splits(*words):
    corpus = corpora.load(data(*words))
    return {name: corpus.vocabulary.decode(text.indices) for name, text in corpus.splits.items()}


EXPECTED = {name: text_of(rows) for name, rows in ROWS.items()}
LAYOUTS = {
    "files of the splits": "{}.{}",
    "numbered files": "{}-00000-of-00001.{}",
    "a folder of data": "data/{}-00000-of-00001.{}",
    "folders of the splits": "{}/0000.{}",
    "folders of the splits in data": "data/{}/some.{}",
}


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "csv", "txt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_each_layout_and_kind_of_file_is_read(layout, kind, tmp_path):
    for name, rows in ROWS.items():
        write(tmp_path / LAYOUTS[layout].format(name, kind), rows)
    (tmp_path / "README.md").write_text("train")
    write(tmp_path / "training_notes.txt", ["no split"])
    assert splits(f"data.path={tmp_path}") == EXPECTED


def test_several_files_of_a_split_are_read_in_the_order_of_their_names(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 2)
    for number, row in enumerate(ROWS["train"]):
        write(tmp_path / f"train-0000{number}-of-00004.parquet", [row])
    for name in ("validation", "test"):
        write(tmp_path / f"{name}.jsonl", ROWS[name])
    assert splits(f"data.path={tmp_path}") == EXPECTED


def test_a_config_splits_of_other_names_and_a_column_are_chosen(tmp_path):
    for config in ("small", "large"):
        for name, rows in zip(("train", "dev", "held-out"), ROWS.values(), strict=True):
            write(tmp_path / config / f"{name}-00000-of-00001.parquet", [config, *rows], column="body")
    words = ["data.splits=[train,dev,held-out]", "data.column=body", f"data.path={tmp_path}"]
    chosen = splits("data.config=large", *words)
    assert chosen == {name: f"large\n{text}" for name, text in EXPECTED.items()}
    with pytest.raises(
        UsageError, match=r"data\.splits=train: no file .*; its folders are large, small: try data\.config"
    ):
        splits(*words)
    with pytest.raises(UsageError, match=r"data\.config=huge data\.splits=train: no file train\*"):
        splits("data.config=huge", *words)


def test_one_split_is_cut_as_a_text_file_is(tmp_path):
    write(tmp_path / "train.jsonl", [f"row {number:03}" for number in range(100)])
    words = f"data.path={tmp_path}", "data.splits=[train]"
    assert {name: len(text) for name, text in splits(*words).items()} == {"train": 640, "validation": 80, "test": 80}
    (tmp_path / "same.txt").write_text(text_of([f"row {number:03}" for number in range(100)]))
    same = hrm_bench.compose("data=text_file", f"data.path={tmp_path / 'same.txt'}").data
    assert corpora.load(same).fingerprint == corpora.load(data(*words)).fingerprint


FAULTS = {
    "no such folder": (["data.path=none"], r"data\.path=.*none: no such folder; give a local copy in the hub's layout"),
    "a file": (["data.path=train.jsonl"], r"a file, where data=hub reads a folder; add data=text_file"),
    "no such split": (
        ["data.path=.", "data.splits=[fit]"],
        r"data\.splits=fit: no file fit\*.*; there are test\.parq.*: give",
    ),
    "no such column": (
        ["data.path=.", "data.column=body", "data.splits=[train]"],
        r"data\.column=body: .*; it has id, text: try data\.col",
    ),
    "numbers": (["data.path=.", "data.column=id", "data.splits=[train]"], r"data\.column: has '0', which is no text"),
    "a damaged file": (["data.path=.", "data.splits=[test]"], r"test\.parquet: cannot be read as parquet \("),
    "no name": (["data.path=null"], r"data\.name=null: must be OWNER/NAME of a data set of the hub; for example"),
    "a name that is none": (["data.name=a/b/c", "data.path=null"], r"data\.name=a/b/c: must be OWNER/NAME"),
    "two splits": (["data.splits=[a,b]", "data.path=."], r"data\.splits=\['a', 'b'\]: must name training, validation"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_read_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", ROWS["train"])
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and no more")
    words, message = FAULTS[name]
    with pytest.raises(UsageError, match=message) as refused:
        splits(*words)
    assert len(refused.value.faults) == 1
    assert "\n" not in refused.value.faults[0]


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub that a data set is downloaded from."""

    folder = None

    def do_GET(self):
        self.answer(has_body=True)

    def do_HEAD(self):
        self.answer(has_body=False)

    def answer(self, *, has_body):
        path = self.path.partition("?")[0]
        file = self.folder / path.partition(f"/resolve/{SHA}/")[2]
        found = {str(one.relative_to(self.folder)): one for one in self.folder.rglob("*") if one.is_file()}
        if path.startswith("/api/datasets/owner/name/revision/"):
            siblings = [{"rfilename": name} for name in found]
            content = json.dumps({"id": "owner/name", "sha": SHA, "siblings": siblings}).encode()
        elif path.startswith("/api/datasets/owner/name/tree/"):
            sizes = {name: one.stat().st_size for name, one in found.items()}
            entries = [{"type": "file", "path": name, "oid": name, "size": size} for name, size in sizes.items()]
            content = json.dumps(entries).encode()
        elif path.startswith(f"/datasets/owner/name/resolve/{SHA}/") and file.is_file():
            content = file.read_bytes()
            self.server.downloaded.add(file.name)
        else:
            self.send_error(404 if path != "/" else 200)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{file.name}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if has_body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server with one data set, and an empty cache."""
    folder = tmp_path / "hub"
    for name, rows in ROWS.items():
        write(folder / "data" / f"{name}-00000-of-00001.parquet", rows)
    write(folder / "notes.txt", ["no part of a split"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": folder}))
    server.downloaded = set()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def test_a_data_set_is_downloaded_once_and_then_read_from_the_cache_if_the_hub_is_gone(hub, monkeypatch):
    assert splits("data.name=owner/name", "data.path=null") == EXPECTED
    assert hub.downloaded == {f"{name}-00000-of-00001.parquet" for name in ROWS}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert splits("data.name=owner/name", "data.path=null") == EXPECTED
    assert text_name(data("data.name=owner/name", "data.path=null")) == "owner/name"
    with pytest.raises(
        UsageError, match=r"data\.name=owner/other: the hub's owner/other cannot be reached; give a local"
    ):
        splits("data.name=owner/other", "data.path=null")


def test_a_data_set_that_the_hub_does_not_have_is_refused_in_one_line(hub):
    with pytest.raises(
        UsageError, match=r"data\.name=owner/other: the hub's owner/other cannot be loaded \(.*\); give a"
    ):
        splits("data.name=owner/other", "data.path=null")


def test_an_unreachable_hub_leaves_nothing_behind_in_the_process(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = dict(os.environ)
    for words in (["data=wikitext2"], ["data=hub", "data.name=owner/name"]):
        with pytest.raises(UsageError, match="cannot be reached"):
            corpora.load(hrm_bench.compose(*words, "data.path=null").data)
    assert dict(os.environ) == before
    from huggingface_hub import constants

    assert not constants.HF_HUB_OFFLINE


def test_a_local_copy_is_read_where_nothing_can_be_written(tmp_path):
    for name, rows in ROWS.items():
        write(tmp_path / "wikitext-2-v1" / f"{name}-0.parquet", rows)
    program = (
        "import sys, hrm_bench; from hrm_bench.data import corpora\n"
        "for words in (['data=wikitext2'], ['data=hub', 'data.config=wikitext-2-v1']):\n"
        f"    print(len(corpora.load(hrm_bench.compose(*words, {f'data.path={tmp_path}'!r}).data).train))\n"
        "print('huggingface_hub' in sys.modules)"
    )
    environment = os.environ | {"HF_HOME": "/dev/null/x", "HOME": "/dev/null/y"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    wikitext = "".join(row or " \n" for row in ROWS["train"])  # whose rows have their own newlines
    assert done.stdout.split() == [str(len(wikitext)), str(len(EXPECTED["train"])), "False"]


def test_a_folder_with_signs_of_a_pattern_in_its_name_is_read_itself(tmp_path):
    for folder, row in (("br[1]", "the text"), ("br1", "another"), ("a::b", "a third")):
        for name in ROWS:
            write(tmp_path / folder / f"{name}.parquet", [row])
    for folder, row in (("br[1]", "the text\n"), ("a::b", "a third\n")):
        cfg = data("data.path=.")
        cfg.path = str(tmp_path / folder)
        assert corpora.load(cfg).vocabulary.decode(corpora.load(cfg).train.indices) == row
