"""The audit of a language model, for a test-suite and for the command.

Shapes: B lanes, T characters, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch

from hrm_bench.causal.conditions import Audit
from hrm_bench.causal.reader import Reader, evaluation
from hrm_bench.causal.report import NotCausal, Report
from hrm_bench.errors import UsageError

OUTPUTS, PREDICTS = ("logits", "probabilities"), ("next", "same")


def assert_causal(model: Any, vocabulary: int, **options: Any) -> Report:
    """Raise NotCausal if a language model breaks a condition; the arguments are those of ``audit``."""
    report = audit(model, vocabulary, **options)
    if not report.is_causal:
        raise NotCausal(report)
    return report


def audit(
    model: Any,
    vocabulary: int,
    *,
    output: str = "logits",
    predicts: str = "next",
    length: int = 128,
    lengths: Sequence[int] | None = None,
    step: Any = None,
    seed: int = 0,
    device: Any = None,
) -> Report:
    """Try every condition on random texts; return what was found.

    Args:
        model: a callable from tokens (B, T) to outputs (B, T, V), the first of a tuple, or ``.logits``. A method
            ``step(tokens, state) -> (output, state)``, or a callable of both, is read in pieces, first with None.
        vocabulary: V; tokens are drawn from 0 to V - 1.
        output: "logits" or "probabilities".
        predicts: "next" if output i predicts character i + 1, "same" if it predicts character i, unseen.
        length: the most characters of a text. Shorter ones, down to 1, are tried as well.
        lengths: the lengths to try instead.
        step: the callable of tokens and state, if it is no method ``step``; False to leave that method out.
        seed: another seed draws other texts.
        device: of the tokens, by default that of the model's first parameter.

    Raises:
        UsageError: an argument is wrong, or the model fails or gives outputs of another shape.
    """
    lengths = lengths_to_try(length) if lengths is None else sorted(set(lengths))
    faults = {
        f"output={output}: must be one of {', '.join(OUTPUTS)}": output not in OUTPUTS,
        f"predicts={predicts}: must be one of {', '.join(PREDICTS)}": predicts not in PREDICTS,
        f"vocabulary={vocabulary}: must be at least 2": vocabulary < 2,
        f"length={length}: a text must have at least 1 character": not lengths or lengths[0] < 1,
    }
    if any(faults.values()):
        raise UsageError(*(fault for fault, is_true in faults.items() if is_true))
    reader = Reader(model, step, vocabulary=vocabulary, output=output, device=device, longest=lengths[-1])
    with evaluation(reader.modules):
        return Audit(reader, predicts).report(lengths, torch.Generator().manual_seed(seed))


def lengths_to_try(length: int) -> list[int]:
    """Return lengths up to this one: the shortest, those about a half and the whole, and one that is no multiple."""
    half = length // 2
    lengths = {1, 2, 3, half - 1, half, half + 1, 5 * length // 7, length - 1, length}
    return sorted(number for number in lengths if 1 <= number <= length)
