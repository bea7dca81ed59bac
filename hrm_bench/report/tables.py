"""Tables of a study, and what a table is. texts.yaml has titles, captions and columns."""

import json
import math
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hrm_bench.intervals import MIN_SEEDS, Difference, difference, paired_difference
from hrm_bench.records.facts import (
    SPLITS,
    carries_unrelated,
    ngram,
    numbers,
    same_text,
    text_name,
    unigram,
    unknown_fractions,
    unknown_sentence,
    value_of,
    vocabulary_of,
)
from hrm_bench.records.schema import Record
from hrm_bench.report.frame import Study, compared_runs
from hrm_bench.statistics import power_law
from hrm_bench.table import Table, make_table, mean_sd

TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
LENGTH = "data.train_chars"
UNKNOWN = "not known: these records do not keep the words of their command"
UNITS = ("bits_per_byte", "bits_per_character")  # that the results of models of bytes show
NGRAM_WAYS = (("window", "within the window"), ("adaptive", "updated as it reads"))
FEWEST_LENGTHS = 3  # that tell a curve from a line between two points


def table(name: str, rows: Iterable[Mapping[str, Any]], **values: Any) -> Table | None:
    """Make the table that texts.yaml describes under this name; None if no column but the first has anything."""
    shown = make_table(TEXTS[name], rows, **values)
    return shown and shown._replace(name=name)


def difference_text(compared: Difference | None) -> str:
    """Return the mean of a difference, and its mean and interval in percent of the baseline."""
    if compared is None:
        return ""
    low, high = compared.percent_low, compared.percent_high
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    return f"{compared.mean:+.3f} ({compared.percent:+.2f} %{interval})"


def _perplexities(records: Mapping[int, Record], split: str) -> list[float]:
    return [record[split]["perplexity"] for record in records.values()]  # type: ignore[literal-required]


def _both(v: Any, key: str) -> str:
    means = (statistics.fmean(record[split][key] for record in v.records.values()) for split in SPLITS)
    return ", ".join(f"{mean:.3f}" for mean in means)


def results(study: Study) -> Table | None:
    """Show every variant by rank: the causal ones of each text, then the others."""
    texts: list[Record] = []

    def place(v: Any) -> tuple[int, float]:
        if not any(same_text(text, v.first) for text in texts):
            texts.append(v.first)
        return next(n for n, text in enumerate(texts) if same_text(text, v.first)), v.rank or math.inf

    def row(v: Any) -> dict[str, Any]:
        left = _perplexities(compared_runs(v.records), "validation") if 0 < v.left_plateau < v.seeds else []
        interval = "" if v.difference_low is None else f" [{v.difference_low:+.2f}, {v.difference_high:+.2f}]"
        form = "" if v.difference_mean is None else "{:+.2f}{} ({:+.1f} %)"
        return v._asdict() | {
            "memory_text": v.memory_shown if v.causal else f"{v.memory_shown}, not causal".lstrip(", "),
            **{split: mean_sd(_perplexities(v.records, split)) for split in SPLITS},
            **{key: _both(v, key) for key in UNITS if "bits_per_byte" in v.first["validation"]},
            "stuck": f" (not {', '.join(map(str, v.on_plateau))})" if v.on_plateau and v.left_plateau else "",
            "left_rate": f"[{100 * v.left_rate_low:.0f}, {100 * v.left_rate_high:.0f}] %",
            "left": mean_sd(left),
            "difference": form.format(v.difference_mean, interval, v.difference_percent),
            "p": None if v.p_holm is None else "<0.001" if v.p_holm < 0.0005 else f"{v.p_holm:.3f}",
        }

    scored = {
        f"{r['validation']['characters']:,} validation and {r['test']['characters']:,} test characters of "
        f"{text_name(r['config']['data'])}": None
        for r in study.cells.record
    }
    codes = {model: {r["code"] for r in records} for model, records in study.cells.groupby("model").record}
    outdated = " The cells of {} were made by {} versions of the code; force=true runs them again."
    notes = [outdated.format(model, len(some)) for model, some in codes.items() if len(some) > 1]
    unknown = [unknown_sentence(unknown_fractions(record), vocabulary_of(record)) for record in study.cells.record]
    notes += [f" {sentence}" for sentence in dict.fromkeys(unknown) if sentence]
    for v in study.variants.itertuples():
        if len({r["compiled"] for r in v.records.values() if "compiled" in r}) > 1:
            notes.append(f" Some cells of {v.label} were compiled and some not: they differ in their last bits.")
    variants = [*study.variants.itertuples()]
    unrelated = [v.label for v in variants if carries_unrelated(v.first["config"], v.memory)]
    if unrelated:
        notes.append(f" In training, the memory of {', '.join(unrelated)} is of unrelated text (data.order=shuffled).")
    if any(v.difference_mean is not None and v.difference_low is None for v in variants):
        notes.append(f" A difference has an interval from {MIN_SEEDS} seeds on.")
    shown = sorted(variants, key=place)
    return table("results", map(row, shown), scored=", and on ".join(scored), notes="".join(notes))


