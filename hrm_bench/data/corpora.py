"""The texts: WikiText-2, the bundled sample, or a file of the user's own; each as three splits.

A text is read once, in pieces that become a ``Text`` one by one, so that no more than a piece of it is ever a string.
Whatever was asked for and cannot be had is a UsageError; no other text ever takes its place.
"""

import codecs
import functools
import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from hrm_bench import network
from hrm_bench.data.text import Text
from hrm_bench.errors import UsageError

SPLITS = ("train", "validation", "test")
BLOCK = 1 << 16  # bytes of a file that are read at a time
ROWS = 256  # of the hub's data set that are read at a time: about as many characters
HUB = "https://huggingface.co"
HUB_NAME = "Salesforce/wikitext"
HUB_CONFIGS = {"wikitext2": "wikitext-2-v1", "wikitext103": "wikitext-103-v1"}  # by data.source
WAYS_ON = "give a local copy in the hub's layout with data.path=FOLDER (or HRM_BENCH_WIKITEXT), or use data=sample"


@dataclass(frozen=True, eq=False)
class Corpus:
    """The characters that are used of each split."""

    fingerprint: str  # SHA-256 of the three in UTF-8, a NUL between them: known again wherever they were read from
    train: Text
    validation: Text
    test: Text

    @property
    def splits(self) -> dict[str, Text]:
        """The three by name, in order."""
        return {name: getattr(self, name) for name in SPLITS}


def load(data: DictConfig) -> Corpus:
    """The corpus that a data config describes; read once a process."""
    path = None if not data.path else str(Path(data.path).expanduser().absolute())
    limits = Limits(data.train_chars, data.validation_chars, data.test_chars, data.validation_start)
    if data.source in HUB_CONFIGS:
        return _wikitext(data.source, path, limits)
    if data.source == "sample":
        return _sample(limits)
    return _text_file(path, limits)


class Limits(NamedTuple):
    """How many characters of each split are used, and how many of validation are left out before."""

    train: int | None
    validation: int | None
    test: int | None
    validation_start: int


@functools.cache
def _wikitext(source: str, path: str | None, limits: Limits) -> Corpus:
    answers = path is not None or network.answers(os.environ.get("HF_ENDPOINT", HUB))
    if path is None:
        if Path(HUB_NAME).exists():  # datasets would take it for the hub's
            raise UsageError(
                f"data={source}: ./{HUB_NAME} would be read in the hub's place; "
                f"give it by name with data.path={HUB_NAME}, or run elsewhere"
            )
        if not answers:
            os.environ["HF_HUB_OFFLINE"] = "1"  # read by datasets at its import: look in this machine's cache only
    elif not Path(path).is_dir():
        raise UsageError(f"data.path={path}: no such folder; {WAYS_ON}")
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        if path is None:
            splits = load_dataset(HUB_NAME, HUB_CONFIGS[source])
        else:  # by its files: of a folder, datasets would give the copy that it keeps of any of the same name
            files = {name: f"{path}/{HUB_CONFIGS[source]}/{name}-*.parquet" for name in SPLITS}
            splits = load_dataset("parquet", data_files=files)
        return _corpus((_published(splits[name].iter(batch_size=ROWS)) for name in SPLITS), limits)
    except Exception as error:
        reason = str(error).split("\n")[0]
        if path is None:
            fault = f"cannot be loaded ({reason})" if answers else "cannot be reached"
            raise UsageError(f"data={source}: the hub's {HUB_NAME} {fault}; {WAYS_ON}") from error
        raise UsageError(f"data.path={path}: not {HUB_NAME} in the hub's layout ({reason}); {WAYS_ON}") from error


def _published(batches: Iterable[dict[str, list[str]]]) -> Iterator[str]:
    """The text as it was published: the hub's rows lose blank lines, which read ' \\n'."""
    for batch in batches:
        yield "".join(row or " \n" for row in batch["text"])


@functools.cache
def _sample(limits: Limits) -> Corpus:
    folder = Path(__file__).parent / "sample"
    return _corpus((_decoded(folder / f"{name}.txt") for name in SPLITS), limits)


@functools.cache
def _text_file(path: str | None, limits: Limits) -> Corpus:
    assert path is not None, "config.check asks for it"
    utf8, total = bytearray(), 0  # where to cut is known at the file's end; until then, the smallest form
    try:
        for piece in _decoded(Path(path)):
            utf8 += piece.encode()
            total += len(piece)
    except OSError as error:
        raise UsageError(f"data.path={path}: cannot be read ({error.strerror}); give data.path=FILE") from error
    first, second = total * 8 // 10, total * 9 // 10
    return _corpus(_cuts(utf8, (first, second - first, total - second)), limits)


def _decoded(path: Path) -> Iterator[str]:
    """The text of a UTF-8 file as ``Path.read_text`` gives it, in pieces. UsageError where it is not UTF-8."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    with path.open("rb") as file:
        block, num_read = b"?", 0
        while block:
            block = file.read(BLOCK)
            num_read += len(block)
            try:
                piece = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                fault = num_read - len(error.object) + error.start  # the object is the block and what was left over
                raise UsageError(
                    f"data.path={path}: not UTF-8 at byte {fault}; convert it, for example with iconv -t UTF-8"
                ) from error
            yield piece


def _cuts(utf8: bytearray, lengths: Iterable[int]) -> Iterator[Iterator[str]]:
    """Consecutive texts of so many characters, each to be read before the next; they are taken out of the bytes."""
    for length in lengths:
        cut = _cut(utf8, length)
        yield cut
        deque(cut, maxlen=0)  # what a limit has left of it


def _cut(utf8: bytearray, length: int) -> Iterator[str]:
    while length:
        piece = utf8[:BLOCK].decode(errors="ignore")[:length]  # without the part of a character at the block's end
        del utf8[: len(piece.encode())]
        length -= len(piece)
        yield piece


def _corpus(splits: Iterable[Iterable[str]], limits: Limits) -> Corpus:
    """Read the pieces of the three splits, one split after the other, as far as its limit."""
    digest, texts = hashlib.sha256(), list[Text]()
    for name, pieces in zip(SPLITS, splits, strict=True):
        if texts:
            digest.update(b"\0")
        rest = _after(pieces, limits.validation_start) if name == "validation" else pieces
        texts.append(Text.read(_used(rest, getattr(limits, name), digest)))
    return Corpus(digest.hexdigest(), *texts)


def _after(pieces: Iterable[str], start: int) -> Iterator[str]:
    """All but the first ``start`` characters."""
    for piece in pieces:
        yield piece[start:]
        start = max(0, start - len(piece))


def _used(pieces: Iterable[str], limit: int | None, digest: "hashlib._Hash") -> Iterator[str]:
    """The first ``limit`` characters, each hashed as it passes; no piece is read after the last of them."""
    for piece in pieces:
        digest.update(piece[:limit].encode())
        yield piece[:limit]
        if limit is not None:
            limit -= len(piece)
            if limit <= 0:
                break
