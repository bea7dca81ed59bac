"""The identity of a cell: a hash of everything in its config that can change its figures."""

import hashlib
import importlib
import json
import typing
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hrm_bench.config.schema import VOCABULARIES, Schema, options, typed

OFF = options(Schema)  # all options, with the values that are off


def locate(target: str) -> type:
    """Return the class that a ``_target_`` names."""
    module, _, name = target.rpartition(".")
    return typing.cast(type, getattr(importlib.import_module(module), name))


def uses_memory(cfg: DictConfig) -> bool:
    """Return whether the model has a memory; most have one in every mode or in none."""
    model: Any = locate(cfg.model._target_)
    return bool(model.reads_memory(cfg.memory.mode, cfg.data.windows_per_sample))


def memory_mode(cfg: DictConfig) -> str:
    """Return the cell's memory mode; ``none`` for a model without memory, whatever was asked for."""
    return str(cfg.memory.mode) if uses_memory(cfg) else "none"


def identity(cfg: DictConfig, fingerprint: str) -> str:
    """Return twelve hexadecimal digits that stand for everything that can change the cell's figures.

    Names, paths, devices' logs and the memory of a model without one are left out. So are options that are off: a cell
    keeps its identity when options are added.

    Args:
        cfg: the cell's config.
        fingerprint: a hash of the characters that the cell reads.
    """
    return digest(described(cfg, fingerprint))


def digest(parts: dict[str, Any]) -> str:
    """Return twelve hexadecimal digits of what ``described`` returns."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def described(cfg: DictConfig, fingerprint: str) -> dict[str, Any]:
    """Return all values that an identity stands for, by group."""
    values = typed(typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True)))
    excluded = {"name"} if uses_memory(cfg) else {"name", "gate_learning_rate"}
    recipe = {key: value for key, value in _given(values, "recipe").items() if key not in excluded}
    trainer = {key: value for key, value in _given(values, "trainer").items() if key != "snapshot_seconds"}
    parts = {
        "model": _model(values["model"]),
        "memory": _memory(cfg, _given(values, "memory")),
        "data": {key: values["data"][key] for key in ("window", "order", "windows_per_sample")},
        "characters": fingerprint,
        "recipe": recipe,
        "trainer": {**trainer, "compile": "auto"},
        "seed": values["seed"],
    }
    if (vocabulary := values["data"]["vocabulary"]) != OFF["data"]["vocabulary"]:
        # The fingerprint has the content of a file.
        parts["vocabulary"] = vocabulary if vocabulary in VOCABULARIES else "file"
    if (limit := values["data"]["vocabulary_limit"]) is not None:
        parts["vocabulary_limit"] = limit
    if values["scale"] != 1:
        parts["scale"] = values["scale"]
    return parts


def _model(given: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a model without its label and without its options that are off."""
    off = getattr(getattr(locate(given["_target_"]), "Config", None), "OFF", {})
    kept = {key: value for key, value in given.items() if key != "name" and (key not in off or value != off[key])}
    return {key: _number(value) for key, value in kept.items()}


def _number(value: Any) -> Any:
    """Return 1 for 1.0, also within a group: these values are as they were typed, not as their class converts them."""
    if isinstance(value, dict):
        return {key: _number(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _memory(cfg: DictConfig, given: dict[str, Any]) -> dict[str, Any]:
    """Return what of the memory's values can change figures; some can even if nothing is ever written."""
    if memory_mode(cfg) != "none":
        return given
    kept = {"tie", "unroll"} if uses_memory(cfg) else {"unroll"}
    return {"mode": "none"} | {key: value for key, value in given.items() if key in kept}


def _given(values: dict[str, Any], group: str) -> dict[str, Any]:
    """Return the values of a group, without the options that are off."""
    off = OFF[group]
    return {key: value for key, value in values[group].items() if key not in off or value != off[key]}


def cell_name(cfg: DictConfig, fingerprint: str) -> str:
    """Return the name of the cell's folder: readable, and ending in its identity."""
    memory = [str(cfg.memory.mode)] if uses_memory(cfg) else []
    return "-".join([str(cfg.model.name), *memory, f"seed{cfg.seed}", identity(cfg, fingerprint)])
