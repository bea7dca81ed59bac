"""One step of a hierarchy of levels, each with its own period.

Shapes: B lanes, T characters, D width.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

Update = Literal["sequential", "simultaneous"]
Levels = tuple[Tensor, ...]  # a state (B, T, D) a level, lowest first
Advance = Callable[[int, Tensor], Tensor]  # level, the sum of its inputs (B, T, D) → its new state


def update_levels(
    step: int, periods: Sequence[int], update: Update, x: Tensor, levels: Levels, advance: Advance
) -> Levels:
    """The levels after step number ``step`` ≥ 1 on the input x (B, T, D); a level is due when its period divides it.

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
