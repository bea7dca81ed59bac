"""The identity of a cell: a hash of all that can change its figures."""

import hashlib
import importlib
import json
import typing
from dataclasses import fields
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from hrm_bench.config.schema import RecipeSchema

# The recipe's options, by key, and the value that leaves everything as it is without them.
OFF = {each.name: each.metadata["off"] for each in fields(RecipeSchema) if "off" in each.metadata}


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
    out, and so are the memory of a model that has none, its gates' rate too, and options that are off: a cell keeps its
    identity when new ones are added.
    """
    values = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    told_not = {"name"} if uses_memory(cfg) else {"name", "gate_learning_rate"}
    recipe = {key: value for key, value in values["recipe"].items() if key not in told_not}
    described = {
        "model": {key: value for key, value in values["model"].items() if key != "name"},
        "memory": values["memory"] if memory_mode(cfg) != "none" else {"mode": "none"},
        "data": {key: values["data"][key] for key in ("window", "order", "windows_per_sample")},
        "characters": fingerprint,
        "recipe": {key: value for key, value in recipe.items() if value != OFF.get(key, MISSING)},
        "trainer": {key: value for key, value in values["trainer"].items() if key != "snapshot_seconds"},
        "seed": values["seed"],
    }
    if values["scale"] != 1:
        described["scale"] = values["scale"]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]


def cell_name(cfg: DictConfig, fingerprint: str) -> str:
    """The name of the cell's folder: readable, and ending in its identity."""
    memory = [str(cfg.memory.mode)] if uses_memory(cfg) else []
    return "-".join([str(cfg.model.name), *memory, f"seed{cfg.seed}", identity(cfg, fingerprint)])
