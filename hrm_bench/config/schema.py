"""The typed schema of a cell's config: one pydantic model per group that has no class of its own.

A field with a default is an option. Its default is off: it leaves everything as it was before the option existed, and
is not part of a cell's identity. All other fields must be given. Values are converted to their field's type, so that
``learning_rate=1`` and ``learning_rate=1.0`` are the same cell.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from hrm_bench.errors import UsageError, allowed, no_such_key

SOURCES = ("wikitext2", "wikitext103", "sample", "text_file", "hub", "enwik8", "text8", "task")
VOCABULARIES = ("ascii97", "bytes", "characters")
RENAMED = {"printable_ascii": "ascii97"}  # vocabularies in older configs

FAULT = "config_fault"  # the type of our own errors; their message has KEY for the key that they are about
KINDS = {int: "a whole number", float: "a number"}
OPTIMIZERS = ("adamw", "adam", "sgd", "lion", "muon")  # the keys of optimizers.OPTIMIZERS
NOT_A_FLAG = ("bool_parsing", "bool_type")  # pydantic's types of error for values of bool


def fault(message: str) -> PydanticCustomError:
    """Return the error of one value: what is allowed, and what to try."""
    return PydanticCustomError(FAULT, "{message}", {"message": message})


def number(
    kind: type, at_least: float, at_most: float = math.inf, *, exact: bool = False, above: str = ""
) -> BeforeValidator:
    """Return a validator that converts a value to a number and checks its bounds.

    With ``exact`` nothing is converted, but a whole number may stand for any number. With ``above``, which says what to
    type instead, the lower bound itself is refused.
    """

    def converted(value: Any) -> Any:
        if value is None:
            raise fault("must not be null")
        try:
            if type(value) not in ((int, kind) if exact else (int, float, str)):
                raise ValueError
            result = kind(value)
            if isinstance(value, float) and not math.isnan(value) and result != value:
                raise ValueError
        except (ValueError, OverflowError):
            raise fault(f"must be {KINDS[kind]}") from None
        positive = -result if at_least <= -result < math.inf else max(at_least, 1)
        near = kind(at_most if at_most < result < math.inf else min(positive, at_most))
        if at_most < math.inf and not at_least <= result <= at_most:
            raise fault(f"must be from {at_least} to {at_most}; try KEY={near}")
        if not at_least <= result < math.inf:
            raise fault(f"must be at least {at_least} and finite; try KEY={near}")
        if above and result == at_least:
            raise fault(f"must be above {at_least}{above}")
        return value if exact else result

    return BeforeValidator(converted)


def choice(*values: str) -> BeforeValidator:
    """Return a validator that takes one of these words."""

    def chosen(value: Any) -> Any:
        if value not in values:
            near = difflib.get_close_matches(str(value), values, n=1)
            raise fault(f"allowed are {allowed(values)}; try KEY={near[0] if near else values[0]}")
        return value

    return BeforeValidator(chosen)


def choice_or_class(*values: str) -> BeforeValidator:
    """Return a validator that takes one of these words, or the dotted name of a class, which ``compose`` checks."""
    words = choice(*values)
    return BeforeValidator(lambda value: value if "." in str(value) else words.func(value))  # type: ignore[call-arg]


def _folder_name(value: Any) -> str:
    if type(value) not in (str, int, float) or not re.fullmatch(r"\w[\w.-]*", str(value), re.ASCII):
        raise fault("names a folder: allowed are letters, digits, _, - and dots inside; try KEY=mine")
    return str(value)


def _classes(value: Any) -> list[dict[str, Any]]:
    """Return a list of mappings with ``_target_``; a name alone stands for a class without values."""
    items = (
        [{"_target_": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else None
    )
    if items is None or not all(isinstance(item, Mapping) and isinstance(item.get("_target_"), str) for item in items):
        raise fault("must be a list of classes: KEY=[PACKAGE.CLASS] or KEY=[{_target_:PACKAGE.CLASS,key:value}]")
    return [dict(item) for item in items]


def _text(value: Any) -> str:
    if type(value) not in (str, int, float):
        raise fault("must not be null" if value is None else "must be text")
    return str(value)


def _vocabulary(value: Any) -> str:
    return RENAMED.get(text := _text(value), text)


def _splits(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) not in (1, 3) or any(not isinstance(name, str) for name in value):
        raise fault(
            "must name training, validation and test split, or one that is cut; try KEY=[train,validation,test]"
        )
    return value


def _tags(value: Any) -> list[str]:
    if not isinstance(value, list) or any(type(tag) not in (str, int, float) for tag in value):
        raise fault("must be a list of words; for example KEY=[mine,first]")
    return [str(tag) for tag in value]


Count = Annotated[int, number(int, 1)]
Size = Annotated[int, number(int, 0)]
Rate = Annotated[float, number(float, 0)]
Fraction = Annotated[float, number(float, 0, 1)]
Dropout = Annotated[float, number(float, 0, 0.99)]
Name = Annotated[str, BeforeValidator(_folder_name)]
Text = Annotated[str, BeforeValidator(_text)]


class Group(BaseModel):
    """A group of settings; it has no other keys."""

    model_config = ConfigDict(extra="forbid")


class Memory(Group):
    """When a lane's memory is emptied, read and written."""

    mode: Annotated[str, choice("none", "reset", "carry")]
    write: Annotated[str, choice("after_window", "every_segment")]
    rule: Annotated[str, choice("linear", "delta")]
    evaluation: Annotated[str, choice("same", "reset")]
    bind: Annotated[str, choice("same", "previous")] = "same"
    features: Annotated[str, choice("elu", "l2")] = "elu"
    tie: bool = False
    gradient: Annotated[str, choice("none", "through")] = "none"
    unroll: Count | None = None


