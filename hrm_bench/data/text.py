"""Vocabularies, and texts as the bench holds them: two bytes per symbol, or three if there are over 256 symbols.

A symbol is a character, or a byte if the vocabulary is that of bytes.
"""

import codecs
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_SYMBOLS = 30_000  # of a vocabulary: an index has two bytes
ONE_BYTE = 256  # the most symbols whose indices have one byte
REPLACEMENT = "\ufffd"  # what characters outside a vocabulary of the text's own are read as
Packed = bytes | str  # a text whose elements are indices: bytes if one suffices, else a string of these code points

# Per code, whether str.split separates words there: up to the last such character, U+3000, and one for all later codes.
_BLANK = numpy.array([chr(code).isspace() for code in range(0x3002)])


class Vocabulary:
    """The symbols of a text; any other character is read as the first symbol and counted as unknown."""

    def __init__(self, characters: str, title: str = "") -> None:
        if not 0 < len(set(characters)) == len(characters) <= MOST_SYMBOLS:
            raise ValueError(f"a vocabulary has from 1 to {MOST_SYMBOLS} symbols, each once; this one: {characters!r}")
        self.characters = characters
        self.title = title or characters  # the symbols in words
        codes = code_points(characters)
        self._index = numpy.full(int(codes.max()) + 2, -1, dtype=numpy.int16)  # −1: unknown; last: all later codes
        self._index[codes] = numpy.arange(len(characters))

    def __len__(self) -> int:
        return len(self.characters)

    @classmethod
    def of_text(
        cls, pieces: Iterable[str], limit: int | None, title: str = "those of the training text"
    ) -> "Vocabulary":
        """Return the characters of a text, after one that stands for all others; with a limit, the commonest."""
        counts = Counter[str]()
        for piece in pieces:
            counts.update(piece)
        del counts[REPLACEMENT]
        most = MOST_SYMBOLS - 1 if limit is None else min(limit, MOST_SYMBOLS - 1)
        commonest = sorted(counts, key=lambda character: (-counts[character], character))[:most]
        return cls(REPLACEMENT + "".join(sorted(commonest)), title)

    def read(self, piece: str) -> tuple[NDArray[Any], NDArray[numpy.bool_], NDArray[numpy.uint32]]:
        """Return (T,) indices of a piece of text, whether each is blank, and the code points that are unknown."""
        codes = code_points(piece)
        indices = self._index[numpy.minimum(codes, len(self._index) - 1)]
        unknown = indices < 0
        indices[unknown] = 0
        kind = numpy.uint8 if len(self) <= ONE_BYTE else numpy.int16
        return indices.astype(kind), _are_blank(codes), codes[unknown]

    def missing(self, text: str) -> list[str]:
        """Return the characters of a text that are unknown, each once."""
        return sorted(set(text) - set(self.characters))

    def encode(self, text: str) -> tuple[Tensor, int]:
        """Return the indices of a short text's symbols, (T,) int64, and the number of unknown characters in it."""
        indices, _, unknown = self.read(text)
        return torch.from_numpy(indices.astype(numpy.int64)), len(unknown)

    def decode(self, indices: Tensor) -> str:
        """Return the text of (T,) indices."""
        return "".join(self.characters[index] for index in indices.tolist())

    def num_characters(self, indices: Tensor) -> int:
        """Return the number of characters that begin among (T,) indices."""
        return len(indices)


