"""From the negative log-likelihood of a text to the figures that are reported.

All of them say the same of one text, in other units; a character perplexity never stands beside a word perplexity.
"""

import math
from typing import TypedDict


class Score(TypedDict):
    """How well one text was predicted."""

    nll: float  # mean, nats a character
    perplexity: float  # a character: exp(nll)
    bits_per_character: float
    word_perplexity: float  # exp(total nll / words)
    characters: int  # that were predicted
    words: int  # runs of non-blanks among them


def score(nll: float, *, characters: int, words: int) -> Score:
    """Every figure from the mean negative log-likelihood, in nats a character."""
    return Score(
        nll=nll,
        perplexity=_exp(nll),
        bits_per_character=nll / math.log(2),
        word_perplexity=_exp(nll * characters / words) if words else math.nan,
        characters=characters,
        words=words,
    )


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 700 else math.inf
