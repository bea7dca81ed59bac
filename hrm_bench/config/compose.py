"""Composing a cell's config, the checks of all its values, and the cell's identity.

Groups without a class (memory, data, recipe …) have a dataclass in ``schemas``. A group with a ``_target_`` (the model
and its objective) has its class's constructor for a schema: its keyword arguments, less those that ``build`` provides.
"""

import difflib
import inspect
import math
import os
import re
import shutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import hydra
import omegaconf
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from hrm_bench.config.identity import locate
from hrm_bench.config.schema import Schema
from hrm_bench.errors import UsageError, allowed, explain, no_such_key

COMPOSITION_ERRORS = (HydraException, omegaconf.errors.OmegaConfBaseException)
SWEEP_KEYS = ("force", "fail_fast", "plan")  # what a command does with its cells: no part of any of them
BASES = {"model": "hrm_bench.charlm.CharLM", "model.objective": "hrm_bench.objectives.Objective"}
PROVIDED = {"vocabulary_size", "window", "memory", "objective", "seed", "optimizer"}  # by build(), not by the config


def conf_folder() -> Path:
    """conf/: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
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
            yield from _number_faults(key, value, item.metadata["at_least"], item.metadata["at_most"])


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


def _number_faults(key: str, value: float, at_least: float, at_most: float = math.inf) -> Iterator[str]:
    if at_most < math.inf and not at_least <= value <= at_most:
        yield f"{key}={value}: must be from {at_least} to {at_most}; try {key}={max(at_least, min(value, at_most))}"
    elif not value >= at_least or value == math.inf:
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
        for group, has_depth in (("model", True), ("recipe", "gradient_depth" in model)):
            depth = values[group].get("gradient_depth")
            if has_depth and depth is not None and depth > steps:
                yield (
                    f"{group}.gradient_depth={depth}: a segment has num_cycles·num_timesteps = {steps} "
                    f"steps; try {group}.gradient_depth={steps}"
                )
        if any(steps % period for period in model["periods"]):
            yield (
                f"model.periods={model['periods']}: each must divide num_cycles·num_timesteps = {steps}, the steps "
                f"of a segment; try model.num_timesteps={math.lcm(*model['periods'])}"
            )
    if values["data"]["source"] == "text_file" and values["data"]["path"] is None:
        yield "data.path=null: data=text_file reads a file; give data.path=FILE"
    recipe = values["recipe"]
    lanes = recipe["distillation"] * recipe["batch_size"]
    if math.isfinite(lanes) and lanes % 1:
        share = max(1, round(lanes)) / recipe["batch_size"]
        size = recipe["batch_size"]
        yield (
            f"recipe.distillation={recipe['distillation']}: times recipe.batch_size={size} is {lanes:g} "
            f"lanes of a batch, which must be a whole number; try recipe.distillation={share:g}"
        )
    yield from _trainer_faults(values["trainer"], values["model"]["objective"]["_target_"])


def _trainer_faults(trainer: Mapping[str, Any], objective: str) -> Iterator[str]:
    if trainer["accelerator"] == "gpu":
        import torch

        if not torch.cuda.is_available():
            yield "trainer.accelerator=gpu: no GPU is available to PyTorch on this machine; try trainer.accelerator=cpu"
        elif trainer["devices"] > torch.cuda.device_count():
            most = torch.cuda.device_count()
            yield f"trainer.devices={trainer['devices']}: this machine has {most} GPUs; try trainer.devices={most}"
    if trainer["compile"] == "always" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        yield "trainer.compile=always: takes g++ or clang++, and neither is here; try trainer.compile=never"
    for key in ("devices", "micro_batches"):
        if trainer[key] > 1 and not getattr(locate(objective), "separable", True):
            name = objective.rpartition(".")[2]
            yield f"trainer.{key}={trainer[key]}: {name} takes batches whole; only 1 is allowed: trainer.{key}=1"


def not_searched(choices: Mapping[str, str | None]) -> str | None:
    """What to say of a recipe that has searched values for other models and none for this; ``choices`` are Hydra's."""
    model = choices.get("recipe/tuned@recipe")
    if model is None or (conf_folder() / "recipe" / "tuned" / f"{model}.yaml").exists():
        return None
    return (
        f"recipe={choices['recipe']}: no search has been made for model={model}, which takes the values of "
        f"recipe=tuned_by_hand; to search as for the others: python -m hrm_bench -m experiment=tuning model={model}, "
        f"then copy recipes/{model}.yaml from its folder to conf/recipe/tuned/"
    )
