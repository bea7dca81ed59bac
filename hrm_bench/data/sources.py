"""Where texts are read from: files of the user's own, the bundled sample, or a data set of the Hugging Face hub.

Each reader gives three splits, in consecutive pieces. A request that cannot be met is a UsageError; no other text ever
replaces the one that was asked for.
"""

import codecs
import csv
import itertools
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hrm_bench import network
from hrm_bench.errors import UsageError

SPLITS = ("train", "validation", "test")
ROWS = 256  # of a data set that are read at a time: about as many characters as PIECE
PIECE = 1 << 16  # characters of a string that become a Text at a time
HUB = "https://huggingface.co"
HUB_NAME = "Salesforce/wikitext"
HUB_CONFIGS = {"wikitext2": "wikitext-2-v1", "wikitext103": "wikitext-103-v1"}  # by data.source
ALTERNATIVES = "give a local copy in the hub's layout with data.path=FOLDER (or HRM_BENCH_WIKITEXT), or use data=sample"
LOCAL = "give a local copy in the hub's layout with data.path=FOLDER"
OWN_FILE = (0.8, 0.9)  # where validation and test begin
PUBLISHED = {"enwik8": (0.9, 0.95), "text8": (0.9, 0.95)}  # one file each, cut at these fractions of its bytes
NUL_FRACTION = 0.1  # of a file's bytes: UTF-16 without a mark, and binary files, have more
MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}  # with which some files begin

Splits = Iterable[Iterable[str]]


class Dataset(NamedTuple):
    """A data set in the hub's layout."""

    name: str | None  # OWNER/NAME on the hub
    config: str | None
    splits: tuple[str, ...]  # the names of all three, or of one that is to be cut
    column: str


def read_text(path: Path, key: str = "data.path") -> str:
    """Read a UTF-8 file as ``Path.read_text`` does. Raises UsageError if it cannot, or if the file is no text."""
    content = _read_bytes(path, key)
    if not content:
        raise UsageError(f"{key}={path}: is empty; give a file that has text")
    try:
        if content[:2] not in MARKS and content.count(0) > NUL_FRACTION * len(content):
            raise UnicodeDecodeError("utf-8", content, content.index(0), content.index(0) + 1, "a NUL")
        text = content.decode("utf-8-sig")  # some editors begin a file with a mark that is no character
    except UnicodeDecodeError as error:
        encoding = MARKS.get(content[:2], "UTF-16LE" if error.reason == "a NUL" else "ENCODING")
        raise UsageError(
            f"{key}={path}: not UTF-8 at byte {error.start}; convert it: iconv -f {encoding} -t UTF-8 OLD > NEW"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path, key: str = "data.path") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{key}={path}: cannot be read ({error.strerror}); give {key}=FILE") from error


def sample() -> Splits:
    """Read the bundled text."""
    return (_pieces(read_text(Path(__file__).parent / "sample" / f"{name}.txt")) for name in SPLITS)


def text_file(path: Path) -> Splits:
    """Read a file of the user's own: 80 % for training, then 10 % each for validation and test."""
    return map(_pieces, _cut(read_text(path)))


def published_file(source: str, path: Path) -> Splits:
    """Read enwik8 or text8: the file, a zip of it, or the folder of either; cut by bytes as the published results."""
    places = [path / source, path / f"{source}.zip"] if path.is_dir() else [path]
    file = next((place for place in places if place.is_file()), places[0])
    try:
        with zipfile.ZipFile(file) as archive:
            content = archive.read(source)
    except (zipfile.BadZipFile, OSError):
        content = _read_bytes(file)
    except KeyError as error:
        raise UsageError(f"data.path={file}: a zip without a file {source}; give data.path=FILE") from error
    first, second = (round(len(content) * fraction) for fraction in PUBLISHED[source])
    return map(_decoded, (content[:first], content[first:second], content[second:]))


