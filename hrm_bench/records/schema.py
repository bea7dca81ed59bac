"""What a record has: the result of one cell, complete without its neighbours."""

from typing import Any, Literal, NotRequired, TypedDict

from hrm_bench.evidence.measures import Score

SCHEMA_VERSION = 3


Floors = dict[str, dict[str, float]]  # floor, way → perplexity a character


# Busy (in another process) and waiting (it has not begun) are said of a cell, and never written.
Status = Literal["finished", "failed", "interrupted", "busy", "waiting"]


class Epoch(TypedDict):
    """One row of a cell's history."""

    epoch: int  # from 1
    train_nll: float  # mean over the epoch, last segment of each window, nats a character
    validation_nll: float
    validation_perplexity: float
    seconds: float  # of training, since the cell's first epoch began
    memory_share: NotRequired[float]  # of a model with a memory: what its gates give to it, mean over validation text
    memory_norm: NotRequired[float]  # and the norm of a memory's matrix at the end of that text, mean over its heads


class Leak(TypedDict):
    """How much of the future any logit shows, by both audits; 0 but for rounding where a model is causal."""

    perturbation: float  # the largest change of a logit when a later character changes
    gradient: float  # the largest gradient of a logit in a later character's embedding


class MemoryUse(TypedDict):
    """Perplexity a character of one text, read with the model's own memory and with others in its place."""

    own: float
    zeroed: float  # an empty one before each window
    another_lane: float  # at each window, that of a lane which has read as much of the other scored text


class Record(TypedDict, total=False):
    """What a cell leaves behind; an unfinished one ends at ``wandb``, a finished one has no reason."""

    schema_version: int
    identity: str
    status: Status
    code: str  # a hash of the source that its figures follow from, and of PyTorch's version
    config: dict[str, Any]
    text: str  # twelve hexadecimal digits of a hash of the characters that are used; older records lack it
    model: str
    memory: str  # none | reset | carry
    seed: int
    parameters: int
    versions: dict[str, str]
    reason: str  # why it is not finished
    log: str
    notes: list[str]  # what else is to be known of how it ran; most have none
    wandb: str  # offline | online | disabled, as it came to be
    history: list[Epoch]
    best_epoch: int  # chosen on validation
    validation: Score
    test: Score
    gradient_coverage: dict[str, list[str]]  # which losses reach each component
    leak: dict[str, Leak]  # before_training and best: of the best checkpoint
    causal: bool  # whether all of these are but rounding
    bits_by_position: dict[str, list[float]]  # of each scored split: bits a character, by place in the window
    memory_use: dict[str, MemoryUse]  # of each scored split; empty without a memory that is ever written
    state_size: int  # numbers that a lane carries from window to window
    flops_per_character: float  # of reading, without training: twice the multiply-adds of all matrix products
    unknown_characters: dict[str, int]  # of each split, read as the vocabulary's first symbol
    floors: dict[str, Floors]  # perplexity of counting models on each scored split: floor, way
    seconds: float  # the whole cell
    train_seconds: float
    characters_per_second: float  # that training reads, the text of a teacher among them
    peak_memory: int  # bytes: of the process on a CPU, of the allocator on a GPU
