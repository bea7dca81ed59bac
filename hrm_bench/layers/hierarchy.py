"""Levels of blocks, each of which is updated at its own period.

Shapes: B lanes, T characters, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hrm_bench.layers.block import BlockConfig

Update = Literal["sequential", "simultaneous"]
Levels = tuple[Tensor, ...]  # one state (B, T, D) per level, lowest first
Advance = Callable[[int, Tensor], Tensor]  # number of a level, sum of its inputs (B, T, D) → the level's new state


@dataclass(frozen=True, kw_only=True)
class HierarchyConfig(BlockConfig):
    """The sizes of an architecture made of levels, each of them a stack of blocks."""

    periods: tuple[int, ...]  # steps between two updates of each level, lowest first; as many levels as entries
    num_segments: int  # refinement passes over a window
    update: Update  # the order in which levels read each other


def update_levels(
    step: int, periods: Sequence[int], update: Update, x: Tensor, levels: Levels, advance: Advance
) -> Levels:
    """Return the levels after step number ``step`` ≥ 1 on the input x (B, T, D).

    A level is updated if its period divides the number of the step.

    sequential:    from the lowest up, z_i = M_i(Σ_j z_j), with the states as they are by then; x is added to the lowest
    simultaneous:  z_i = M_i(x + Σ_j z_j), with the states as they were before the step
    """
    before = levels
    for level, period in enumerate(periods):
        if step % period:
            continue
        read = levels if update == "sequential" else before
        inputs = sum(read[1:], start=read[0])
        if level == 0 or update == "simultaneous":
            inputs = inputs + x
        levels = (*levels[:level], advance(level, inputs), *levels[level + 1 :])
    return levels
