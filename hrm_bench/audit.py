"""Proof that a model does not see the future: change a character and look at the logits before it."""

import copy

import torch

from hrm_bench.charlm import CharLM
from hrm_bench.data.vocabulary import CHARACTERS

TOLERANCE = 1e-9  # on logits, in double precision: far above its rounding, far below any leak through real weights


@torch.no_grad()
def future_leak(model: CharLM, *, num_windows: int, seed: int = 0, lanes_at_once: int = 64) -> float:
    """The largest change of any logit before position i when character i changes, for all i of ``num_windows`` windows.

    The logits at position i are those after reading character i, so they may change and no earlier ones may. The model
    is copied, in double precision and evaluation mode; windows follow each other in one lane, with the memory between.
    """
    probe = copy.deepcopy(model).double().eval()
    length = num_windows * model.window
    stream = torch.Generator().manual_seed(seed)
    text = torch.randint(len(CHARACTERS), (length,), generator=stream)
    shift = torch.randint(1, len(CHARACTERS), (length,), generator=stream)
    changed = text.repeat(length, 1)  # lane i differs from the text in character i alone
    changed.diagonal().copy_((text + shift) % len(CHARACTERS))
    text, changed = text.to(model.device), changed.to(model.device)
    reference, _ = probe(text[None])
    leak = 0.0
    for lanes in torch.arange(length, device=model.device).split(lanes_at_once):
        logits, _ = probe(changed[lanes])
        difference = (logits - reference).abs().amax(dim=-1)  # (lanes, length)
        before = torch.arange(length, device=model.device) < lanes[:, None]
        leak = max(leak, float(difference.masked_fill(~before, 0).max()))
    return leak


def is_causal(model: CharLM, *, num_windows: int) -> bool:
    """Whether no logit moves when a later character does."""
    return future_leak(model, num_windows=num_windows) <= TOLERANCE
