"""Compose a cell's config from words such as ``model=hrm seed=3``, and check all its values at once."""

import contextlib
import os
import re
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

# These are private. The public hydra.compose works through global state, so it fails inside another Hydra program.
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, errors, open_dict

from hrm_bench.config.classes import BASES, callback, class_faults, name_faults
from hrm_bench.config.identity import locate
from hrm_bench.config.schema import Schema, keys, options, shown, typed
from hrm_bench.config.words import NOT_UNDERSTOOD, check_words, conf_folder, understood
from hrm_bench.errors import UsageError, choices, meant, no_such_key

COMPOSITION_ERRORS = (HydraException, errors.OmegaConfBaseException)
SWEEP_KEYS = ("force", "fail_fast", "plan")  # what a command does with its cells: part of no cell
OLDEST = {"recipe": {"name": "published"}}  # values of configs that are older than their keys


def compose(*words: str, folder: str | os.PathLike[str] | None = None) -> DictConfig:
    """Return the checked config of one cell, as ``python -m hrm_bench`` composes it from the same words.

    ``folder`` is that of a study: its conf/ lies beside ours, and its modules are found by name.

    Raises UsageError with one line per fault: an unknown key, group or value, or values that do not fit together.
    """
    if folder is not None:
        words = (*words, f"--config-dir={Path(folder) / 'conf'}")
        if (place := str(Path(folder).absolute())) not in sys.path:
            sys.path.insert(0, place)
    cfg = unchecked(*words)
    check(cfg)
    return cfg


def unchecked(*words: str) -> DictConfig:
    """Return the config of one cell, with values that are not checked and not resolved.

    The words may contain ``--config-dir FOLDER``: a folder of configs beside conf/.
    """
    folder, overrides = config_dir(words)
    overrides = understood(overrides)
    check_words(overrides)
    places = create_config_search_path(str(conf_folder()))
    if folder is not None:
        places.prepend("command-line", str(folder), anchor="schema")  # as Hydra places it
    loader = ConfigLoaderImpl(places)
    return loaded(lambda: loader.load_configuration("config", overrides, RunMode.RUN))