def baselines(study: Study) -> Table | None:
    """Show what n-gram models reach on each text."""
    texts = {json.dumps([r["config"]["data"]["source"], r["floors"]]): r for r in study.cells.record[::-1]}
    rows = []
    for record in sorted(texts.values(), key=lambda record: value_of(record["config"], LENGTH) or math.inf):
        length, source = value_of(record["config"], LENGTH), text_name(record["config"]["data"])
        exact = [name for name, ways in record["floors"]["validation"].items() if "exact" in ways]
        models: list[Any] = [
            (name.replace("_", " "), *(record["floors"][split][name]["exact"] for split in SPLITS)) for name in exact
        ]
        models += [("unigram", *(unigram(record, split) for split in SPLITS))]
        for way, meaning in (*NGRAM_WAYS, *([("sample", "of the sample alone")] if exact else [])):
            models += [(f"{name}, {meaning}", *values) for name, *values in filter(None, [ngram(record, way)])]
        if models[-1][0] == "unigram":
            models.append(("not counted here: too long a text; python -m hrm_bench.floors counts", None, None))
        text = f"{source}, {'all' if length is None else f'{length:,}'} characters"
        if (vocabulary := vocabulary_of(record)) != "ascii97":
            text += f", data.vocabulary={vocabulary}"
        rows += [{"text": text} | dict(zip(("name", *SPLITS), model, strict=True)) for model in models]
    return table("baselines", rows)


def cost(study: Study) -> Table | None:
    """Show size and time of each variant: medians over seeds, of every number that a record has."""
    rows = []
    for v in study.variants.itertuples():
        known = defaultdict(list)
        for key, value in (item for record in v.records.values() for item in numbers(record).items()):
            known[key].append(value)
        medians = {key: statistics.median(values) for key, values in known.items()}
        rows.append({**medians, **v._asdict(), "megabytes": medians.get("peak_memory", 0) / 1e6 or None})
    return table("cost", rows)


def leaks(study: Study) -> Table | None:
    """Show the largest leak that either audit measured in any seed, before training or after."""
    rows = []
    for v in study.variants.itertuples():
        measured = [leak for record in v.records.values() for leak in record.get("leak", {}).values()]
        largest = {name: max(leak[name] for leak in measured) for name in (measured[0] if measured else ())}
        rows.append(v._asdict() | largest | {"audit": "✓ causal" if v.causal else "✗ not causal"})
    return table("leaks", rows)


def coverage(study: Study) -> Table | None:
    """Show which losses reach each component: one column per model, or per variant if a model's variants differ."""
    columns: dict[str, dict[str, list[str]]] = {}
    for model, group in study.variants.groupby("model", sort=False):
        reached = {v.label: v.first.get("gradient_coverage", {}) for v in group.itertuples()}
        some, *others = reached.values()
        columns |= {str(model): some} if all(other == some for other in others) else reached
    columns = {name: column for name, column in columns.items() if column}

    def losses(column: Mapping[str, list[str]], component: str) -> str:
        return " and ".join(column[component]) or "✗ none" if component in column else "–"

    rows = [
        {"component": component} | {name: losses(column, component) for name, column in columns.items()}
        for component in dict.fromkeys(component for column in columns.values() for component in column)
    ]
    return table("coverage", rows)


