"""What a cell leaves as it found it in the process that runs it, such as a notebook or another program."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy
import torch

OTHERS = "WANDB_"  # variables by which W&B finds its own service again


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Give back the environment, the threads of PyTorch, and the random streams of Python, NumPy and PyTorch.

    A CPU cell leaves GPUs alone, so their streams need no care.
    """
    environment, num_threads = dict(os.environ), torch.get_num_threads()
    streams = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(streams[0])
        numpy.random.set_state(streams[1])
        torch.set_num_threads(num_threads)
        for name in os.environ.keys() | environment.keys():
            if name.startswith(OTHERS):
                continue
            if name in environment:
                os.environ[name] = environment[name]
            else:
                del os.environ[name]
