"""Whether training is compiled: decided once per sweep folder and architecture, and kept in the folder.

Compiling takes half a minute for an architecture that is new to this machine, and seconds in every further process,
which reads the compiled code from PyTorch's cache on disk. Another model of the architecture in one process costs
nothing. So what decides is how long all cells of an architecture train together.
"""

import contextlib
import copy
import hashlib
import inspect
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import filelock
import torch
from omegaconf import DictConfig

from hrm_bench import numerics
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.host import undisturbed
from hrm_bench.charlm import Batch, CharLM
from hrm_bench.config.compose import has_compiler
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.table import count
from hrm_bench.training.bare import without_trainer
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.fit import lanes_per_batch, num_epochs

DECISIONS_FILE = "compile.json"  # in a sweep's folder: by architecture, whether its cells are compiled, and why
SECONDS_NEW = 40.0  # to compile an architecture that this machine has not compiled
SECONDS_CACHED = 4.0  # to read it from the cache, per process
GAIN = 0.17  # of the seconds of a step; measured: 0.12 (transformer) to 0.26 (Infini-HRM)
NO_GAIN = ("hrm_bench.models.lstm.LSTM",)  # its time is in one operation of PyTorch's own
MARGIN = 2.0  # how often the gain must cover the seconds that compiling takes
EARLY = 0.5  # fraction of the maximum of epochs that cells with patience train, about
FEWEST_WINDOWS = 1000  # batches of windows of all cells together; below, nothing is measured and nothing compiled


class Decision(NamedTuple):
    """Whether the cells of an architecture are compiled, and why."""

    compiled: bool
    reason: str


def is_compiled(cell: Cell) -> bool:
    """Return whether a cell's training is compiled: by its config, or by the decision in its sweep's folder."""
    trainer = cell.config.trainer
    if trainer.compile != "auto":
        return bool(trainer.compile == "always")
    decision = read(cell.folder.parent).get(program(cell.config))
    return decision is not None and decision.compiled