def _decoded(content: bytes) -> Iterator[str]:
    """Yield a part of a UTF-8 text; bytes of a character that was cut are half surrogates, which are no characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for start in range(0, len(content), PIECE):
        yield decoder.decode(content[start : start + PIECE], final=start + PIECE >= len(content))


def _cut(text: str) -> tuple[str, str, str]:
    """Cut a text into its first 80 % for training, then 10 % each for validation and test."""
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return text[:first], text[first:second], text[second:]


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def wikitext(source: str, path: Path | None) -> Splits:
    """Read WikiText from a folder in the hub's layout, by default from the hub or this machine's cache of it."""
    config = HUB_CONFIGS[source]
    if path is None:
        folder = _downloaded(HUB_NAME, [f"{config}/*.parquet"], f"data={source}", ALTERNATIVES)
    else:
        folder = _folder(path, f"data={source}", ALTERNATIVES)
    files = [sorted((folder / config).glob(f"{name}-*.parquet")) for name in SPLITS]
    if not all(files):
        where = f"data={source}" if path is None else f"data.path={path}"
        lacking = f"no {config}/SPLIT-*.parquet for each of {', '.join(SPLITS)}"
        raise UsageError(f"{where}: not {HUB_NAME} in the hub's layout ({lacking}); {ALTERNATIVES}")
    # As it was published: the hub's rows lose blank lines, which read ' \n'.
    return (_joined(_rows(split, "text"), blank=" \n") for split in files)


def dataset(wanted: Dataset, path: Path | None) -> Splits:
    """Read a data set from a folder in the hub's layout, by default from the hub or this machine's cache of it."""
    if path is None:
        assert wanted.name is not None, "config.check asks for it"
        bases = [f"{wanted.config}/", f"data/{wanted.config}/"] if wanted.config else ["", "data/"]
        patterns = [f"{base}{split}*" for base in bases for split in wanted.splits]
        folder = _downloaded(wanted.name, patterns, f"data.name={wanted.name}", LOCAL)
    else:
        folder = _folder(path, "data=hub", LOCAL)
    files = [_files(folder, wanted.config, split) for split in wanted.splits]
    texts = (_joined(_ended(_rows(split, wanted.column))) for split in files)
    return texts if len(files) > 1 else map(_pieces, _cut("".join(next(texts))))


def _folder(path: Path, data: str, alternatives: str) -> Path:
    if path.is_file():
        raise UsageError(f"data.path={path}: a file, where {data} reads a folder; add data=text_file")
    if not path.is_dir():
        raise UsageError(f"data.path={path}: no such folder; {alternatives}")
    return path


def _downloaded(name: str, patterns: list[str], word: str, alternatives: str) -> Path:
    """Return the folder of a data set of the hub, with the files that match; they are downloaded if they are not here.

    If the hub does not answer, the cache alone is asked.
    """
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    endpoint = os.environ.get("HF_ENDPOINT", HUB)
    is_reachable = network.is_reachable(endpoint)
    options: dict[str, Any] = {"allow_patterns": patterns, "endpoint": endpoint, "tqdm_class": Silent}
    try:
        return Path(snapshot_download(name, repo_type="dataset", local_files_only=not is_reachable, **options))
    except Exception as error:
        fault = f"cannot be loaded ({str(error).splitlines()[0]})" if is_reachable else "cannot be reached"
        raise UsageError(f"{word}: the hub's {name} {fault}; {alternatives}") from error


def _files(folder: Path, config: str | None, split: str) -> list[Path]:
    """Return the files of a split, all of one kind: ``split-*`` or ``split/*``, in the folder or in ``data/``."""
    bases = [folder / config, folder / "data" / config] if config else [folder, folder / "data"]
    named = re.compile(rf"{re.escape(split)}([^a-zA-Z].*)?")
    for base in bases:
        beside = [file for file in base.glob("*") if file.is_file() and named.fullmatch(file.stem)]
        for kind in KINDS:
            if files := sorted(file for file in (*beside, *(base / split).glob("*")) if file.suffix == kind):
                return files
    below = sorted(path.name for path in folder.glob("*/") if path.name != "data" and not path.name.startswith("."))
    some = f"; its folders are {', '.join(below)}: try data.config={below[0]}" if below and not config else ""
    if here := sorted(path.name for base in bases for path in base.glob("*") if path.suffix in KINDS):
        some = f"; there are {', '.join(here[:5])}: give data.splits=[TRAIN,VALIDATION,TEST], or [ONE] to cut it"
    key = f"data.splits={split}" if config is None else f"data.config={config} data.splits={split}"
    kinds = ", ".join(KINDS)
    raise UsageError(f"{key}: no file {split}*, data/{split}* or {split}/* ({kinds}) in {folder}{some}")


def _rows(files: Iterable[Path], column: str) -> Iterator[list[Any]]:
    """Yield the values of a column, some rows at a time. Raises UsageError if a file is damaged or lacks the column."""
    for file in files:
        try:
            values = KINDS[file.suffix](file, column)
            while rows := [*itertools.islice(values, ROWS)]:
                yield rows
        except KeyError as error:
            columns = [str(name) for name in error.args[0]]
            hint = f"it has {', '.join(columns)}: try data.column={columns[0]}"
            raise UsageError(f"data.column={column}: {file} has no such column; {hint}") from error
        except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are of these kinds too
            reason = str(error).splitlines()[0]
            raise UsageError(f"{file}: cannot be read as {file.suffix[1:]} ({reason})") from error


def _parquet(file: Path, column: str) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as table:
        if column not in table.schema_arrow.names:
            raise KeyError(table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=ROWS, columns=[column]):
            yield from batch.to_pydict()[column]


def _json_lines(file: Path, column: str) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if line.strip():
                yield _value(json.loads(line), column)


def _json(file: Path, column: str) -> Iterator[Any]:
    """Read a list of rows; a file that is none has one row per line."""
    with file.open(encoding="utf-8-sig") as opened:
        is_list = opened.read(4096).lstrip().startswith("[")
    if is_list:
        yield from (_value(row, column) for row in json.loads(file.read_text(encoding="utf-8-sig")))
    else:
        yield from _json_lines(file, column)


def _csv(file: Path, column: str) -> Iterator[Any]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        for row in csv.DictReader(opened):
            yield _value(row, column)


def _txt(file: Path, column: str) -> Iterator[Any]:
    """Read a file whose rows are its lines, in the column ``text``."""
    if column != "text":
        raise KeyError(["text"])
    yield read_text(file)


def _value(row: Any, column: str) -> Any:
    if not isinstance(row, dict):
        raise ValueError("a row is no object")
    if column not in row:
        raise KeyError([*row])
    return row[column]


KINDS = {".parquet": _parquet, ".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".txt": _txt}


def _joined(batches: Iterable[list[Any]], blank: str = "") -> Iterator[str]:
    """Yield the text of some rows at a time, with ``blank`` for an empty one."""
    for batch in batches:
        yield "".join(row or blank for row in batch)


def _ended(batches: Iterable[list[Any]]) -> Iterator[list[str]]:
    """Yield rows that each end in a newline; a missing value is an empty row."""
    for batch in batches:
        rows = ["" if row is None else row for row in batch]
        for row in rows:
            if not isinstance(row, str):
                raise UsageError(f"data.column: has {str(row)[:40]!r}, which is no text; give a column of text")
        yield [row if row.endswith("\n") else f"{row}\n" for row in rows]
