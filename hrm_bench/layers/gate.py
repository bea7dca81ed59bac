"""Base of all layers that let a memory through by a learned gate."""

import torch
from torch import Tensor, nn

from hrm_bench.layers.mean import Mean


class Gated(nn.Module):
    """A layer whose parameter ``gate`` decides how much of a memory it lets through.

    A recipe may give gates a learning rate of their own; ``CharLM.gates`` finds them through this class.
    """

    gate: nn.Parameter


class GateMeans:
    """Means of what each gate of a model lets through, taken over all that is read while this is switched on."""

    def __init__(self) -> None:
        self.is_on = False
        self._means: dict[str, Mean] = {}

    def switch_on(self) -> None:
        """Begin new means."""
        self.is_on = True
        self._means = {}

    def observe(self, name: str, values: Tensor) -> None:
        """Add the values that the gate of this name has in a segment."""
        if self.is_on:
            self._means.setdefault(name, Mean(torch.float32)).update(values)

    def mean(self) -> float | None:
        """Return the mean over gates, or None if none was observed."""
        means = [mean.compute() for _, mean in sorted(self._means.items())]
        return float(torch.stack(means).mean()) if means else None
