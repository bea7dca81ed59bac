"""The vocabulary of both reports: 97 symbols, the same for every text."""

import numpy
import torch
from torch import Tensor

CHARACTERS = "".join(chr(code) for code in range(32, 127)) + "\n\t"  # printable ASCII in code order, then these two
UNKNOWN = 0  # the index of any other character, which it shares with the space

_INDEX = numpy.full(128, -1, dtype=numpy.int64)
_INDEX[[ord(character) for character in CHARACTERS]] = numpy.arange(len(CHARACTERS))


def encode(text: str) -> tuple[Tensor, int]:
    """Indices of a text's characters, (T,) int64, and how many of them the vocabulary does not have."""
    codes = numpy.frombuffer(text.encode("utf-32-le"), dtype=numpy.uint32)
    indices = numpy.where(codes < 128, _INDEX[numpy.minimum(codes, 127)], -1)
    unknown = indices < 0
    indices[unknown] = UNKNOWN
    return torch.from_numpy(indices), int(unknown.sum())


def decode(indices: Tensor) -> str:
    """The text of (T,) indices."""
    return "".join(CHARACTERS[index] for index in indices.tolist())