def memory_use(study: Study) -> list[Table | None]:
    """Show perplexity with the own memory, an empty one and another text's: one table per split."""

    def row(v: Any, split: str) -> dict[str, Any]:
        uses = [record["memory_use"][split] for record in compared_runs(v.records).values()]
        values = {name: [use[name] for use in uses] for name in ("own", "zeroed", "another_lane")}
        shown = {name: mean_sd(some) for name, some in values.items()}
        return v._asdict() | shown | {"difference": difference_text(paired_difference(values["zeroed"], values["own"]))}

    having = [v for v in study.variants.itertuples() if all(r.get("memory_use") for r in v.records.values())]
    return [table("memory_use", [row(v, split) for v in having], split=split) for split in SPLITS]


def against_ngrams(study: Study) -> Table | None:
    """Show what a carried memory gains on the same model without one, and what an n-gram model gains by updates."""
    rows = []
    for v in study.variants[study.variants.memory == "carry"].itertuples():
        for other in study.variants[(study.variants.memory == "none") & (study.variants.model == v.model)].itertuples():
            if all(dict(v.settings_values).get(name, value) == value for name, value in other.settings_values):
                row: dict[str, Any] = {"variant": v.label, "causal": v.causal}
                best = [ngram(v.first, way) for way in ("window", "adaptive")]
                for place, split in enumerate(SPLITS, start=1):
                    sides = (_perplexities(compared_runs(some.records), split) for some in (v, other))
                    row[f"carried memory, {split}"] = difference_text(difference(*sides))
                    window, updated = ([float(model[place])] if model else [] for model in best)
                    row[f"updated n-grams, {split}"] = difference_text(paired_difference(updated, window))
                rows.append(row)
                break
    return table("against_ngrams", rows)


def commands(study: Study) -> Table | None:
    """Show the command that trains each variant again, from the words that its records keep."""
    rows = []
    for v in study.variants.itertuples():
        words = [word for word in v.first.get("overrides", []) if not word.startswith("seed=")]
        words = [*(["-m"] if v.seeds > 1 else []), *words, f"seed={','.join(map(str, sorted(v.records)))}"]
        command = shlex.join(["python", "-m", "hrm_bench", *words]) if v.first.get("overrides") else UNKNOWN
        rows.append(v._asdict() | {"command": command})
    named = dict.fromkeys(word for r in study.cells.record for word in r.get("overrides", []) if "experiment=" in word)
    whole = [{"label": "all", "command": f"python -m hrm_bench -m {word}"} for word in named]
    return table("commands", [*whole, *rows])


def families(study: Study) -> list[dict[str, Any]]:
    """Return each model at one size with its texts of several lengths, the bits on validation, and their power law.

    Bits per character fall as a power of the length of the training text (Kaplan et al., arXiv 2001.08361, section 3).
    """
    points: dict[tuple[str, int, bool], list[Any]] = defaultdict(list)
    for v in study.variants.itertuples():
        if (length := dict(v.settings_values).get(LENGTH)) is not None:
            label = " ".join(v.label.replace(f"{LENGTH}={length}", "").split())
            bits = [record["validation"]["bits_per_character"] for record in v.records.values()]
            points[label, v.parameters, v.causal] += [(length, value) for value in bits]
    fitted = []
    for (label, parameters, causal), some in points.items():
        lengths, bits = map(list, zip(*some, strict=True))
        if len(set(lengths)) >= FEWEST_LENGTHS:
            row = {"label": label, "parameters": parameters, "causal": causal, "lengths": lengths, "bits": bits}
            fitted.append(row | {"law": power_law(lengths, bits)})
    return fitted


def scaling(study: Study) -> Table | None:
    """Show the fitted power laws of validation bits by length of the training text."""
    rows = families(study)
    for row in rows:
        law = row["law"]
        row |= {"cells": len(row["bits"]), "spread": law.spread}
        for name, length in (("shortest", min(row["lengths"])), ("longest", max(row["lengths"]))):
            bits, low, high = law.at(length)
            row |= {name: length, f"at_{name}": f"{bits:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")}
        low, change, high = (e and 100 * (10**e - 1) for e in (law.low, law.exponent, law.high))
        row["change"] = f"{change:+.1f} %" + ("" if law.low is None else f" [{low:+.1f}, {high:+.1f}]")
    return table("scaling", rows)
