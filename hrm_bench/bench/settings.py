"""How large a run of the benchmark is, and the configs and texts that its parts share."""

import difflib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from omegaconf import DictConfig

from hrm_bench.bench.timing import Place
from hrm_bench.charlm import Batch
from hrm_bench.config import compose
from hrm_bench.errors import UsageError, allowed
from hrm_bench.training.build import load_windows

LANES, SCORED = 16, 78  # windows of a training batch and of an evaluation batch, as published
SMALL_DATA = ["data.window=8", "data.train_chars=2000", "data.validation_chars=1000", "data.test_chars=1000"]
SMALL_MODEL = {"width": 16, "num_heads": 2, "hidden_width": 24}
COMPILED = ("hrm", "infini_hrm")  # by default: compiling a model takes longer than all else that is measured of it


def all_models() -> list[str]:
    """Every model of conf/model."""
    return sorted(path.stem for path in (compose.conf_folder() / "model").glob("*.yaml"))


def distinct_models() -> list[str]:
    """The first of each class and number of levels: what the others compute takes as long."""
    found: dict[tuple[str, int], str] = {}
    for name in all_models():
        model = compose.compose("data=sample", f"model={name}").model
        found.setdefault((model._target_, len(model.get("periods", ()))), name)
    return list(found.values())


@dataclass(frozen=True)
class Settings:
    """What was asked for. ``quick``: small models and few rounds."""

    quick: bool
    models: tuple[str, ...]
    compiled: tuple[str, ...]
    seeds: int  # cells of a sweep

    @property
    def rounds(self) -> int:
        """Of short measurements."""
        return 3 if self.quick else 9

    @property
    def few(self) -> int:
        """Rounds of long ones."""
        return 1 if self.quick else 3

    @property
    def places(self) -> list[Place]:
        """One thread, two where there are two cores, the GPU where there is one; of a quick run the first alone."""
        found = [Place("cpu", 1)]
        if (os.cpu_count() or 1) > 1:
            found.append(Place("cpu", 2))
        if torch.cuda.is_available():
            found.append(Place("cuda", 1))
        return found[:1] if self.quick else found

    def words(self, model: str, source: str = "sample") -> list[str]:
        """What a command says to have the same as ``cfg``."""
        words = [f"data={source}", f"model={model}"]
        if self.quick:
            given = compose.compose(*words).model
            words += SMALL_DATA + [f"model.{key}={value}" for key, value in SMALL_MODEL.items() if key in given]
        return words

    def cfg(self, model: str, *words: str) -> DictConfig:
        """The config of one model on the bundled text."""
        return compose.compose(*self.words(model), *words)

    def is_compiled(self, model: str, place: Place) -> bool:
        """Whether the model is also measured compiled: not on a second thread, which would compile all of it again."""
        return model in self.compiled and place.threads == 1


def check_models(key: str, names: list[str]) -> tuple[str, ...]:
    """The models of a word. Raises UsageError for one that there is not."""
    known = all_models()
    faults = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            faults.append(f"{key}={name}: allowed are {allowed(known)}; try {key}={near[0] if near else known[0]}")
    if faults:
        raise UsageError(*faults)
    return tuple(names)


def training_batches(cfg: DictConfig, place: Place) -> Iterator[Batch]:
    """Whole batches of the training text, one epoch again and again."""
    data = load_windows(cfg)
    batches = [data.train[wanted] for wanted in data.batches if len(wanted) == LANES]
    return cycle([on(batch, place) for batch in batches])


def scored_batch(cfg: DictConfig, place: Place) -> Batch:
    """The first windows of the validation text."""
    return on(load_windows(cfg).validation[list(range(SCORED))], place)


def on(batch: Batch, place: Place) -> Batch:
    """The batch on the place's device."""
    tokens, targets = batch
    return tokens.to(place.device), targets.to(place.device)
