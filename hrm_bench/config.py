"""The typed schemas of every config group, the checks across them, and the identity of a cell.

Groups without a class (memory, data, recipe …) have a dataclass here. A group with a ``_target_`` (the model and its
objective) has its class's constructor for a schema: its keyword arguments, less those that ``build`` provides.
"""

import difflib
import hashlib
import importlib
import inspect
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import hydra
import omegaconf
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf

from hrm_bench.errors import UsageError, allowed, explain, no_such_key

COMPOSITION_ERRORS = (HydraException, omegaconf.errors.OmegaConfBaseException)
SWEEP_KEYS = ("force", "fail_fast", "plan")  # what a command does with its cells: no part of any of them
BASES = {"model": "hrm_bench.charlm.CharLM", "model.objective": "hrm_bench.objectives.Objective"}
PROVIDED = {"vocabulary_size", "window", "memory", "objective", "seed", "optimizer"}  # by build(), not by the config


def choice(*values: str) -> Any:
    """A field that takes one of these words."""
    return field(default=MISSING, metadata={"choices": values})


def number(*, at_least: float) -> Any:
    """A numeric field with a lower bound; one that may be null says so in its type."""
    return field(default=MISSING, metadata={"at_least": at_least})


def plain_name() -> Any:
    """A field that names folders."""
    return field(default=MISSING, metadata={"plain": True})


@dataclass
class MemorySchema:
    """When a lane's memory is emptied, read and written."""

    mode: str = choice("none", "reset", "carry")
    write: str = choice("after_window", "every_segment")
    rule: str = choice("linear", "delta")
    evaluation: str = choice("same", "reset")


@dataclass
class DataSchema:
    """The text, its windows and their order."""

    source: str = choice("wikitext2", "sample", "text_file")
    path: str | None = MISSING
    train_chars: int | None = number(at_least=1)
    validation_chars: int | None = number(at_least=1)
    test_chars: int | None = number(at_least=1)
    window: int = number(at_least=1)
    order: str = choice("shuffled", "contiguous")
    windows_per_sample: int = number(at_least=1)


@dataclass
class RecipeSchema:
    """How a model is trained."""

    max_epochs: int = number(at_least=1)
    patience: int = number(at_least=1)
    batch_size: int = number(at_least=1)
    evaluation_batch_size: int = number(at_least=1)
    learning_rate: float = number(at_least=0)
    weight_decay: float = number(at_least=0)
    gradient_clip: float = number(at_least=0)


@dataclass
class TrainerSchema:
    """What a cell runs on."""

    accelerator: str = choice("cpu", "gpu")
    devices: int = number(at_least=1)
    precision: str = choice("32-true", "bf16-mixed")
    micro_batches: int = number(at_least=1)
    num_threads: int = number(at_least=1)
    snapshot_seconds: float = number(at_least=0)


@dataclass
class LoggerSchema:
    """The mirror in W&B."""

    project: str = MISSING
    mode: str = choice("offline", "online", "disabled")


@dataclass
class ExperimentSchema:
    """What a sweep is called, and what its differences are taken to: values of model, memory or settings."""

    name: str = plain_name()
    baseline: dict[str, Any] = MISSING


@dataclass
class Schema:
    """A cell, wholly."""

    model: Any = MISSING
    memory: MemorySchema = field(default_factory=MemorySchema)
    data: DataSchema = field(default_factory=DataSchema)
    recipe: RecipeSchema = field(default_factory=RecipeSchema)
    trainer: TrainerSchema = field(default_factory=TrainerSchema)
    logger: LoggerSchema = field(default_factory=LoggerSchema)
    experiment: ExperimentSchema = field(default_factory=ExperimentSchema)
    seed: int = number(at_least=0)
    force: bool = False
    fail_fast: bool = False
    plan: bool = False


ConfigStore.instance().store(name="schema", node=Schema)


