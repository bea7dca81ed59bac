"""Vocabularies, and texts as the bench holds them: two bytes per character, whatever their length and alphabet."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

_MISSING = 255  # stands in a vocabulary's table for every character that it lacks

# Per code, whether str.split separates words there: up to the last such character, U+3000, and one for all later codes.
_BLANK = numpy.array([chr(code).isspace() for code in range(0x3002)])


class Vocabulary:
    """The symbols of a text, at most 255; any other character is read as the first symbol and counted as unknown."""

    def __init__(self, characters: str, title: str = "") -> None:
        if not 0 < len(set(characters)) == len(characters) <= _MISSING:
            raise ValueError(f"a vocabulary has from 1 to {_MISSING} symbols, each once; this one has {characters!r}")
        self.characters = characters
        self.title = title or characters  # the symbols in words
        codes = code_points(characters)
        self._index = numpy.full(int(codes.max()) + 2, _MISSING, dtype=numpy.uint8)  # the last entry: all later codes
        self._index[codes] = numpy.arange(len(characters))

    def __len__(self) -> int:
        return len(self.characters)

    def symbols(self, codes: NDArray[numpy.uint32]) -> tuple[NDArray[numpy.uint8], NDArray[numpy.uint32]]:
        """Return the indices of (T,) Unicode code points, and the unknown ones among them."""
        indices = self._index[numpy.minimum(codes, len(self._index) - 1)]
        unknown = indices == _MISSING
        indices[unknown] = 0
        return indices, codes[unknown]

    def read(self, piece: str) -> tuple[NDArray[numpy.uint8], NDArray[numpy.bool_], NDArray[numpy.uint32]]:
        """Return (T,) indices of a piece of text, whether each is blank, and the code points that are unknown."""
        codes = code_points(piece)
        indices, unknown = self.symbols(codes)
        return indices, _BLANK[numpy.minimum(codes, len(_BLANK) - 1)], unknown

    def missing(self, text: str) -> list[str]:
        """Return the characters of a text that are unknown, each once."""
        return sorted(set(text) - set(self.characters))

    def encode(self, text: str) -> tuple[Tensor, int]:
        """Return the indices of a short text's characters, (T,) int64, and the number of unknown ones among them."""
        indices, _, unknown = self.read(text)
        return torch.from_numpy(indices).long(), len(unknown)

    def decode(self, indices: Tensor) -> str:
        """Return the text of (T,) indices."""
        return "".join(self.characters[index] for index in indices.tolist())


def code_points(text: str) -> NDArray[numpy.uint32]:
    """Return the (T,) Unicode code points of a text."""
    return numpy.frombuffer(text.encode("utf-32-le"), dtype=numpy.dtype("<u4"))


# The 97 symbols of both reports: printable ASCII in code order, then newline and tab.
PRINTABLE_ASCII = Vocabulary("".join(chr(code) for code in range(32, 127)) + "\n\t", "printable ASCII, newline and tab")
VOCABULARIES: dict[str, Vocabulary] = {"printable_ascii": PRINTABLE_ASCII}  # by data.vocabulary


@dataclass(frozen=True, eq=False)
class Text:
    """The T characters of a split: enough to train on them and to count their words."""

    indices: Tensor  # (T,) uint8, into the vocabulary
    blanks: Tensor  # (T,) bool; an unknown character is read as a space but need not separate words
    unknown: Counter[str]  # how often it has each character that the vocabulary lacks

    @property
    def unknown_characters(self) -> int:
        """The number of characters that the vocabulary lacks."""
        return self.unknown.total()

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
        return cls(
            indices=torch.from_numpy(numpy.frombuffer(indices, dtype=numpy.uint8)),
            blanks=torch.from_numpy(numpy.frombuffer(blanks, dtype=numpy.bool_)),
            unknown=unknown,
        )

    def __len__(self) -> int:
        return len(self.indices)

    def num_words(self, start: int, stop: int) -> int:
        """Return ``len(text[start:stop].split())``: the words, with a part of a word at either end counted as one."""
        blanks = self.blanks[start:stop]
        later = blanks[:-1] > blanks[1:]  # the second of two characters begins a word
        return int((~blanks[:1]).count_nonzero() + later.count_nonzero())