def config_dir(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder that ``--config-dir`` names among some words, and the other words."""
    place = next((place for place, word in enumerate(words) if word.partition("=")[0] == "--config-dir"), None)
    if place is None:
        return None, [*words]
    _, equals, name = words[place].partition("=")
    end = place + (1 if equals else 2)
    name = name if equals else "".join(words[place + 1 : end])
    if not name or not Path(name).is_dir():
        raise UsageError(f"--config-dir={name}: no such folder; give the folder of your configs")
    return Path(name).absolute(), [*words[:place], *words[end:]]


def loaded(load: Callable[[], DictConfig]) -> DictConfig:
    """Return the config that Hydra loads, without Hydra's own part. Raises UsageError."""
    with explained():
        cfg = load()
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn errors of Hydra and OmegaConf into UsageError."""
    try:
        yield
    except (*COMPOSITION_ERRORS, ValueError, OSError) as error:  # for some values of groups, and for too long a name
        raise UsageError(explain(error)) from error


def explain(error: Exception) -> str:
    """Return one line for an error of Hydra or OmegaConf, which explain themselves in many."""
    cause = error.__cause__ if isinstance(error.__cause__, errors.OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wanted = str(error.missing_cfg_file).rpartition("/")
        hint = "; others come with pip install 'hrm_bench[launchers]'" if group == "hydra/launcher" else ""
        return choices(f"{group}={wanted}", wanted, error.options) + hint
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {NOT_UNDERSTOOD}"
    if isinstance(cause, errors.MissingMandatoryValue):
        return f"{cause.full_key}: must be given; {cause.full_key}=VALUE"
    if isinstance(cause, errors.ConfigAttributeError | errors.ConfigKeyError) and cause.parent_node is not None:
        of_model = str(cause.full_key).startswith("model.")
        hidden = ("name", "_target_", "objective") if of_model else ("hydra",)
        siblings = [str(key) for key in cause.parent_node if key not in hidden]
        owner = f"model={cause.parent_node.get('name')}" if of_model else ""
        return no_such_key(str(cause.full_key), siblings, keys(Schema), owner=owner)
    if isinstance(cause, errors.OmegaConfBaseException):
        return f"{cause.full_key or error}: {str(cause).splitlines()[0]}"
    return " ".join(str(error).split())


def check(cfg: DictConfig) -> None:
    """Raise UsageError with every fault of the config, one line each; convert its values to the schema's types."""
    try:
        values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except errors.OmegaConfBaseException as error:
        raise UsageError(explain(error)) from error
    faults: list[str] = []
    if "model" in values:
        depth = values["recipe"].get("gradient_depth") if isinstance(values.get("recipe"), Mapping) else None
        faults = [*class_faults("model", values["model"], depth if isinstance(depth, int) else None)]
    if isinstance(data := values.get("data"), Mapping) and data.get("task") is not None:
        faults += class_faults("data.task", data["task"])
    try:
        converted = typed(values)
    except UsageError as error:
        raise UsageError(*faults, *error.faults) from None
    if faults := faults or [*_cross_faults(converted)]:
        raise UsageError(*faults)
    del converted["model"]
    with open_dict(cfg):
        _replace(cfg, values, converted)


def _replace(cfg: DictConfig, values: Mapping[str, Any], converted: Mapping[str, Any]) -> None:
    """Give a config those values that it lacks or has in another type; ``values`` are its own, resolved."""
    for key, value in converted.items():
        if isinstance(value, dict) and key in values:
            _replace(cfg[key], values[key], value)
        elif key not in values or type(values[key]) is not type(value) or values[key] != value:
            cfg[key] = value


def _cross_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield faults between values of different keys that are each allowed."""
    yield from _data_faults(values["data"])
    yield from _task_faults(values)
    known = {"model", "memory", *(key for key, _ in _flat(values))}
    for key, value in values["experiment"]["baseline"].items():
        if key not in known:
            near = meant(get_close_matches(key, known, n=1))
            yield f"experiment.baseline.{key}={value}: takes model, memory or the whole key of a setting{near}"
    yield from _optimizer_faults(values["recipe"]["optimizer"])
    yield from _callback_faults(values["trainer"]["callbacks"])
    for group, key in (("data", "source"), ("logger", "tracker"), ("recipe", "optimizer")):
        name = values[group][key]
        if "." in name:
            yield from (wrong := [*name_faults(f"{group}.{key}={name}", name, BASES[f"{group}.{key}"])])
            if key == "tracker" and not wrong:
                yield from locate(name).faults(values["logger"])  # type: ignore[attr-defined]
    distillation, size = values["recipe"]["distillation"], values["recipe"]["batch_size"]
    lanes = distillation * size
    if lanes % 1:
        nearest = max(1, round(lanes)) / size
        yield (
            f"recipe.distillation={distillation}: times recipe.batch_size={size} is {lanes:g} lanes per batch, which "
            f"must be a whole number; try recipe.distillation={nearest:g}"
        )
    trainer = values["trainer"]
    if trainer["numerics"] == "portable":
        if trainer["accelerator"] == "gpu":
            yield "trainer.numerics=portable: is for the CPU; try trainer.numerics=fast"
        if trainer["compile"] == "always":
            yield "trainer.compile=always: compiled code takes what the CPU has; trainer.numerics=portable needs never"
    yield from _device_faults(trainer["accelerator"], trainer["devices"])
    if trainer["compile"] == "always" and not has_compiler():
        yield "trainer.compile=always: needs g++ or clang++, and this machine has neither; try trainer.compile=never"
    objective = values["model"]["objective"]["_target_"]
    yield from _memory_faults(values["memory"], values["data"]["windows_per_sample"], locate(objective))
    for key in ("devices", "micro_batches"):
        if trainer[key] > 1 and not getattr(locate(objective), "separable", True):
            name = objective.rpartition(".")[2]
            yield f"trainer.{key}={trainer[key]}: {name} needs whole batches; only 1 is allowed: trainer.{key}=1"


def _data_faults(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield faults of a text: a key that its source needs or does not use."""
    source, path, name = data["source"], data["path"], data["name"]
    if path is None and source in ("text_file", "enwik8", "text8"):
        hint = "" if source == "text_file" else f", from {source}.zip of http://mattmahoney.net/dc/textdata.html"
        yield f"data.path=null: data={source} reads a file{hint}; give data.path=FILE"
    if path is not None and source == "sample":
        yield f"data.path={path}: data=sample is the bundled text; for your own text add data=text_file"
    if path is None and source == "hub" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name or ""):
        example = "for example data.name=Salesforce/wikitext data.config=wikitext-2-v1"
        yield f"data.name={shown(name)}: must be OWNER/NAME of a data set of the hub; {example}"
    limit = data["vocabulary_limit"]
    if limit is not None and data["vocabulary"] != "characters":
        yield f"data.vocabulary_limit={limit}: limits data.vocabulary=characters only; add that, or leave it out"


def _task_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield faults of a task, whose samples decide what a text's settings decide elsewhere."""
    data, recipe, memory = values["data"], values["recipe"], values["memory"]
    if (data["task"] is None) != (data["source"] != "task"):
        yield f"data.source={data['source']}: a task needs data.source=task and data.task; choose one with data=recall"
    if data["task"] is None or data["source"] != "task":
        return
    named: Any = locate(data["task"]["_target_"])  # imports PyTorch, which takes seconds
    given = {key: value for key, value in data["task"].items() if key != "_target_"}
    task = named(named.Config(**given), data["window"])
    yield from task.faults()
    fixed = {
        "windows_per_sample": (task.num_windows, "the samples of the task have that many windows"),
        "order": ("shuffled", "the samples of a task do not follow each other"),
        "vocabulary": ("characters", "a task has a vocabulary of its own"),
        "validation_start": (0, "validation_samples decides"),
        "path": (None, "a task reads no file" if "path" not in given else "data.task.path names the text of this task"),
        **{f"{split}_chars": (None, f"data.task.{split}_samples decides") for split in ("train", "validation", "test")},
    }
    for key, (value, reason) in fixed.items():
        if data[key] != value:
            yield f"data.{key}={shown(data[key])}: {reason}; try data.{key}={shown(value)}"
    if recipe["distillation"]:
        yield f"recipe.distillation={recipe['distillation']}: no task is distilled; try recipe.distillation=0"
    if recipe["offsets"] != "fixed":
        yield f"recipe.offsets={recipe['offsets']}: a task's samples have no offset; try recipe.offsets=fixed"
    if memory["mode"] == "carry":
        yield "memory.mode=carry: a task's samples have nothing to do with each other; try memory=reset"