def conf_folder() -> Path:
    """conf/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def compose(*overrides: str) -> DictConfig:
    """The checked config of one cell, as ``python -m hrm_bench`` composes it from the same words.

    Raises UsageError, a line a fault, for an unknown key, group or value and for values that do not fit together.
    """
    try:
        with hydra.initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3"):
            cfg = hydra.compose("config", overrides=list(overrides))
    except (*COMPOSITION_ERRORS, ValueError) as error:  # Hydra says some of it in a plain ValueError
        raise UsageError(explain(error)) from error
    check(cfg)
    return cfg


def check(cfg: DictConfig) -> None:
    """Raise UsageError with every fault of the config, a line each."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise UsageError(explain(error)) from error
    values = typing.cast(dict[str, Any], values)
    faults = [*_class_faults("model", values["model"])] or [*_cross_faults(values)]
    faults += _schema_faults("", Schema, values)
    if faults:
        raise UsageError(*faults)


def _schema_faults(prefix: str, schema: type, values: Mapping[str, Any]) -> Iterator[str]:
    names = [item.name for item in fields(schema)]
    for name in values.keys() - names:
        yield no_such_key(f"{prefix}{name}", names)
    for item in fields(schema):
        key, value = f"{prefix}{item.name}", values[item.name]
        if hasattr(item.type, "__dataclass_fields__"):
            yield from _schema_faults(f"{key}.", typing.cast(type, item.type), value)
        elif "plain" in item.metadata:
            yield from _name_faults(key, value)
        elif "choices" in item.metadata:
            yield from _choice_faults(key, value, item.metadata["choices"])
        elif "at_least" in item.metadata and value is not None:
            yield from _number_faults(key, value, item.metadata["at_least"])