def program(cfg: DictConfig) -> str:
    """Return a digest of all that the compiled code depends on."""
    values = {
        "model": {key: value for key, value in cfg.model.items() if key not in ("name", "objective")},
        "memory": dict(cfg.memory),
        "window": cfg.data.window,
        "vocabulary": [cfg.data.vocabulary, cfg.data.vocabulary_limit],
        "lanes": lanes_per_batch(cfg),
        "rates": [value for key, value in sorted(cfg.recipe.items()) if str(key).endswith("dropout")],
        "others": [cfg.scale, cfg.recipe.gradient_depth, cfg.trainer.micro_batches, cfg.trainer.precision],
        "machine": [version("torch"), numerics.capability()],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()[:12]


def read(root: Path) -> dict[str, Decision]:
    """Return the decisions in a sweep's folder, by architecture."""
    return {key: Decision(*values) for key, values in (store.read_json(root / DECISIONS_FILE) or {}).items()}


def decide(cells: Sequence[Cell], root: Path, *, remembers: bool = False) -> dict[str, Decision]:
    """Return a decision for each architecture of the cells that are to run and whose config says ``auto``.

    One that the folder has stays, so that no sweep changes its mind half-way. With ``remembers``, new ones are kept.
    Raises UsageError if a cell's config says ``always`` and this machine cannot compile.
    """
    groups = defaultdict[str, list[Cell]](list)
    if any(cell.config.trainer.compile == "always" for cell in cells) and (missing := obstacle()):
        raise UsageError(f"trainer.compile=always: {missing}, or try trainer.compile=never")
    for alike in _but_for_seed(cells):
        if alike[0].config.trainer.compile == "auto":
            groups[program(alike[0].config)] += alike
    kept = read(root)
    decisions = {key: kept.get(key) or _decision(key, group) for key, group in groups.items()}
    if remembers and decisions.keys() - kept.keys():
        store.write_json(root / DECISIONS_FILE, kept | decisions)
    return decisions


def _decision(key: str, cells: Sequence[Cell]) -> Decision:
    cfg = cells[0].config
    name, trainer = cfg.model.name, cfg.trainer
    if trainer.numerics == "portable":
        return Decision(False, f"model={name} is not compiled: trainer.numerics=portable")
    if trainer.accelerator != "cpu" or trainer.devices > 1:
        return Decision(False, f"model={name} is not compiled: only trainer.compile=always compiles on GPUs or ranks")
    if cfg.model._target_ in NO_GAIN:
        return Decision(False, f"model={name} is not compiled: it would gain nothing")
    num_windows = sum(len(alike) * _num_windows(alike[0]) for alike in _but_for_seed(cells))
    if num_windows < FEWEST_WINDOWS:
        return Decision(False, f"model={name} is not compiled: {num_windows:,.0f} batches of windows are soon trained")
    if missing := obstacle():
        return Decision(False, f"model={name} is not compiled: {missing}")
    seconds = num_windows * _seconds_per_window(cells[0])
    is_cached = _mark(key).exists()
    price = (SECONDS_CACHED if is_cached else SECONDS_NEW) + SECONDS_CACHED * (min(len(cells), os.cpu_count() or 1) - 1)
    pays = GAIN * seconds > MARGIN * price
    gain = f"compiling saves about {GAIN * seconds:,.0f} s and takes about {price:,.0f} s"
    cells_train = f"training {count(len(cells), 'cell')} takes about {seconds:,.0f} s"
    return Decision(pays, f"model={name} is {'' if pays else 'not '}compiled: {cells_train}; {gain}")


def obstacle() -> str | None:
    """Return why this machine cannot compile, or None if it can."""
    if not has_compiler():
        return "this machine has neither g++ nor clang++"
    if "recompile_limit" not in inspect.signature(torch.compile).parameters:  # which CharLM.compile_training needs
        return f"PyTorch {torch.__version__} cannot keep the compiled code of many models; a later one can"
    try:
        folder = _cache()  # which creates it
    except OSError as error:
        return f"its cache {error.filename} cannot be written ({error.strerror}); TORCHINDUCTOR_CACHE_DIR names another"
    if not os.access(folder, os.W_OK):
        return f"its cache {folder} cannot be written; TORCHINDUCTOR_CACHE_DIR names another"
    return None


def warm_up(model: CharLM, cfg: DictConfig) -> None:
    """Compile an architecture with a copy of the model, unless this process has.

    If it is new to this machine, one process compiles it and the others wait for its cache.
    """
    key = program(cfg)
    twin = copy.deepcopy(model)
    twin.compile_training(math.ceil(lanes_per_batch(cfg) / cfg.trainer.micro_batches))
    with _alone(key), undisturbed():
        without_trainer(twin)(_batch(twin, cfg))
        _mark(key).touch()


@contextlib.contextmanager
def _alone(key: str) -> Iterator[None]:
    """Let one process at a time compile an architecture that is new to this machine."""
    if _mark(key).exists():
        yield
        return
    with filelock.FileLock(_mark(key).with_suffix(".lock")):
        yield


def _cache() -> Path:
    """Return the folder of PyTorch's cache of compiled code."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # which no public name gives

    return Path(cache_dir())


def _mark(key: str) -> Path:
    """Return the file that says that this machine has compiled an architecture; it goes when the cache goes."""
    return _cache() / f"hrm_bench-{key}.done"


def _but_for_seed(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group cells that differ in their seed alone; a sweep has many, and what they share is computed once."""
    groups = defaultdict[str, list[Cell]](list)
    for cell in cells:
        groups[cell.but_for_seed].append(cell)
    return [*groups.values()]


def _num_windows(cell: Cell) -> float:
    """Return how many batches of windows a cell trains on, about."""
    cfg, windows = cell.config, load_windows(cell.config, cell.corpus)
    epochs = num_epochs(cfg, windows) * (1.0 if cfg.recipe.patience is None else EARLY)
    return epochs * math.ceil(windows.batches.num_samples / cfg.recipe.batch_size) * float(cfg.data.windows_per_sample)


def _batch(model: CharLM, cfg: DictConfig) -> Batch:
    """Return one window of random characters, with as many lanes as training has, transforms not counted."""
    num_lanes = math.ceil(cfg.recipe.batch_size / cfg.trainer.devices)
    tokens = torch.randint(model.vocabulary_size, (num_lanes, model.window + 1))
    return tokens[:, :-1], tokens[:, 1:]


def training_seconds(cells: Sequence[Cell]) -> list[float]:
    """Estimate how long each of these cells trains, not compiled, from a few steps of each architecture."""
    timed: dict[str, float] = {}
    for cell in cells:
        if (key := program(cell.config)) not in timed:
            timed[key] = _seconds_per_window(cell)
    return [_num_windows(cell) * timed[program(cell.config)] for cell in cells]


def _seconds_per_window(cell: Cell) -> float:
    """Measure how long the steps of a batch of windows take, not compiled."""
    cfg, seconds = cell.config, []
    with undisturbed():
        torch.set_num_threads(cfg.trainer.num_threads)
        model = build(cfg, len(cell.corpus.vocabulary))
        train, batch = without_trainer(model), _batch(model, cfg)
        for _ in range(3):
            started = time.perf_counter()
            train(batch)
            seconds.append(time.perf_counter() - started)
    return min(seconds)
