"""Times of several implementations that take turns (A B A B ...), and quartiles of their ratios.

Whatever else the machine does slows all of them alike. A ratio is taken within each round, before the quartiles are.
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
    """The median of some measurements, and the half of them around it."""

    low: float
    median: float
    high: float


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles of one or more values, linear between neighbours."""
    return Quartiles(*(float(value) for value in numpy.percentile(values, (25, 50, 75))))


def ratios(dividends: Sequence[float], divisors: Sequence[float]) -> Quartiles:
    """Return the quartiles of the ratios, one per round."""
    return quartiles([dividend / divisor for dividend, divisor in zip(dividends, divisors, strict=True)])


class Device(NamedTuple):
    """The device and threads that something runs on."""

    type: str  # cpu | cuda
    threads: int

    def __str__(self) -> str:
        if self.type == "cuda":
            return torch.cuda.get_device_name()
        return "1 thread" if self.threads == 1 else f"{self.threads} threads"


@contextmanager
def use(device: Device) -> Iterator[None]:
    """Run with the device's number of threads, and without collecting garbage."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(device.threads)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()


def interleave(
    works: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Return the seconds of each work, one value per round."""
    timings: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm_up, rounds):
        for name, work in works.items():
            seconds = timed(work)
            if turn >= 0:
                timings[name].append(seconds)
    return timings


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that the work takes."""
    synchronise()
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started


def synchronise() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
