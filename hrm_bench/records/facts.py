"""Facts of one record: values of its config, its n-gram baselines, and whether its run left the unigram plateau."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hrm_bench.records.schema import Record

SPLITS = ("validation", "test")
PUBLISHED = "published"  # the name of the papers' own recipe
PLATEAU = 0.95  # of the unigram model's perplexity: a run above it has learned character frequencies and little more


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a config with its dotted key."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_of(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """Return the value of a config under a dotted key."""
    group, _, rest = key.partition(".")
    return value_of(config.get(group, {}), rest, default) if rest else config.get(group, default)


def has_values(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a config has these values, nested or under dotted keys; a key that it lacks counts as equal."""
    return all(value_of(config, key, value) == value for key, value in flat(wanted))


def numbers(record: Record) -> dict[str, float]:
    """Return every value of a record that is one number."""
    return {key: value for key, value in record.items() if type(value) in (int, float) and key != "schema_version"}  # type: ignore[misc]


def recipe_name(record: Record) -> str:
    """Return the name of a cell's recipe; records older than recipes have the published one."""
    return str(record["config"].get("recipe", {}).get("name", PUBLISHED))


def unigram(record: Record, split: str = "validation") -> float:
    """Return the perplexity of the unigram model."""
    return record["floors"][split]["unigram"]["full"]


def ngram(record: Record, way: str) -> tuple[str, float, float] | None:
    """Return the name, validation and test perplexity of the n-gram model that is best on validation.

    ``way`` is ``window`` or ``adaptive``. None if the text was too long for its n-grams to be counted.
    """
    validation, test = (record["floors"][split] for split in SPLITS)
    names = [name for name, ways in validation.items() if "window" in ways]
    if not names:
        return None
    name = min(names, key=lambda name: validation[name][way])
    return name, validation[name][way], test[name][way]


def is_on_plateau(record: Record) -> bool:
    """Whether a run has learned little more than how frequent each character is."""
    return not record["validation"]["perplexity"] < PLATEAU * unigram(record)


def text_name(data: Mapping[str, Any]) -> str:
    """Return what a reader calls the text of a data config: the data set's or the task's name, or the source."""
    return str(data.get("name") if data["source"] in ("hub", "task") and data.get("name") else data["source"])


def vocabulary_of(record: Record) -> str:
    """Return the vocabulary of a record's text, as it is typed; older records have that of the reports."""
    return str(record["config"]["data"].get("vocabulary", "ascii97"))


def carries_unrelated(config: Mapping[str, Any], memory: str) -> bool:
    """Return whether a cell trains with a memory that earlier samples wrote, which are not the text before."""
    return memory == "carry" and bool(config["data"].get("order") == "shuffled")


def unknown_fractions(record: Record) -> dict[str, float]:
    """Return the fraction of each split's characters that the vocabulary lacks, of those splits for which it is known.

    Older records have only the numbers of such characters, which are divided by those of the scored ones.
    """
    known, numbers = record.get("unknown_fractions", {}), record.get("unknown_characters", {})
    return known or {split: numbers[split] / record[split]["characters"] for split in SPLITS if split in numbers}  # type: ignore[literal-required]


def unknown_sentence(fractions: Mapping[str, float], vocabulary: str) -> str:
    """Say how much of each split is outside its vocabulary; empty if nothing is."""
    if not any(fractions.values()):
        return ""
    shares = ", ".join(f"{100 * fraction:.2g} % of {split}" for split, fraction in fractions.items())
    return f"Characters outside the vocabulary {vocabulary}: {shares}."


def same_text(one: Record, other: Record) -> bool:
    """Whether two cells have the same text: by its hash, if both records have one, and by what unigram models reach.

    A text and the same characters in another order have the same unigram models.
    """
    if one.get("text") and other.get("text") and one["text"] != other["text"]:
        return False
    return all(math.isclose(unigram(one, split), unigram(other, split), rel_tol=1e-9) for split in SPLITS)


def article_nats(records: Iterable[Record]) -> list[list[float]]:
    """Return the nats per character of each held-out article, one row per record; none if a record has no articles."""
    records = list(records)
    if not all(any(record.get("articles", {}).values()) for record in records):
        return []
    return [[a["nats"] / a["characters"] for some in record["articles"].values() for a in some] for record in records]


def article_titles(record: Record) -> list[tuple[str, str, int]]:
    """Return what tells the held-out articles of a record apart: split, title and number of characters."""
    articles = record.get("articles", {})
    return [(split, a["title"], a["characters"]) for split, texts in articles.items() for a in texts]
