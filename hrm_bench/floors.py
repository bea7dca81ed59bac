"""What counting alone reaches on the same characters: the plateau that any trained model must leave."""

import torch
from torch import Tensor

from hrm_bench.data.vocabulary import CHARACTERS


def unigram_nll(train: Tensor, scored: Tensor) -> float:
    """Mean negative log-likelihood, nats a character, of (T,) scored characters under add-one counts of the others."""
    counts = torch.bincount(train, minlength=len(CHARACTERS)).double() + 1
    return float(-(counts / counts.sum()).log()[scored].mean())
