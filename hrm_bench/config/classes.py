"""The checks of a group that names a class: the model, and its objective.

The class has a dataclass ``Config``. Its fields are the group's keys, its annotations their types, and its
``__post_init__`` raises ConfigFault for values that do not fit together. A whole number must be at least 1, any other
number at least 0. ``Config.OFF`` names its options, with the values that leave a cell as it was before they existed: a
config may lack them, and such a value is no part of a cell's identity.
"""

import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Strict, ValidationError, create_model

from hrm_bench.config.identity import locate
from hrm_bench.config.schema import Name, choice, fault, lines, number, shown
from hrm_bench.errors import ConfigFault

BASES = {
    "model": "hrm_bench.charlm.CharLM",
    "model.objective": "hrm_bench.objectives.Objective",
    "data.source": "hrm_bench.data.corpora.Source",
    "data.task": "hrm_bench.data.task.Task",
    "recipe.optimizer": "torch.optim.Optimizer",
    "trainer.callbacks": "lightning.Callback",
    "logger.tracker": "hrm_bench.cells.trackers.Tracker",
}
OTHER_KEYS = ("_target_", "objective")  # keys of a group that are no values of its class
EXAMPLES = {"model": "model=hrm", "model.objective": "objective=deep_supervision", "data.task": "data=recall"}


def class_faults(key: str, settings: Any, gradient_depth: int | None = None) -> Iterator[str]:
    """Yield one line per fault of a group that names a class.

    Args:
        key: the group's key.
        settings: the group's values.
        gradient_depth: the recipe's, which replaces the model's own.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        word = f"{key}._target_" if isinstance(settings, Mapping) else f"{key}={shown(settings)}"
        yield f"{word}: must name a class; try {EXAMPLES[key]}"
        return
    target = f"{key}._target_={settings['_target_']}"
    if wrong := [*name_faults(target, settings["_target_"], BASES[key])]:
        yield from wrong
        return
    named: Any = locate(settings["_target_"])
    if not is_dataclass(getattr(named, "Config", None)):
        yield f"{target}: has no dataclass Config, whose fields are the group's keys"
        return
    given = {name: value for name, value in settings.items() if name not in OTHER_KEYS}
    faults = [*_argument_faults(key, named, given)]
    yield from faults or _rule_faults(key, named, given, gradient_depth)
    if key == "model":
        yield from class_faults("model.objective", settings.get("objective"))


def name_faults(word: str, name: str, base: str) -> Iterator[str]:
    """Yield why a dotted name, typed as ``word``, is not that of a subclass of ``base``.

    So a config from elsewhere cannot name any function.
    """
    try:
        named = locate(name)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{word}: cannot be imported ({error})"
        return
    if not (isinstance(named, type) and issubclass(named, locate(base))):
        yield f"{word}: must be a subclass of {base}"


def _argument_faults(key: str, named: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """Compare the values that are given with the annotations of the class's Config."""
    schema = _arguments(key, named.Config)
    try:
        schema.model_validate(given)
    except ValidationError as error:
        owner = f"model={given.get('name')}" if key == "model" else ""
        yield from lines(error, schema, f"{key}.", owner=owner)


@functools.cache  # a sweep asks for every cell
def _arguments(key: str, config: Any) -> type[BaseModel]:
    """Return a schema of the fields of a class's Config."""
    hints = typing.get_type_hints(config, include_extras=True)
    expected = {field.name: hints[field.name] for field in fields(config)}
    off = getattr(config, "OFF", {})
    arguments: dict[str, Any] = {
        name: (_bounded(annotation), off.get(name, ...)) for name, annotation in expected.items()
    }
    if key == "model":
        arguments["name"] = (Name, ...)  # a label, which the class does not see
    return create_model("Arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **arguments)


def _bounded(annotation: Any) -> Any:
    """Return an annotation with the bounds that all settings of models and objectives have."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in (int, float):
        return Annotated[annotation, number(annotation, 1 if annotation is int else 0, exact=True)]
    if annotation is bool:
        return Annotated[bool, Strict()]
    if origin is Annotated:  # a whole number, and the least one that is allowed
        return Annotated[int, number(int, arguments[1], exact=True)]
    if origin is Literal:
        return Annotated[str, choice(*arguments)]
    if origin in (tuple, list, Sequence) and arguments[0] is int:
        return Annotated[Any, BeforeValidator(_whole_numbers)]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_bounded(argument) for argument in arguments)]  # noqa: UP007
    return annotation


def _whole_numbers(value: Any) -> Any:
    if not isinstance(value, list) or not value or any(type(item) is not int or item < 1 for item in value):
        raise fault("must be a list of whole numbers, at least 1 each; for example KEY=[1,2]")
    return value


def _rule_faults(key: str, named: Any, given: Mapping[str, Any], gradient_depth: int | None) -> Iterator[str]:
    """Let the class's Config check how its values fit together, with the recipe's gradient depth too."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    values.pop("name", None)
    try:
        named.Config(**values)
    except ConfigFault as error:
        yield error.message
        return
    if gradient_depth is not None and "gradient_depth" in values:
        try:
            named.Config(**{**values, "gradient_depth": gradient_depth})
        except ConfigFault as error:
            yield error.message.replace(f"{key}.gradient_depth", "recipe.gradient_depth")


def callback(values: Mapping[str, Any]) -> Any:
    """Return an object of the class that ``_target_`` names, made of the other values."""
    make: Any = locate(values["_target_"])
    return make(**{key: value for key, value in values.items() if key != "_target_"})
