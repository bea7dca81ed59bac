"""How large a run of the benchmarks is, and the configs and texts that its parts share."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from omegaconf import DictConfig
from torch import Tensor

from benchmarks.timing import Device
from hrm_bench.config import compose
from hrm_bench.config.words import conf_folder
from hrm_bench.training.build import load_windows

Batch = tuple[Tensor, Tensor]  # (B, T) characters and the characters that follow them

LANES, SCORED_LANES = 16, 78  # windows of a training batch and of an evaluation batch, as published
SMALL_DATA = ["data.window=8", "data.train_chars=2000", "data.validation_chars=1000", "data.test_chars=1000"]
SMALL_MODEL = {"width": 16, "num_heads": 2, "hidden_width": 24}


@dataclass(frozen=True)
class Settings:
    """The settings of a run; ``quick`` takes small models and few rounds."""

    quick: bool
    models: tuple[str, ...]
    compiled: tuple[str, ...]  # models that are also measured compiled
    num_seeds: int  # cells of a sweep
    against: str = ""  # the commit that a sweep is compared with

    @property
    def rounds(self) -> int:
        """Rounds of short measurements."""
        return 3 if self.quick else 9

    @property
    def few_rounds(self) -> int:
        """Rounds of long measurements."""
        return 1 if self.quick else 3

    @property
    def devices(self) -> list[Device]:
        """One thread, two if there are two cores, and the GPU if there is one; a quick run takes the first."""
        devices = [Device("cpu", 1)]
        if (os.cpu_count() or 1) > 1:
            devices.append(Device("cpu", 2))
        if torch.cuda.is_available():
            devices.append(Device("cuda", 1))
        return devices[:1] if self.quick else devices

    def words(self, model: str, source: str = "sample") -> list[str]:
        """Return the words of a command that trains one model."""
        words = [f"data={source}", f"model={model}"]
        if self.quick:
            keys = compose.compose(*words).model
            words += SMALL_DATA + [f"model.{key}={value}" for key, value in SMALL_MODEL.items() if key in keys]
        return words

    def config(self, model: str, *words: str) -> DictConfig:
        """Return the config of one model on the bundled text."""
        return compose.compose(*self.words(model), *words)

    def is_compiled(self, model: str, device: Device) -> bool:
        """Return whether the model is also compiled here; not for a second thread, which would compile it again."""
        return model in self.compiled and device.threads == 1


def all_models() -> list[str]:
    """Return every model of conf/model."""
    return sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))


def training_batches(config: DictConfig, device: Device) -> Iterator[Batch]:
    """Yield the whole batches of one epoch, again and again."""
    data = load_windows(config)
    batches = [data.train[indices] for indices in data.batches if len(indices) == LANES]
    return cycle([on(device, batch) for batch in batches])


def scored_batch(config: DictConfig, device: Device) -> Batch:
    """Return the first windows of the validation text."""
    return on(device, load_windows(config).validation[list(range(SCORED_LANES))])


def on(device: Device, batch: Batch) -> Batch:
    """Return the batch on a device."""
    tokens, targets = batch
    return tokens.to(device.type), targets.to(device.type)
