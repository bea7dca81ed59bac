"""Times of several ways to do the same, taken side by side, and what they are to each other.

The ways take turns (A B A B …), so that whatever else the machine does falls on all of them alike, and a ratio is taken
within each round before its median is.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy
import torch

WARM_UP = 2  # rounds that are not counted


class Quartiles(NamedTuple):
    """The middle of some measurements and the half of them around it."""

    low: float
    median: float
    high: float

    def scaled(self, factor: float) -> "Quartiles":
        """In another unit; the factor is positive."""
        return Quartiles(*(value * factor for value in self))


def quartiles(values: Sequence[float]) -> Quartiles:
    """Of one value at least; between two neighbours linearly."""
    return Quartiles(*(float(value) for value in numpy.percentile(values, (25, 50, 75))))


def ratios(dividends: Sequence[float], divisors: Sequence[float]) -> Quartiles:
    """Quartiles of the ratios, each of one round."""
    return quartiles([dividend / divisor for dividend, divisor in zip(dividends, divisors, strict=True)])


class Place(NamedTuple):
    """What something runs on."""

    device: str  # cpu | cuda
    threads: int

    def __str__(self) -> str:
        if self.device == "cuda":
            return torch.cuda.get_device_name()
        return "1 thread" if self.threads == 1 else f"{self.threads} threads"


@contextmanager
def at(place: Place) -> Iterator[None]:
    """Run with the place's number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(place.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect garbage now, and not while this lasts."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def interleave(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = WARM_UP,
    repeats: Mapping[str, int] | None = None,
) -> dict[str, list[float]]:
    """Seconds that each way takes, a value a round; the ways take turns, and the first rounds are not counted.

    ``repeats``: how often a way is done in its turn (default once), so that short ones can be timed; the seconds are
    those of doing it once.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    with no_collection():
        for turn in range(-warm_up, rounds):
            for name, way in ways.items():
                seconds = timed(way, (repeats or {}).get(name, 1))
                if turn >= 0:
                    found[name].append(seconds)
    return found


def timed(way: Callable[[], object], times: int = 1) -> float:
    """Seconds that it takes, the mean of so many times."""
    synchronise()
    started = time.perf_counter()
    for _ in range(times):
        way()
    synchronise()
    return (time.perf_counter() - started) / times


def synchronise() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