def _class_faults(key: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Compare a group that names a class with the keyword arguments of that class."""
    try:
        found = locate(settings["_target_"])
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{key}._target_={settings['_target_']}: cannot be imported ({error})"
        return
    base = locate(BASES[key])
    if not (isinstance(found, type) and issubclass(found, base)):  # a config from elsewhere must not name any function
        yield f"{key}._target_={settings['_target_']}: must be a subclass of {BASES[key]}"
        return
    parameters = inspect.signature(found).parameters
    expected = {name: each.annotation for name, each in parameters.items() if name not in PROVIDED}
    given = {name: value for name, value in settings.items() if name not in {"_target_", "name", "objective"}}
    for name in sorted(given.keys() - expected.keys()):
        yield no_such_key(f"{key}.{name}", expected)
    for name in sorted(expected.keys() - given.keys()):
        yield f"{key}.{name}: missing; give {key}.{name}=VALUE"
    for name in sorted(expected.keys() & given.keys()):
        yield from _argument_faults(f"{key}.{name}", given[name], expected[name])
    if "objective" in settings:
        yield from _class_faults(f"{key}.objective", settings["objective"])


def _argument_faults(key: str, value: Any, annotation: Any) -> Iterator[str]:
    if typing.get_origin(annotation) is Literal:
        yield from _choice_faults(key, value, typing.get_args(annotation))
    elif typing.get_origin(annotation) is Sequence:
        if not isinstance(value, list) or not value or any(type(each) is not int or each < 1 for each in value):
            yield f"{key}={value}: must be a list of whole numbers, at least 1 each; for example {key}=[1,2]"
    elif annotation is bool:
        if not isinstance(value, bool):
            yield f"{key}={value}: must be true or false"
    elif annotation is int and type(value) is not int:
        yield f"{key}={value}: must be a whole number"
    elif annotation is float and type(value) not in (int, float):
        yield f"{key}={value}: must be a number"
    elif annotation in (int, float):
        yield from _number_faults(key, value, 1 if annotation is int else 0)


def _choice_faults(key: str, value: Any, choices: Sequence[str]) -> Iterator[str]:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        yield f"{key}={value}: allowed are {allowed(choices)}; try {key}={near[0] if near else choices[0]}"


def _name_faults(key: str, value: str) -> Iterator[str]:
    if not re.fullmatch(r"\w[\w.-]*", value, re.ASCII):
        yield f"{key}={value}: names a folder: allowed are letters, digits, _, - and dots inside; try {key}=mine"


def _number_faults(key: str, value: float, at_least: float) -> Iterator[str]:
    if not value >= at_least or value == float("inf"):
        yield f"{key}={value}: must be at least {at_least} and finite; try {key}={at_least}"


def _cross_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Faults between values that are each allowed. They speak by the names that models share for the same things."""
    model = values["model"]
    yield from _name_faults("model.name", str(model.get("name")))
    width, num_heads = model.get("width"), model.get("num_heads")
    if width and num_heads and width % (2 * num_heads):
        fitting = [n for n in range(1, width // 2 + 1) if width % (2 * n) == 0]
        nearest = min(fitting, key=lambda n: abs(n - num_heads), default=None)
        hint = f"try model.num_heads={nearest}" if nearest else "try model.width=64"
        yield f"model.num_heads={num_heads}: must divide model.width={width} into heads of even width; {hint}"
    if "periods" in model and "num_cycles" in model:
        steps = model["num_cycles"] * model["num_timesteps"]
        if model.get("gradient_depth", 1) > steps:
            yield (
                f"model.gradient_depth={model['gradient_depth']}: a segment has num_cycles·num_timesteps = {steps} "
                f"steps; try model.gradient_depth={steps}"
            )
        if any(steps % period for period in model["periods"]):
            yield (
                f"model.periods={model['periods']}: each must divide num_cycles·num_timesteps = {steps}, the steps "
                f"of a segment; try model.num_timesteps={math.lcm(*model['periods'])}"
            )
    if values["data"]["source"] == "text_file" and values["data"]["path"] is None:
        yield "data.path=null: data=text_file reads a file; give data.path=FILE"
    yield from _trainer_faults(values["trainer"], values["model"]["objective"]["_target_"])


def _trainer_faults(trainer: Mapping[str, Any], objective: str) -> Iterator[str]:
    if trainer["accelerator"] == "gpu":
        import torch

        if not torch.cuda.is_available():
            yield "trainer.accelerator=gpu: no GPU is available to PyTorch on this machine; try trainer.accelerator=cpu"
        elif trainer["devices"] > torch.cuda.device_count():
            most = torch.cuda.device_count()
            yield f"trainer.devices={trainer['devices']}: this machine has {most} GPUs; try trainer.devices={most}"
    for key in ("devices", "micro_batches"):
        if trainer[key] > 1 and not getattr(locate(objective), "separable", True):
            name = objective.rpartition(".")[2]
            yield f"trainer.{key}={trainer[key]}: {name} takes batches whole; only 1 is allowed: trainer.{key}=1"


def locate(target: str) -> type:
    """The class of a ``_target_``."""
    module, _, name = target.rpartition(".")
    return typing.cast(type, getattr(importlib.import_module(module), name))


def uses_memory(cfg: DictConfig) -> bool:
    """Whether the model reads a memory at all, whatever its mode."""
    return bool(getattr(locate(cfg.model._target_), "uses_memory", False))


def memory_mode(cfg: DictConfig) -> str:
    """The cell's memory mode; ``none`` for a model without memory, whatever was asked for."""
    return str(cfg.memory.mode) if uses_memory(cfg) else "none"


def identity(cfg: DictConfig, fingerprint: str) -> str:
    """Twelve hexadecimal digits that stand for all that can change the cell's figures.

    ``fingerprint`` is a hash of the characters that are used. Names, paths and where the cell runs or logs are left
    out, and so is the memory of a model that has none.
    """
    values = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    described = {
        "model": {key: value for key, value in values["model"].items() if key != "name"},
        "memory": values["memory"] if memory_mode(cfg) != "none" else {"mode": "none"},
        "data": {key: values["data"][key] for key in ("window", "order", "windows_per_sample")},
        "characters": fingerprint,
        "recipe": values["recipe"],
        "trainer": {key: value for key, value in values["trainer"].items() if key != "snapshot_seconds"},
        "seed": values["seed"],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def cell_name(cfg: DictConfig, fingerprint: str) -> str:
    """The name of the cell's folder: readable, and ending in its identity."""
    memory = [str(cfg.memory.mode)] if uses_memory(cfg) else []
    return "-".join([str(cfg.model.name), *memory, f"seed{cfg.seed}", identity(cfg, fingerprint)])
