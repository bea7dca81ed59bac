"""The texts: WikiText-2 or -103, the bundled sample, or a file of the user's own; each as three splits.

A request that cannot be met is a UsageError; no other text ever replaces the one that was asked for.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar

from omegaconf import DictConfig

from hrm_bench import network
from hrm_bench.data.text import PRINTABLE_ASCII, VOCABULARIES, Text, Vocabulary
from hrm_bench.errors import UsageError

SPLITS = ("train", "validation", "test")
ROWS = 256  # of the hub's data set that are read at a time: about as many characters as PIECE
PIECE = 1 << 16  # characters of a string that become a Text at a time
HUB = "https://huggingface.co"
HUB_NAME = "Salesforce/wikitext"
HUB_CONFIGS = {"wikitext2": "wikitext-2-v1", "wikitext103": "wikitext-103-v1"}  # by data.source
ALTERNATIVES = "give a local copy in the hub's layout with data.path=FOLDER (or HRM_BENCH_WIKITEXT), or use data=sample"

Derived = TypeVar("Derived")


@dataclass(frozen=True, eq=False)
class Corpus:
    """The characters that are used of each split."""

    fingerprint: str  # SHA-256 of the three in UTF-8, a NUL between them: the same wherever they were read from
    train: Text
    validation: Text
    test: Text
    vocabulary: Vocabulary = PRINTABLE_ASCII

    @property
    def splits(self) -> dict[str, Text]:
        """The three by name, in order."""
        return {name: getattr(self, name) for name in SPLITS}


class Source(ABC):
    """A text of the user's own, whose class ``data.source`` names; it is made without arguments."""

    @abstractmethod
    def splits(self, path: Path | None) -> Iterable[Iterable[str]]:
        """Return the training, validation and test text, each in consecutive pieces; ``path`` is data.path."""


class Limits(NamedTuple):
    """What is used of each split: its number of characters, where those of validation begin, and the symbols."""

    train: int | None
    validation: int | None
    test: int | None
    validation_start: int
    vocabulary: str  # a key of VOCABULARIES


class Library:
    """The texts that several cells share: each is read once, and what follows from it alone is computed once."""

    def __init__(self) -> None:
        self._corpora: dict[Hashable, Corpus] = {}
        self._derived: dict[Hashable, Any] = {}

    def load(self, data: DictConfig) -> Corpus:
        """Return the corpus that a data config describes. Raises UsageError if it cannot be read."""
        key = _request(data)
        if key not in self._corpora:
            self._corpora[key] = _read(*key)
        return self._corpora[key]

    def derive(self, corpus: Corpus, name: Hashable, compute: Callable[[], Derived]) -> Derived:
        """Return what ``compute`` gives for a corpus, under a name; computed at the first call."""
        key = (corpus.fingerprint, corpus.vocabulary, name)
        if key not in self._derived:
            self._derived[key] = compute()
        result: Derived = self._derived[key]
        return result


def load(data: DictConfig) -> Corpus:
    """Read the corpus that a data config describes. Raises UsageError if it cannot be read."""
    return _read(*_request(data))


def _request(data: DictConfig) -> tuple[str, Path | None, Limits]:
    path = None if not data.path else Path(data.path).expanduser().absolute()
    limits = Limits(data.train_chars, data.validation_chars, data.test_chars, data.validation_start, data.vocabulary)
    return str(data.source), path, limits


def _read(source: str, path: Path | None, limits: Limits) -> Corpus:
    if source == "sample":
        folder = Path(__file__).parent / "sample"
        return _corpus((_pieces(_read_text(folder / f"{name}.txt")) for name in SPLITS), limits)
    if source == "text_file":
        assert path is not None, "config.check asks for it"
        return _corpus(map(_pieces, _cut(_read_text(path))), limits)
    if "." in source:
        return _corpus(resolve_name(source)().splits(path), limits)
    return _published(source, limits) if path is None else _local_copy(source, path, limits)


