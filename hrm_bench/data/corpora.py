"""The texts that cells are trained and scored on: a source's three splits, up to their limits, and their vocabulary."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from hrm_bench.data import sources
from hrm_bench.data.sources import SPLITS, Dataset, Splits
from hrm_bench.data.task import Task
from hrm_bench.data.text import PRINTABLE_ASCII, VOCABULARIES, Text, Vocabulary, encoded
from hrm_bench.errors import UsageError

Derived = TypeVar("Derived")


@dataclass(frozen=True, eq=False)
class Corpus:
    """The characters that are used of each split."""

    fingerprint: str  # SHA-256 of the three in UTF-8, a NUL between them, and of a file that lists the vocabulary
    train: Text
    validation: Text
    test: Text
    vocabulary: Vocabulary = PRINTABLE_ASCII
    task: Task | None = None  # that has generated the three, if one has

    @property
    def splits(self) -> dict[str, Text]:
        """The three by name, in order."""
        return {name: getattr(self, name) for name in SPLITS}


class Source(ABC):
    """A text of the user's own, whose class ``data.source`` names; it is made without arguments."""

    @abstractmethod
    def splits(self, path: Path | None) -> Iterable[Iterable[str]]:
        """Return the training, validation and test text, each in consecutive pieces; ``path`` is data.path."""


class Request(NamedTuple):
    """The request of a data config: a text, its vocabulary, and what is used of each split."""

    source: str
    path: Path | None
    dataset: Dataset
    vocabulary: str
    vocabulary_limit: int | None  # symbols
    train: int | None  # characters, and so below
    validation: int | None
    test: int | None
    validation_start: int

    @classmethod
    def of(cls, data: DictConfig) -> "Request":
        """Return what a data config asks for."""
        return cls(
            source=str(data.source),
            path=None if not data.path else Path(data.path).expanduser().absolute(),
            dataset=Dataset(data.name, data.config, tuple(data.splits), data.column),
            vocabulary=data.vocabulary,
            vocabulary_limit=data.vocabulary_limit,
            train=data.train_chars,
            validation=data.validation_chars,
            test=data.test_chars,
            validation_start=data.validation_start,
        )

    def splits(self) -> Splits:
        """Return the three splits, each in consecutive pieces. Raises UsageError if they cannot be read."""
        if "." in self.source:
            splits: Splits = resolve_name(self.source)().splits(self.path)
            return splits
        if self.source == "sample":
            return sources.sample()
        if self.source == "hub":
            return sources.dataset(self.dataset, self.path)
        if self.source in sources.HUB_CONFIGS:
            return sources.wikitext(self.source, self.path)
        assert self.path is not None, "config.check asks for it"
        if self.source in sources.PUBLISHED:
            return sources.published_file(self.source, self.path)
        return sources.text_file(self.path)


class Library:
    """The texts that several cells share: each is read once, and what follows from it alone is computed once."""

    def __init__(self) -> None:
        self._corpora: dict[Hashable, Corpus] = {}
        self._derived: dict[Hashable, Any] = {}

    def load(self, data: DictConfig) -> Corpus:
        """Return the corpus that a data config describes. Raises UsageError if it cannot be read."""
        request: Hashable = Request.of(data) if data.task is None else repr((data.task, data.window))
        if request not in self._corpora:
            self._corpora[request] = load(data)
        return self._corpora[request]

    def derive(self, corpus: Corpus, name: Hashable, compute: Callable[[], Derived]) -> Derived:
        """Return what ``compute`` gives for a corpus, under a name; computed at the first call."""
        key = (corpus.fingerprint, corpus.vocabulary, name)
        if key not in self._derived:
            self._derived[key] = compute()
        result: Derived = self._derived[key]
        return result


def load(data: DictConfig) -> Corpus:
    """Read the corpus that a data config describes. Raises UsageError if it cannot be read."""
    return _read(Request.of(data)) if data.task is None else _generated(task_of(data))


def task_of(data: Mapping[str, Any]) -> Task:
    """Return the task that a data config names. Raises ConfigFault if its ``Config`` refuses a value."""
    given = data["task"]
    values = cast(dict[str, Any], OmegaConf.to_container(given) if isinstance(given, DictConfig) else dict(given))
    named: Any = resolve_name(values.pop("_target_"))
    task: Task = named(named.Config(**values), data["window"])
    return task


def _generated(task: Task) -> Corpus:
    """Return the corpus of a task's samples. The fingerprint is also of what is asked, and of the fresh samples."""
    texts = task.texts()
    digest = hashlib.sha256(f"{task.config}".encode())
    for text in texts.values():
        assert text.targets is not None
        assert text.labels is not None
        for values in (text.indices, text.targets, text.labels):
            digest.update(values.numpy().tobytes())
    return Corpus(digest.hexdigest(), **texts, vocabulary=task.vocabulary, task=task)


def vocabulary_of(data: DictConfig) -> Vocabulary:
    """Return the vocabulary that a data config describes; the text is read if it depends on the text."""
    return VOCABULARIES.get(data.vocabulary) or load(data).vocabulary


def _read(request: Request) -> Corpus:
    """Read the pieces of the three splits, one split after the other, up to its limit."""
    digest, texts, vocabulary = hashlib.sha256(), list[Text](), VOCABULARIES.get(request.vocabulary)
    if vocabulary is None and request.vocabulary != "characters":
        vocabulary = _listed(Path(request.vocabulary).expanduser())
    for name, pieces in zip(SPLITS, request.splits(), strict=True):
        if texts:
            digest.update(b"\0")
        used = _without_start(pieces, request.validation_start) if name == "validation" else pieces
        used = _limited(used, getattr(request, name), digest)
        if vocabulary is None:
            used = [*used]
            vocabulary = Vocabulary.of_text(used, request.vocabulary_limit)
        texts.append(Text.read(used, vocabulary))
    assert vocabulary is not None
    if request.vocabulary not in (*VOCABULARIES, "characters"):
        digest.update(b"\0" + encoded(vocabulary.characters))  # the name of the file says nothing
    train, validation, test = texts
    return Corpus(digest.hexdigest(), train, validation, test, vocabulary)


def _listed(path: Path) -> Vocabulary:
    """Return the vocabulary of the characters in a file, a newline included. Raises UsageError."""
    if not path.is_file():
        words = ", ".join([*VOCABULARIES, "characters"])
        raise UsageError(f"data.vocabulary={path}: allowed are {words}, or a UTF-8 file that lists the characters")
    text = sources.read_text(path, "data.vocabulary")
    return Vocabulary.of_text([text, "\n"], None, title=f"those of {path}")


def _without_start(pieces: Iterable[str], start: int) -> Iterator[str]:
    """Yield all but the first ``start`` characters."""
    for piece in pieces:
        yield piece[start:]
        start = max(0, start - len(piece))


def _limited(pieces: Iterable[str], limit: int | None, digest: "hashlib._Hash") -> Iterator[str]:
    """Yield the first ``limit`` characters and hash them; no piece is read after the last of them."""
    for piece in pieces:
        digest.update(encoded(piece[:limit]))
        yield piece[:limit]
        if limit is not None:
            limit -= len(piece)
            if limit <= 0:
                break
