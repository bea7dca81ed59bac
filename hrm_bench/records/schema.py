"""The keys of a record: the result of one cell, complete without its neighbours."""

import math
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # which pydantic needs before Python 3.12

SCHEMA_VERSION = 3
RESCORING_FILE = "evaluation.json"  # beside a sweep's cells: {"answers": [Rescoring, ...]}
ADAPTATION_FILE = "adaptation.json"  # beside a sweep's cells: {"answers": [Adaptation, ...]}
SEARCH_FILE = "search.json"  # beside a sweep's cells: a Search
MANIFEST_FILE = "sweep.json"  # beside a sweep's cells: a Manifest

Floors = dict[str, dict[str, float]]  # n-gram baseline, way of reading → perplexity per character

# "busy" (another process runs it) and "waiting" (not begun) are reported for a cell and never written.
Status = Literal["finished", "failed", "interrupted", "busy", "waiting"]


class Epoch(TypedDict):
    """One row of a cell's history."""

    epoch: int  # from 1
    train_nll: float  # mean over the epoch, last segment of each window, nats per character
    validation_nll: float
    validation_perplexity: float
    seconds: float  # of training, since the cell's first epoch began
    memory_share: NotRequired[float]  # a model with memory: its gates' mean value over the validation text
    memory_norm: NotRequired[float]  # a model with memory: mean norm of a memory's matrix at the end of that text


class Score(TypedDict):
    """How well one text was predicted; all figures express the same total negative log-likelihood."""

    nll: float  # mean, nats per character
    perplexity: float  # per character: exp(nll)
    bits_per_character: float
    bits_per_byte: NotRequired[float]  # a model of bytes, which predicts bytes; all else is per decoded character
    word_perplexity: float  # exp(total nll / words); NaN for a text without words
    characters: int  # number predicted; of a model of bytes, the number that its bytes decode to
    words: int  # runs of non-blank characters among them


class Answers(TypedDict):
    """How well the answers of a task, or of a slice of them, were predicted."""

    nll: float  # mean, nats per answer
    perplexity: float  # per answer
    accuracy: float  # fraction whose most probable character was right
    answers: int  # number of them


class Article(TypedDict):
    """How well a held-out text was predicted."""

    title: str
    nats: float  # of all characters together
    characters: int  # number predicted; of a model of bytes, the number that its bytes decode to
    unknown: int  # characters that the vocabulary lacks
    windows: list[float]  # the nats of each window, rounded to a ten-thousandth


class Leak(TypedDict):
    """How much any logit depends on later characters, by both audits; a causal model has rounding errors only."""

    perturbation: float  # the largest change of a logit when a later character changes
    gradient: float  # the largest gradient of a logit with respect to a later character's embedding


class MemoryUse(TypedDict):
    """Perplexity per character of one text, read with the model's own memory and with others in its place."""

    own: float
    zeroed: float  # an empty memory before each window
    another_lane: float  # the memory of a lane that has read as much of the other scored text


