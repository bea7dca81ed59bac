"""The process that runs a cell, such as a notebook: what the cell leaves as it was, and where libraries log to."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

OTHERS = "WANDB_"  # variables by which W&B finds its own service again
LEVELS = {  # by logger: what of it is kept in a cell's log
    "hrm_bench": logging.INFO,
    "lightning.pytorch": logging.WARNING,
    "lightning.fabric": logging.WARNING,
    "py.warnings": logging.WARNING,
}
EXPECTED_WARNINGS = (
    ".*does not have many workers.*",  # windows are indexed in memory: workers would have nothing to do
    "Checkpoint directory .* exists and is not empty",  # the checkpoint is in the cell's folder, beside its config
    "The `srun` command is available on your system.*",  # a cell is one task; Lightning would make each task a rank
    ".*treespec, LeafSpec.*",  # Lightning's own use of PyTorch
)


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


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what libraries log and warn of to a cell's log while it lasts, and nothing of it to the terminal."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with contextlib.ExitStack() as stack:
        stack.callback(handler.close)
        for name, level in LEVELS.items():
            logger = logging.getLogger(name)
            stack.callback(_configure, logger, logger.handlers, logger.propagate, logger.level)
            _configure(logger, [handler], False, level)
        logging.captureWarnings(True)
        stack.callback(logging.captureWarnings, False)
        stack.enter_context(warnings.catch_warnings())
        for message in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        yield


def _configure(logger: logging.Logger, handlers: list[Any], propagate: bool, level: int) -> None:
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)