def _memory_faults(memory: Mapping[str, Any], num_windows: int, objective: type) -> Iterator[str]:
    """Yield faults of a gradient through the memory, and of the windows that share a step."""
    gradient, unroll = memory["gradient"], memory["unroll"]
    goes_back = getattr(objective, "through_memory", False)
    if gradient == "through":
        if not goes_back:
            yield (
                f"memory.gradient=through: {objective.__name__} takes a step after each window, so no gradient can go "
                "back to an earlier one; add objective=through_time"
            )
        if memory["write"] != "after_window":
            yield f"memory.gradient=through: needs memory.write=after_window, not {memory['write']}"
        if num_windows == 1:
            yield "memory.gradient=through: a sample has one window and reads no other; try data.windows_per_sample=4"
    if unroll is not None and not goes_back:
        yield f"memory.unroll={unroll}: is for objective=through_time; add that, or leave memory.unroll out"
    elif unroll is not None and unroll > num_windows:
        yield f"memory.unroll={unroll}: a sample has fewer windows; try data.windows_per_sample={unroll}"


def _optimizer_faults(name: str) -> Iterator[str]:
    if name not in ("lion", "muon"):
        return
    import torch  # takes seconds, which only these cells should pay here

    if not hasattr(torch.optim, name.title()):
        yield (
            f"recipe.optimizer={name}: PyTorch {torch.__version__} has no {name.title()}; try recipe.optimizer=adamw, "
            f"or name a class, as in recipe.optimizer=PACKAGE.{name.title()}"
        )


def _callback_faults(callbacks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, values in enumerate(callbacks):
        word = f"trainer.callbacks[{number}]._target_={values['_target_']}"
        if wrong := [*name_faults(word, values["_target_"], BASES["trainer.callbacks"])]:
            yield from wrong
            continue
        try:
            callback(values)
        except Exception as error:
            yield f"{word}: cannot be made ({type(error).__name__}: {' '.join(str(error).split())})"


def has_compiler() -> bool:
    """Return whether this machine has a C++ compiler, as compiled training needs."""
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its whole key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _device_faults(accelerator: str, devices: int) -> Iterator[str]:
    if accelerator != "gpu":
        return
    import torch  # takes seconds, which only GPU cells should pay here

    if not torch.cuda.is_available():
        yield "trainer.accelerator=gpu: no GPU is available to PyTorch on this machine; try trainer.accelerator=cpu"
    elif devices > (most := torch.cuda.device_count()):
        yield f"trainer.devices={devices}: this machine has {most} GPUs; try trainer.devices={most}"


def completed(config: Any) -> DictConfig:
    """Return the config of a cell that may be older than some keys, with their values that are off."""
    return typing.cast(DictConfig, OmegaConf.merge(options(Schema), OLDEST, config))


def tuned_value(recipe: str, model: str, key: str, default: Any) -> Any:
    """Return a recipe's value for a model from conf/tuned_values.yaml, or the default."""
    return _tuned_values().get(recipe, {}).get(model, {}).get(key, default)


def _tuned_values() -> dict[str, dict[str, dict[str, Any]]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML has the fast one on most machines
    return typing.cast(dict[str, Any], yaml.load((conf_folder() / "tuned_values.yaml").read_text("utf-8"), loader))


# conf/data/ has ${next:KEY} where windows follow from a key of a task; the schema refuses what is no whole number.
OmegaConf.register_new_resolver("next", lambda value: value + 1 if type(value) is int else value, replace=True)
# conf/recipe/ reads the table as ${tuned_value:RECIPE,MODEL,KEY,DEFAULT}. Each config has its own cache.
OmegaConf.register_new_resolver("tuned_value", tuned_value, replace=True, use_cache=True)


def not_searched(cfg: DictConfig) -> str | None:
    """Return a note if the recipe has searched values for other models, but none for this one."""
    written: Any = OmegaConf.to_container(cfg.recipe, resolve=False)
    is_searched = any(str(value).startswith("${tuned_value:tuned,") for value in written.values())
    model = cfg.model.name
    if not is_searched or model in _tuned_values()["tuned"]:
        return None
    return (
        f"recipe={cfg.recipe.name}: no search was made for model={model}, so it takes the values of "
        f"recipe=tuned_by_hand. To search as for the others: python -m hrm_bench -m experiment=tuning model={model}, "
        "then copy its line of tuned_values.yaml from that folder into conf/tuned_values.yaml"
    )
