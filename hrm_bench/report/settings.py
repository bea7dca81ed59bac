"""What sets the cells of a sweep apart beside model, memory and seed: their settings, and the text behind them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hrm_bench.records.schema import Record

APART = ("experiment.", "logger.", "trainer.snapshot_seconds")  # keys of a config that change no figure
TEXT = "text"  # what sets cells apart whose settings are the same, but not the characters behind them
NO_SETTINGS = {"seed", "model.name", "memory.mode"}  # told in columns of their own


def settings_apart(records: Iterable[Record]) -> list[str]:
    """The keys, other than model, memory and seed, by which cells of one model and memory differ somewhere.

    Of a recipe's values, those by which cells of one recipe do: its name tells the others. The text itself, where the
    settings of the data are the same: a file that was edited between two runs.
    """
    seen: dict[tuple[str, str, str, str], set[str]] = {}
    for record in records:
        for key, value in _values(record).items():
            if _told(record, key):
                alike = ""
                if key == TEXT:
                    alike = json.dumps(record["config"]["data"], sort_keys=True)
                elif key.startswith("recipe.") and key != "recipe.name":
                    alike = recipe_name(record)
                seen.setdefault((record["model"], record["memory"], alike, key), set()).add(json.dumps(value))
    return sorted({key for (_, memory, _, key), values in seen.items() if len(values) > 1 and _matters(memory, key)})


def settings(record: Record, apart: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Of the keys that tell variants apart, those that a record has and that matter to it, with their values."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in _values(record).items()}
    return tuple(
        (key, values[key]) for key in apart if key in values and _matters(record["memory"], key) and _told(record, key)
    )


def settings_text(settings: Iterable[tuple[str, Any]]) -> str:
    """Settings as one would type them."""
    return " ".join(
        f"{name.removesuffix('.name')}={json.dumps(value) if isinstance(value, tuple) else value}"
        for name, value in settings
    )


def recipe_name(record: Record) -> str:
    """The recipe that a cell was composed of; that of the reports where its record is older than any other."""
    return str(record["config"].get("recipe", {}).get("name", "published"))


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config under its dotted key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _values(record: Record) -> dict[str, Any]:
    """Every value of a record's config under its dotted key, and which text it was, where the record knows."""
    text = {TEXT: record["text"]} if "text" in record else {}
    return dict(flat(record["config"])) | {"recipe.name": recipe_name(record)} | text


def _matters(memory: str, key: str) -> bool:
    return memory != "none" or not key.startswith("memory.")


def _told(record: Record, key: str) -> bool:
    """Whether a setting can set a variant apart; where WikiText-2 lies does not matter, which file a text is does."""
    if key == "data.path":
        return bool(record["config"]["data"]["source"] == "text_file")
    return key not in NO_SETTINGS and not key.startswith(APART)
