"""Records grouped into variants: a variant is what cells have in common that differ in their seed alone."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from hrm_bench.records.facts import flat, recipe_name
from hrm_bench.records.schema import Record

# Beginnings of keys that change no figure.
NO_EFFECT = ("experiment.", "logger.", "trainer.snapshot_seconds", "data.most_unknown")
ONE_TEXT = ("wikitext2", "wikitext103", "sample", "enwik8", "text8")  # sources that are the same text anywhere
OF_ALL = ("memory.tie", "memory.unroll")  # which change figures even if nothing is ever written
OWN_COLUMNS = ("seed", "model.name", "memory.mode")  # keys that a variant names otherwise
NOT_COMPARED = (*NO_EFFECT, "data.path", "seed", "model.name", "recipe.name")  # of two cells that are paired
TEXT = "text"  # tells cells apart that have the same settings of the data, but not the same characters


class Variant(NamedTuple):
    """Cells that differ in their seed alone."""

    model: str
    memory: str
    settings: tuple[tuple[str, Any], ...]  # config keys that vary among the cells, and their values
    records: dict[int, Record]  # by seed

    @property
    def first(self) -> Record:
        """The record of one seed, for what all seeds have in common."""
        return next(iter(self.records.values()))

    @property
    def settings_text(self) -> str:
        """The settings as one would type them."""
        return " ".join(
            f"{name.removesuffix('.name')}={json.dumps(value) if isinstance(value, tuple) else value}"
            for name, value in self.settings
        )


def settings(record: Record) -> dict[str, Any]:
    """Return the values that can tell a record's variant from others, by dotted key.

    A memory's settings count for a cell that has one, and some of them for all. A path counts if the
    source can have several texts.
    """
    values = dict(flat(record["config"])) | {"recipe.name": recipe_name(record)}
    if record.get(TEXT):
        values[TEXT] = record["text"]
    left_out = NO_EFFECT if record["memory"] != "none" else (*NO_EFFECT, "memory.")
    if record["config"]["data"]["source"] in ONE_TEXT:
        left_out = (*left_out, "data.path")
    return {
        key: _frozen(value)
        for key, value in values.items()
        if key not in OWN_COLUMNS and (key in OF_ALL or not key.startswith(left_out))
    }


def _frozen(value: Any) -> Any:
    """Return a value that can be a key: lists as tuples, and mappings inside them as text."""
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


def varying_keys(records: Iterable[Record]) -> list[str]:
    """Return the config keys whose values differ among cells of one model and memory.

    A recipe's values count among cells with a recipe of the same name. The text itself counts among cells with the same
    settings of the data: a file may have been edited between two runs.
    """
    seen = defaultdict(set)
    for record in records:
        data = json.dumps(record["config"]["data"], sort_keys=True)
        for key, value in settings(record).items():
            of_recipe = key.startswith("recipe.") and key != "recipe.name"
            among = data if key == TEXT else recipe_name(record) if of_recipe else ""
            seen[record["model"], record["memory"], among, key].add(json.dumps(value))
    return sorted({key for (*_, key), values in seen.items() if len(values) > 1})


def grouped(records: Sequence[Record], keys: Sequence[str] | None = None) -> list[Variant]:
    """Group records into variants, told apart by model, memory and the values of ``keys`` (default: those that vary).

    Models and memories keep their order, and values ascend. Of two records with one seed, the later one counts.
    """
    keys = varying_keys(records) if keys is None else keys
    groups: dict[tuple[Any, ...], dict[int, Record]] = defaultdict(dict)
    for record in records:
        values = settings(record)
        some = tuple((key, values[key]) for key in keys if key in values)
        groups[record["model"], record["memory"], some][record["seed"]] = record
    models, memories = (list(dict.fromkeys(group[place] for group in groups)) for place in (0, 1))

    def place(variant: Variant) -> tuple[int, int, list[Any]]:
        numbers = [(name, isinstance(value, int | float), value) for name, value in variant.settings]
        ascending = [(name, not is_number, value if is_number else 0, str(value)) for name, is_number, value in numbers]
        return models.index(variant.model), memories.index(variant.memory), ascending

    variants = [Variant(model, memory, some, by_seed) for (model, memory, some), by_seed in groups.items()]
    return sorted(variants, key=place)


def matched(one: Sequence[Record], other: Sequence[Record]) -> list[tuple[Variant, Variant]]:
    """Match the variants of two sweeps; if one of them lacks a variant, its side has no records.

    What tells variants of either sweep apart tells cells apart. What all cells of one sweep have in common does not: it
    may be what the two are compared for.
    """
    keys = sorted({*varying_keys(one), *varying_keys(other)})
    sides = [{variant[:3]: variant for variant in grouped(records, keys)} for records in (one, other)]
    first, second = ({key: side.get(key, Variant(*key, {})) for key in sides[0] | sides[1]} for side in sides)
    return [(first[key], second[key]) for key in first]


def differing(pairs: Iterable[tuple[Record, Record]]) -> list[str]:
    """Return the settings, versions and texts that differ between paired records, with both values if all agree."""
    seen = defaultdict(set)
    for pair in pairs:
        one, other = (dict(flat({**record["config"], "version": record.get("versions", {})})) for record in pair)
        if all(record.get(TEXT) for record in pair):
            one[TEXT], other[TEXT] = (record["text"] for record in pair)
        for key in one.keys() | other.keys():
            values = (json.dumps(one.get(key)), json.dumps(other.get(key)))
            if values[0] != values[1] and not key.startswith(NOT_COMPARED):
                seen[key].add(values)
    return [f"{key} ({' → '.join(min(values))})" if len(values) == 1 else key for key, values in sorted(seen.items())]
