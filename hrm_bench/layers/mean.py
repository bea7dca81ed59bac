"""Weighted means over the batches of an epoch."""

import torch
from torch import Tensor


class Mean:
    """A weighted mean of values that come batch by batch.

    Each batch is summed in the precision of its values, and the batches in ``dtype``.

    With ``of_ranks``, ``compute`` sums over all processes that train together, so all of them must call it.
    """

    def __init__(self, dtype: torch.dtype = torch.float64, *, of_ranks: bool = False) -> None:
        self.dtype = dtype
        self.of_ranks = of_ranks
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self.sums = torch.zeros(2, dtype=self.dtype)  # of the weighted values, and of the weights

    def update(self, values: Tensor, weight: float | Tensor = 1.0) -> None:
        """Add values, each of which has this weight."""
        self.sums = self.sums.to(values.device)
        self.sums[0] += (values.detach() * weight).sum()
        self.sums[1] += weight * values.numel()

    def compute(self) -> Tensor:
        """Return the mean, NaN if there are no values."""
        sums = self.sums
        if self.of_ranks and torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = sums.clone()
            torch.distributed.all_reduce(sums)
        return sums[0] / sums[1]
