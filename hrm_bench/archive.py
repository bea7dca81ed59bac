"""A sweep's records as one file, to be kept beside a text that quotes them, and back.

    python -m hrm_bench.archive pack multirun/recipes results/recipes.jsonl
    python -m hrm_bench.archive unpack results/recipes.jsonl multirun/recipes

A line a record, and one for each answer of the sweep beside them (evaluation.json, search.json). Weights are not in it:
a report can be made of what is unpacked, and the sweep's command runs only what is missing. Where a text lay on the
machine that ran a cell is left out, unless that is what the text is.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from hrm_bench.errors import UsageError, command
from hrm_bench.records import store
from hrm_bench.records.schema import Record
from hrm_bench.records.store import RECORD_FILE
from hrm_bench.report.beside import FILES

USAGE = "python -m hrm_bench.archive pack FOLDER FILE, or unpack FILE FOLDER"


def pack(sweep: Path, file: Path) -> int:
    """Write the finished records of a sweep's folder into a file; how many there are. Raises UsageError for none."""
    found = list(_finished(sweep))
    if not found:
        raise UsageError(f"{sweep}: no finished cells here; give the folder of a sweep")
    lines = [{"path": f"{name}/{RECORD_FILE}", "content": _elsewhere(record)} for name, record in found]
    beside = {name: store.read_json(sweep / name) for name in FILES}
    lines += [{"path": name, "content": content} for name, content in beside.items() if content is not None]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with store.replacing(file) as out:
            for line in lines:
                out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); give a file: {USAGE}") from error
    return len(found)


def unpack(file: Path, sweep: Path) -> tuple[int, int]:
    """Write what a file has into a sweep's folder: how many files are new there, and how many were there and stay.

    Of records, those that are finished stay. Raises UsageError where it is no archive.
    """
    try:
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        contents = {PurePosixPath(line["path"]): line["content"] for line in lines}
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a file: {USAGE}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{file}: not an archive ({error}); give one that pack has written") from error
    for path in contents:
        if not _is_ours(path):
            raise UsageError(f"{file}: has {path}, which is no part of a sweep; give a file that pack has written")
    try:
        new = {path: content for path, content in contents.items() if not _stays(sweep / path)}
        for path, content in new.items():
            (sweep / path).parent.mkdir(parents=True, exist_ok=True)
            store.write_json(sweep / path, content)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written ({error.strerror}); give a folder: {USAGE}") from error
    return len(new), len(contents) - len(new)


def _stays(path: Path) -> bool:
    """Whether a file is there that what is unpacked must not replace."""
    if path.name != RECORD_FILE:
        return path.exists()
    return store.is_finished(store.read_or_set_aside(path.parent)[0])


def _finished(sweep: Path) -> Iterator[tuple[str, Record]]:
    for path in sorted(sweep.glob(f"*/{RECORD_FILE}")):
        record = store.read(path.parent)
        if record is not None and store.is_finished(record):
            yield path.parent.name, record


def _elsewhere(record: Record) -> dict[str, Any]:
    """The record without what is true of one machine alone."""
    made: dict[str, Any] = copy.deepcopy({key: value for key, value in record.items() if key != "log"})
    if made["config"]["data"]["source"] != "text_file":
        made["config"]["data"]["path"] = None
    return made


def _is_ours(path: PurePosixPath) -> bool:
    """Whether a path is one that pack writes, and so stays in its folder."""
    if len(path.parts) == 1:
        return path.name in FILES
    return len(path.parts) == 2 and path.name == RECORD_FILE and path.parts[0] not in ("..", "/")


def main(words: Sequence[str]) -> int:
    """Pack or unpack, and say how much."""
    if len(words) != 3 or words[0] not in ("pack", "unpack"):
        raise UsageError(f"{' '.join(words) or 'no words'}: type {USAGE}")
    first, second = map(Path, words[1:])
    if words[0] == "pack":
        print(f"{pack(first, second)} records: {second}")
    else:
        new, old = unpack(first, second)
        print(f"{new} files, and {old} were there already: {second}")
    return 0


if __name__ == "__main__":
    command(main)