class Data(Group):
    """The text, its windows and their order."""

    source: Annotated[str, choice_or_class(*SOURCES)]
    path: Text | None
    name: Text | None = None  # of data=hub, as are the next three
    config: Text | None = None
    splits: Annotated[list[str], BeforeValidator(_splits)] = ["train", "validation", "test"]
    column: Text = "text"
    vocabulary: Annotated[str, BeforeValidator(_vocabulary)] = "ascii97"  # one of VOCABULARIES, or a file
    vocabulary_limit: Count | None = None
    train_chars: Count | None
    validation_start: Size = 0
    validation_chars: Count | None
    test_chars: Count | None
    window: Count
    order: Annotated[str, choice("shuffled", "contiguous")]
    windows_per_sample: Count
    task: dict[str, Any] | None = None  # of data.source=task; the fingerprint of its samples is in the identity
    most_unknown: Fraction = 0.01  # of a split's characters that the vocabulary may lack; no part of the identity


class Recipe(Group):
    """How a model is trained."""

    name: Name
    max_epochs: Count
    budget: Count | None = None
    patience: Count | None
    batch_size: Count
    evaluation_batch_size: Count
    optimizer: Annotated[str, choice_or_class(*OPTIMIZERS)] = "adamw"
    learning_rate: Rate
    warmup: Fraction = 0.0
    final_learning_rate: Fraction = 1.0
    gate_learning_rate: Rate | None = None
    weight_decay: Rate
    decayed: Annotated[str, choice("all", "matrices")] = "all"
    gradient_clip: Annotated[float, number(float, 0, above="; null turns clipping off: KEY=null")] | None
    averaging: Annotated[float, number(float, 0, 0.99999)] = 0.0
    gradient_depth: Count | None = None
    offsets: Annotated[str, choice("fixed", "random")] = "fixed"
    embedding_dropout: Dropout = 0.0
    attention_dropout: Dropout = 0.0
    feed_forward_dropout: Dropout = 0.0
    head_dropout: Dropout = 0.0
    distillation: Rate = 0.0
    character_dropout: Dropout = 0.0


class Trainer(Group):
    """The devices, precision and processes that a cell runs on."""

    accelerator: Annotated[str, choice("cpu", "gpu")]
    devices: Count
    precision: Annotated[str, choice("32-true", "bf16-mixed")]
    micro_batches: Count
    compile: Annotated[str, choice("auto", "never", "always")]
    numerics: Annotated[str, choice("fast", "portable")] = "fast"
    num_threads: Count
    snapshot_seconds: Rate
    callbacks: Annotated[list[dict[str, Any]], BeforeValidator(_classes)] = []


class Logger(Group):
    """The tracker that each cell's history is copied to."""

    project: Text
    mode: Annotated[str, choice("offline", "online", "disabled")]
    tracker: Annotated[str, choice_or_class("wandb")] = "wandb"
    entity: Text | None = None
    name: Text | None = None
    tags: Annotated[list[str], BeforeValidator(_tags)] = []


class Experiment(Group):
    """The sweep's name, and the variant that its differences are taken to: values of model, memory or settings."""

    name: Name
    baseline: dict[str, Any]


class Schema(Group):
    """The config of a cell; the class of the model checks the model's settings."""

    model: Any
    memory: Memory
    data: Data
    recipe: Recipe
    trainer: Trainer
    logger: Logger
    experiment: Experiment
    seed: Annotated[int, number(int, 0, 2**32 - 1)]
    scale: Count = 1
    force: bool = False
    fail_fast: bool = False
    plan: bool = False


def options(group: type[BaseModel]) -> dict[str, Any]:
    """Return the options of a group, and of the groups inside it, with the values that are off."""
    values = {}
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            values[name] = options(field.annotation)
        elif not field.is_required():
            values[name] = field.default
    return values


def keys(group: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the whole key of every field of the groups inside a group."""
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            yield from keys(field.annotation, f"{name}.")
        elif prefix:
            yield prefix + name


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's values, each converted to the type of its field, with options that are not given off.

    Raises UsageError with one line per fault.
    """
    try:
        return Schema.model_validate(values).model_dump()
    except ValidationError as error:
        raise UsageError(*lines(error, Schema)) from None


def lines(error: ValidationError, schema: type[BaseModel], prefix: str = "", *, owner: str = "") -> Iterator[str]:
    """Yield one line per fault: key, value, what is allowed, what to try; ``owner`` is what lacks a key."""
    for item in error.errors(include_url=False):
        *groups, name = map(str, item["loc"])
        key = prefix + ".".join([*groups, name])
        if item["type"] == "missing":
            yield f"{key}: missing; give {key}=VALUE"
        elif item["type"] == "extra_forbidden":
            siblings: Any = schema
            for group in groups:
                siblings = siblings.model_fields[group].annotation
            yield no_such_key(key, siblings.model_fields, keys(schema), owner=owner)
        else:
            message = "must be true or false" if item["type"] in NOT_A_FLAG else "must be a group of settings"
            message = item["ctx"]["message"] if item["type"] == FAULT else message
            yield f"{key}={shown(item['input'])}: {message.replace('KEY', key)}"


def shown(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