class Record(TypedDict, total=False):
    """The record of a cell: an unfinished record ends at ``wandb``, a finished one has no reason and no log."""

    schema_version: int
    identity: str
    status: Status
    code: str  # hash of the source that decides the figures, and of PyTorch's version
    config: dict[str, Any]
    overrides: list[str]  # the words that compose the config again; empty in older records
    text: str  # first twelve hexadecimal digits of a hash of the characters used; empty in older records
    model: str
    memory: str  # none | reset | carry
    seed: int
    parameters: int
    versions: dict[str, str]
    reason: str  # why the cell is not finished
    log: str
    notes: list[str]  # anything unusual about how the cell ran
    wandb: str  # offline | online | disabled: the mode in effect
    history: list[Epoch]
    best_epoch: int  # chosen on validation
    validation: Score
    test: Score
    gradient_coverage: dict[str, list[str]]  # which losses reach each component
    leak: dict[str, Leak]  # before_training and best: of the best checkpoint
    causal: bool  # whether every leak is rounding only
    answers: NotRequired[dict[str, dict[str, Answers]]]  # of a task, per scored split: all, then each slice
    windows: NotRequired[dict[str, list[float]]]  # per scored split: nats of each window; not in older records
    articles: NotRequired[dict[str, list[Article]]]  # per split: held-out texts; not in older records, nor of a task
    bits_by_position: dict[str, list[float]]  # per scored split: bits per character, by position in the window
    memory_use: dict[str, MemoryUse]  # per scored split; empty for a model whose memory is never written
    state_size: int  # numbers that a lane carries from window to window
    flops_per_character: float  # of reading, without training: twice the multiply-adds of all matrix products
    unknown_characters: dict[str, int]  # per split, read as the vocabulary's first symbol
    unknown_fractions: dict[str, float]  # per split: of its characters
    vocabulary: NotRequired[str]  # the symbols in order, if a text or a file gave them
    floors: dict[str, Floors]  # per scored split: n-gram baselines
    compiled: bool  # whether training was; not in older records
    seconds: float  # the whole cell
    train_seconds: float
    characters_per_second: float  # read in training, generated text included
    peak_memory: int  # bytes: of the process on a CPU, of the allocator on a GPU


def score(nll: float, *, characters: int, words: int, num_bytes: int | None = None) -> Score:
    """Compute every figure of a text from its mean negative log-likelihood, in nats per character.

    ``num_bytes`` is the number of predicted bytes, of a model of bytes.
    """
    figures = Score(
        nll=nll,
        perplexity=exp(nll),
        bits_per_character=nll / math.log(2),
        word_perplexity=exp(nll * characters / words) if words else math.nan,
        characters=characters,
        words=words,
    )
    if num_bytes is not None:
        figures["bits_per_byte"] = figures["bits_per_character"] * characters / num_bytes
    return figures


def exp(exponent: float) -> float:
    """Return the exponential of a number; infinity instead of an overflow."""
    return math.exp(exponent) if exponent < 700 else math.inf


class Halting(TypedDict):
    """The result of stopping at a threshold, by seed."""

    threshold: float
    mean_segments: list[float]
    perplexity: list[float]


class Rescoring(TypedDict):
    """Perplexities of a variant on one split, read in other ways; a list has one value per seed."""

    variant: str
    split: str
    seeds: list[int]
    scored: list[float]  # as the results table has it
    sliding: list[float] | None
    averaged_seeds: float
    with_counts: list[float] | None  # None if the training text is too long to be counted
    segments: dict[str, list[float]]  # by their number; empty for a model of one segment
    halting: list[Halting]  # empty for a model without Q head


class Adaptation(TypedDict):
    """What a variant predicts in a mixture with what it has read of the text; a list has one value per seed."""

    variant: str
    predictors: list[str]
    seeds: list[int]
    weights: list[list[float]]  # of the predictors
    settings: list[dict[str, str]]  # what was chosen of a predictor besides its weight
    perplexity: dict[str, list[float]]  # by split


class Manifest(TypedDict):
    """What the commands in a sweep's folder were."""

    command: str  # what a user types to continue the last one
    cells: dict[str, str]  # labels, by the name of the cell's folder
    baselines: NotRequired[dict[str, dict[str, Any]]]  # by experiment: what its variants are compared with


class Trial(TypedDict):
    """Values that a search tried, and the result."""

    values: dict[str, Any]  # by key of the recipe
    perplexity: float | None  # None if the cell failed
    cell: str  # its folder


class Study(TypedDict):
    """The trials of one model."""

    study: str  # model, memory, seed
    validation_start: int  # of the characters that decide
    validation_chars: int | None
    trials: list[Trial]


class Search(TypedDict):
    """All studies of a search, and what they have in common."""

    seed: int
    space: dict[str, dict[str, Any]]
    studies: list[Study]
