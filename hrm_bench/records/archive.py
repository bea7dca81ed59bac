"""The records of a sweep as one file, and back, so that a text that quotes them can keep them beside it.

The file has one line per record, and one per result of the whole sweep (evaluation.json, adaptation.json,
search.json). It has no weights. A report can be made of it, and after unpacking the sweep's command runs only what is
missing. The path of a text on the machine that ran a cell is left out, unless the path is what defines the text.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import ADAPTATION_FILE, RESCORING_FILE, SEARCH_FILE
from hrm_bench.records.store import RECORD_FILE

SWEEP_FILES = (RESCORING_FILE, ADAPTATION_FILE, SEARCH_FILE)


def pack(sweep: Path, file: Path) -> int:
    """Write the finished records of a sweep's folder into a file; return their number. Raises UsageError if none."""
    lines = []
    for path in sorted(sweep.glob(f"*/{RECORD_FILE}")):
        if store.is_finished(store.read(path.parent)):
            content = without_paths(store.read_json(path))  # as it was written, not upgraded
            lines.append({"path": f"{path.parent.name}/{RECORD_FILE}", "content": content})
    num_records = len(lines)
    if not num_records:
        raise UsageError(f"{sweep}: no finished cells here; give the folder of a sweep")
    results = {name: store.read_json(sweep / name) for name in SWEEP_FILES}
    lines += [{"path": name, "content": content} for name, content in results.items() if content is not None]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with store.replacing(file) as out:
            for line in lines:
                out.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); give a file") from error
    return num_records


def unpack(file: Path, sweep: Path) -> tuple[int, int]:
    """Write the content of a file into a sweep's folder; return how many files were written and how many were kept.

    Finished records and results that are there already are kept. Raises UsageError if the file is no archive.
    """
    contents = _read(file)
    try:
        new = {path: content for path, content in contents.items() if not _is_kept(sweep / path)}
        for path, content in new.items():
            (sweep / path).parent.mkdir(parents=True, exist_ok=True)
            store.write_json(sweep / path, content)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written ({error.strerror}); give a folder") from error
    return len(new), len(contents) - len(new)


def contents(file: Path) -> list[tuple[str, Any]]:
    """Return every record of an archive as it was packed, after the name of its folder.

    A folder that comes twice is given twice. Raises UsageError if the file is no archive.
    """
    _read(file)
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    paths = [(PurePosixPath(line["path"]), line["content"]) for line in lines]
    return [(path.parts[0], content) for path, content in paths if path.name == RECORD_FILE]


def _read(file: Path) -> dict[PurePosixPath, Any]:
    """Return the content of each path of an archive. Raises UsageError if the file is none."""
    try:
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
        contents = {PurePosixPath(line["path"]): line["content"] for line in lines}
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a file") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{file}: not an archive ({error}); give a file that pack has written") from error
    for path in contents:
        if not _is_packed_path(path):
            raise UsageError(f"{file}: contains {path}, which is no part of a sweep; give a file that pack has written")
    return contents


def without_paths(record: dict[str, Any]) -> dict[str, Any]:
    """Remove from a record what holds on one machine only, and return it."""
    record.pop("log", None)
    if record["config"]["data"]["source"] != "text_file":
        record["config"]["data"]["path"] = None
    return record


def _is_packed_path(path: PurePosixPath) -> bool:
    """Return whether ``pack`` writes such a path, which stays inside the sweep's folder."""
    if len(path.parts) == 1:
        return path.name in SWEEP_FILES
    return len(path.parts) == 2 and path.name == RECORD_FILE and path.parts[0] not in ("..", "/")


def _is_kept(path: Path) -> bool:
    """Return whether a file is there that unpacking must not replace."""
    if path.name != RECORD_FILE:
        return path.exists()
    return store.is_finished(store.read_or_set_aside(path.parent)[0])
