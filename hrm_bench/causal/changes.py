"""Changed texts, and how far outputs move with them.

Shapes: B lanes, T characters, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SAMPLED = 4096  # entries of which the median gives the usual size of an output


class Gap(NamedTuple):
    """How far two outputs are apart at each character."""

    change: Tensor  # (B, T): the largest change of any entry
    relative: Tensor  # (B, T): the largest change of any entry as a fraction of its size

    def where(self, chosen: Tensor) -> "Gap":
        """Return the gap with 0 elsewhere."""
        return Gap(*(part.masked_fill(~chosen, 0) for part in self))


def changed_texts(text: Tensor, others: Tensor, starts: Tensor, *, to_end: bool = False) -> Tensor:
    """Return one lane per start, (starts, T): the text with another character there, or from there to the end."""
    positions, starts = torch.arange(len(text), device=text.device), starts[:, None]
    return torch.where(positions >= starts if to_end else positions == starts, others, text)


def early(starts: Tensor, length: int) -> Tensor:
    """Return which positions are before each lane's start, (starts, T)."""
    return torch.arange(length, device=starts.device) < starts[:, None]


def difference(outputs: Tensor, reference: Tensor) -> Tensor:
    """Return the largest change of any entry, (B, T). Equal infinities do not differ; NaN does."""
    return (outputs - reference).masked_fill(outputs == reference, 0).abs().amax(dim=-1)


def gap(outputs: Tensor, reference: Tensor, *, usual: float | None = None) -> Gap:
    """Compare outputs (B, T, V) with their reference.

    The size of an entry is its own plus the usual one, by default the median over the reference.
    """
    if outputs.equal(reference):
        zeros = outputs.new_zeros(outputs.shape[:2])
        return Gap(zeros, zeros)
    size = reference.abs() + (usual_size(reference) if usual is None else usual)
    distance = (outputs - reference).masked_fill(outputs == reference, 0).abs()
    parts = (distance, distance / size)
    return Gap(*(part.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(dim=-1) for part in parts))


def usual_size(outputs: Tensor) -> float:
    """Return the median size of the finite entries that are not 0; 1 if there are none."""
    entries = outputs.flatten()
    entries = entries[:: max(1, len(entries) // SAMPLED)].abs()
    entries = entries[entries.isfinite() & (entries > 0)]
    return float(entries.median()) if len(entries) else 1.0
