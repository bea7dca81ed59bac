"""The command that trains a variant again, from its records alone.

A command names the groups that its config was composed of and every key that differs from what these compose to, so
that the same words give the same cell. It does not say where the text of WikiText-2 lies, nor where W&B is: neither
changes a cell.
"""

import functools
import re
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from hrm_bench.config.compose import COMPOSITION_ERRORS, conf_folder
from hrm_bench.records.schema import Record
from hrm_bench.report.settings import APART, flat, recipe_name

PROGRAM = "python -m hrm_bench"
NEVER = {"model.name", "memory.mode", "data.source", "data.path", "recipe.name", "seed"}  # told by a group, or apart
SIZE = re.compile(r"model\.(width|hidden_width|num_\w+)")
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")


class Composed(NamedTuple):
    """What some words compose to."""

    values: dict[str, Any]  # by key
    swept: frozenset[str]  # the keys that a sweep of these words runs through


def command(records: Sequence[Record]) -> str | None:
    """The command for these cells, which differ in their seed alone; None where conf/ cannot compose them any more."""
    found = words(records[0])
    if found is None:
        return None
    seeds = sorted({record["seed"] for record in records})
    sweep = " -m" if len(seeds) > 1 else ""
    return shlex.join([*(PROGRAM + sweep).split(), *found, f"seed={','.join(map(str, seeds))}"])


def whole(name: str) -> str | None:
    """The command that runs a whole experiment of conf/."""
    return f"{PROGRAM} -m experiment={name}" if _is_of_conf(name) else None


def recipe(model: str, name: str) -> dict[str, Any] | None:
    """The values of a recipe for a model, as conf/ has them; None where it has not."""
    if model not in _choices("model") or name not in _choices("recipe"):
        return None
    composed = _composed((f"model={model}", f"recipe={name}"))
    values = {} if composed is None else composed.values
    return {key.removeprefix("recipe."): value for key, value in values.items() if key.startswith("recipe.")}


def sizes(model: str) -> dict[str, int]:
    """A model's widths and numbers of things, as conf/ has them; none where it has not the model."""
    composed = _composed((f"model={model}",)) if model in _choices("model") else None
    values = {} if composed is None else composed.values
    return {key.removeprefix("model."): value for key, value in values.items() if SIZE.fullmatch(key)}


def words(record: Record) -> list[str] | None:
    """The overrides that compose a record's config, less its seed."""
    config, memoryless = record["config"], record["memory"] == "none" != record["config"]["memory"]["mode"]
    groups = _groups(record)
    composed = None if groups is None else _composed(tuple(groups))
    if groups is None or composed is None:
        return None
    if memoryless and "memory" not in composed.swept:
        groups = [word for word in groups if not word.startswith("memory=")]
    for key, value in flat(config):
        skipped = key in NEVER or key.startswith(APART) or (memoryless and key.startswith("memory."))
        if key in composed.swept - NEVER or (not skipped and composed.values.get(key, _NONE) != value):
            groups.append(f"{key}={_value(value)}")
    return groups


_NONE = object()  # equal to no value


def _groups(record: Record) -> list[str] | None:
    """The words that choose; None where conf/ lacks one of them."""
    config = record["config"]
    chosen = {"model": config["model"]["name"], "memory": config["memory"]["mode"], "data": config["data"]["source"]}
    if not all(choice in _choices(group) for group, choice in chosen.items()):
        return None
    name = config["experiment"]["name"]
    groups = [f"experiment={name}"] if _is_of_conf(name) else []
    groups += [f"model={chosen['model']}", f"memory={chosen['memory']}"]
    composed = _composed(tuple(groups))
    if composed is None or "data" in composed.swept or composed.values["data.source"] != chosen["data"]:
        groups.append(f"data={chosen['data']}")
    trained = recipe_name(record)
    told = composed is not None and "recipe" not in composed.swept and composed.values["recipe.name"] == trained
    if trained in _choices("recipe") and not told:
        groups.append(f"recipe={trained}")
    if chosen["data"] == "text_file":
        groups.append(f"data.path={_value(config['data']['path'])}")
    if not _is_of_conf(name) and name != "custom":
        groups.append(f"experiment.name={_value(name)}")
    return groups


def _is_of_conf(name: str) -> bool:
    return name != "custom" and name in _choices("experiment")


@functools.cache
def _choices(group: str) -> frozenset[str]:
    return frozenset(path.stem for path in (conf_folder() / group).glob("*.yaml"))


@functools.cache
def _composed(words: tuple[str, ...]) -> Composed | None:
    """What the words compose to, unchecked; None where they do not."""
    # The end of a sweep is inside of Hydra, which then has conf/ open and refuses to open it twice.
    inside = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if inside else hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
            cfg = hydra.compose("config", overrides=list(words), return_hydra_config=True)
    except COMPOSITION_ERRORS:
        return None
    swept = frozenset(cfg.hydra.sweeper.get("params") or {})
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return Composed(dict(flat(values)), swept)


def _value(value: Any) -> str:
    """A value as Hydra reads it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if not isinstance(value, str):
        return repr(value)
    if PLAIN.fullmatch(value) and value.lower() not in {"null", "true", "false", "inf", "nan"}:
        return value
    return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))
