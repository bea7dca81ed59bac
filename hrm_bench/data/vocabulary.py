"""The vocabulary of both reports: 97 symbols, the same for every text."""

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "\n\t"  # printable ASCII in code order, then these two
UNKNOWN = 0  # the index of any other character, which it shares with the space

_MISSING = 255
_INDEX = numpy.full(128, _MISSING, dtype=numpy.uint8)  # by code; that of DEL, the last, stands for all that follow
_INDEX[[ord(character) for character in CHARACTERS]] = numpy.arange(len(CHARACTERS))


def symbols(codes: NDArray[numpy.uint32]) -> tuple[NDArray[numpy.uint8], int]:
    """Indices of (T,) Unicode code points, and how many of them the vocabulary does not have."""
    indices = _INDEX[numpy.minimum(codes, len(_INDEX) - 1)]
    unknown = indices == _MISSING
    indices[unknown] = UNKNOWN
    return indices, int(unknown.sum())


def code_points(text: str) -> NDArray[numpy.uint32]:
    """The (T,) Unicode code points of a text."""
    return numpy.frombuffer(text.encode("utf-32-le"), dtype=numpy.dtype("<u4"))


def encode(text: str) -> tuple[Tensor, int]:
    """Indices of a short text's characters, (T,) int64, and how many of them the vocabulary does not have."""
    indices, num_unknown = symbols(code_points(text))
    return torch.from_numpy(indices).long(), num_unknown


def decode(indices: Tensor) -> str:
    """The text of (T,) indices."""
    return "".join(CHARACTERS[index] for index in indices.tolist())