def _read_text(path: Path) -> str:
    """Read a UTF-8 file as ``Path.read_text`` does. Raises UsageError if that fails."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark that is no character
    except OSError as error:
        raise UsageError(f"data.path={path}: cannot be read ({error.strerror}); give data.path=FILE") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"data.path={path}: not UTF-8 at byte {error.start}; convert it: iconv -f ENCODING -t UTF-8 OLD > NEW"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _cut(text: str) -> tuple[str, str, str]:
    """Cut a text into its first 80 % for training, then 10 % each for validation and test."""
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    return text[:first], text[first:second], text[second:]


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _published(source: str, limits: Limits) -> Corpus:
    """Read WikiText from the hub, or from this machine's cache of the hub."""
    if Path(HUB_NAME).exists():  # datasets would take it for the hub's
        raise UsageError(
            f"data={source}: ./{HUB_NAME} would be read in the hub's place; "
            f"give it by name with data.path={HUB_NAME}, or run elsewhere"
        )
    is_reachable = network.is_reachable(os.environ.get("HF_ENDPOINT", HUB))
    if not is_reachable:
        os.environ["HF_HUB_OFFLINE"] = "1"  # datasets reads it when it is imported, and then asks its cache alone
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        splits = load_dataset(HUB_NAME, HUB_CONFIGS[source])
        return _corpus((_rows(splits[name].iter(batch_size=ROWS)) for name in SPLITS), limits)
    except Exception as error:
        fault = f"cannot be loaded ({_first_line(error)})" if is_reachable else "cannot be reached"
        raise UsageError(f"data={source}: the hub's {HUB_NAME} {fault}; {ALTERNATIVES}") from error


def _local_copy(source: str, path: Path, limits: Limits) -> Corpus:
    """Read WikiText from a folder in the hub's layout, by its files: ``datasets`` would give a copy that it keeps."""
    if path.is_file():
        raise UsageError(f"data.path={path}: a file, where data={source} reads a folder; add data=text_file")
    if not path.is_dir():
        raise UsageError(f"data.path={path}: no such folder; {ALTERNATIVES}")
    try:
        splits = [sorted((path / HUB_CONFIGS[source]).glob(f"{name}-*.parquet")) for name in SPLITS]
        if not all(splits):
            raise FileNotFoundError(f"no {HUB_CONFIGS[source]}/SPLIT-*.parquet for each of {', '.join(SPLITS)}")
        return _corpus((_rows(_parquet_batches(files)) for files in splits), limits)
    except Exception as error:
        reason = _first_line(error)
        raise UsageError(f"data.path={path}: not {HUB_NAME} in the hub's layout ({reason}); {ALTERNATIVES}") from error


def _parquet_batches(files: Iterable[Path]) -> Iterator[dict[str, list[str]]]:
    from pyarrow import parquet

    for file in files:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=ROWS, columns=["text"]):
                yield batch.to_pydict()


def _rows(batches: Iterable[dict[str, list[str]]]) -> Iterator[str]:
    """Yield the text as it was published: the hub's rows lose blank lines, which read ' \\n'."""
    for batch in batches:
        yield "".join(row or " \n" for row in batch["text"])


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def _corpus(splits: Iterable[Iterable[str]], limits: Limits) -> Corpus:
    """Read the pieces of the three splits, one split after the other, up to its limit."""
    digest, texts, vocabulary = hashlib.sha256(), list[Text](), VOCABULARIES[limits.vocabulary]
    for name, pieces in zip(SPLITS, splits, strict=True):
        if texts:
            digest.update(b"\0")
        used = _without_start(pieces, limits.validation_start) if name == "validation" else pieces
        texts.append(Text.read(_limited(used, getattr(limits, name), digest), vocabulary))
    train, validation, test = texts
    return Corpus(digest.hexdigest(), train, validation, test, vocabulary)


def _without_start(pieces: Iterable[str], start: int) -> Iterator[str]:
    """Yield all but the first ``start`` characters."""
    for piece in pieces:
        yield piece[start:]
        start = max(0, start - len(piece))


def _limited(pieces: Iterable[str], limit: int | None, digest: "hashlib._Hash") -> Iterator[str]:
    """Yield the first ``limit`` characters and hash them; no piece is read after the last of them."""
    for piece in pieces:
        digest.update(piece[:limit].encode())
        yield piece[:limit]
        if limit is not None:
            limit -= len(piece)
            if limit <= 0:
                break