class ByteVocabulary(Vocabulary):
    """The 256 bytes, of which UTF-8 has from one to four per character; nothing is unknown."""

    def __init__(self) -> None:
        super().__init__("".join(map(chr, range(256))), "all characters")

    def read(self, piece: str) -> tuple[NDArray[Any], NDArray[numpy.bool_], NDArray[numpy.uint32]]:
        codes = code_points(piece)
        lengths = 1 + (codes >= 0x80).astype(numpy.int8) + (codes >= 0x800) + (codes >= 0x10000)
        lengths[(codes >= 0xDC80) & (codes < 0xDD00)] = 1  # a byte of a file that was no part of a character
        return numpy.frombuffer(encoded(piece), dtype=numpy.uint8), _are_blank(codes).repeat(lengths), codes[:0]

    def missing(self, text: str) -> list[str]:
        """Return the characters of a text that UTF-8 does not have: halves of surrogate pairs."""
        return sorted({character for character in text if 0xD800 <= ord(character) < 0xE000})

    def decode(self, indices: Tensor) -> str:
        """Return the text of (T,) bytes without a last, unfinished character; bytes that are none give U+FFFD."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(indices.tolist()))

    def num_characters(self, indices: Tensor) -> int:
        return int(((indices & 0xC0) != 0x80).count_nonzero())


def code_points(text: str) -> NDArray[numpy.uint32]:
    """Return the (T,) Unicode code points of a text."""
    return numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=numpy.dtype("<u4"))


def encoded(text: str) -> bytes:
    """Return a text in UTF-8; bytes of a file that are none, which were read as half surrogates, are as in the file."""
    return text.encode("utf-8", "surrogateescape")


def packed(indices: Tensor) -> Packed:
    """Return (T,) indices as a text for n-gram models."""
    if indices.dtype == torch.uint8:
        return indices.numpy().tobytes()
    return indices.numpy().astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _are_blank(codes: NDArray[numpy.uint32]) -> NDArray[numpy.bool_]:
    return _BLANK[numpy.minimum(codes, len(_BLANK) - 1)]


# The 97 symbols of both reports: printable ASCII in code order, then newline and tab.
PRINTABLE_ASCII = Vocabulary("".join(chr(code) for code in range(32, 127)) + "\n\t", "printable ASCII, newline and tab")
BYTES = ByteVocabulary()
VOCABULARIES: dict[str, Vocabulary] = {"ascii97": PRINTABLE_ASCII, "bytes": BYTES}  # by data.vocabulary: of no text


@dataclass(frozen=True, eq=False)
class Text:
    """The T symbols of a split: enough to train on them, and to count its characters and words."""

    indices: Tensor  # (T,) uint8 or int16, into the vocabulary
    blanks: Tensor  # (T,) bool; an unknown character is read as the first symbol but need not separate words
    unknown: Counter[str]  # how often it has each character that the vocabulary lacks
    vocabulary: Vocabulary = PRINTABLE_ASCII
    targets: Tensor | None = None  # (T − 1,) what is asked after each character, if this is not the next character
    labels: Tensor | None = None  # (T − 1,) the slice of each question

    @property
    def unknown_characters(self) -> int:
        """The number of characters that the vocabulary lacks."""
        return self.unknown.total()

    @property
    def num_characters(self) -> int:
        """The number of characters."""
        return self.vocabulary.num_characters(self.indices)

    @classmethod
    def read(cls, pieces: Iterable[str], vocabulary: Vocabulary = PRINTABLE_ASCII) -> Self:
        """Read a text from consecutive pieces, each of which is released before the next one is asked for."""
        indices, blanks, unknown = bytearray(), bytearray(), Counter[str]()  # bytearrays mostly grow in place
        for piece in pieces:
            symbols, separate, codes = vocabulary.read(piece)
            indices += symbols.tobytes()
            blanks += separate.tobytes()
            for code, number in zip(*numpy.unique(codes, return_counts=True), strict=True):
                unknown[chr(code)] += int(number)
        kind = numpy.uint8 if len(vocabulary) <= ONE_BYTE else numpy.int16
        return cls(
            indices=torch.from_numpy(numpy.frombuffer(indices, dtype=kind)),
            blanks=torch.from_numpy(numpy.frombuffer(blanks, dtype=numpy.bool_)),
            unknown=unknown,
            vocabulary=vocabulary,
        )

    def __len__(self) -> int:
        """Return the number of symbols."""
        return len(self.indices)

    def num_words(self, start: int, stop: int) -> int:
        """Return ``len(text[start:stop].split())``: the words, with a part of a word at either end counted as one."""
        blanks = self.blanks[start:stop]
        later = blanks[:-1] > blanks[1:]  # the second of two characters begins a word
        return int((~blanks[:1]).count_nonzero() + later.count_nonzero())
