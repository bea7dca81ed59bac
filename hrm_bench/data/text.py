"""A text as the bench holds it: two bytes a character, whatever its length and its alphabet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy
import torch
from torch import Tensor

from hrm_bench.data.vocabulary import code_points, symbols

# By code, whether str.split parts words there: as far as the last such character, U+3000, and one for all that follow.
_BLANK = numpy.array([chr(code).isspace() for code in range(0x3002)])


@dataclass(frozen=True, eq=False)
class Text:
    """What is kept of the T characters of a split: enough to train on them and to count their words."""

    indices: Tensor  # (T,) uint8, of the vocabulary
    blanks: Tensor  # (T,) bool, since a character outside the vocabulary, which is read as a space, may part no words
    unknown_characters: int

    @classmethod
    def read(cls, pieces: Iterable[str]) -> Self:
        """The text that the pieces make up; each is let go before the next is asked for."""
        indices, blanks, num_unknown = bytearray(), bytearray(), 0  # bytearrays grow in place, mostly
        for piece in pieces:
            codes = code_points(piece)
            found, num_more = symbols(codes)
            indices += found.tobytes()
            blanks += _BLANK[numpy.minimum(codes, len(_BLANK) - 1)].tobytes()
            num_unknown += num_more
        return cls(
            indices=torch.from_numpy(numpy.frombuffer(indices, dtype=numpy.uint8)),
            blanks=torch.from_numpy(numpy.frombuffer(blanks, dtype=numpy.bool_)),
            unknown_characters=num_unknown,
        )

    def __len__(self) -> int:
        return len(self.indices)

    def num_words(self, start: int, stop: int) -> int:
        """What ``len(text[start:stop].split())`` is: words, and at both ends parts of words."""
        blanks = self.blanks[start:stop]
        later = blanks[:-1] > blanks[1:]  # the second of two characters begins a word
        return int((~blanks[:1]).count_nonzero() + later.count_nonzero())
