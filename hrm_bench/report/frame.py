"""One row per variant of a sweep, with its statistics.

Perplexities are per character, at the epoch that is best on validation. Everything that the report shows is a function
of these tables, which are computed once.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from hrm_bench.intervals import Difference, difference, rate, sd
from hrm_bench.records import store
from hrm_bench.records.extras import read_adaptation, read_baselines, read_rescoring, read_search, sweep_name
from hrm_bench.records.facts import is_on_plateau, same_text
from hrm_bench.records.grouping import Variant, grouped
from hrm_bench.records.papers import published_figure
from hrm_bench.records.schema import Adaptation, Record, Rescoring, Search
from hrm_bench.records.tidy import cells
from hrm_bench.statistics import holm

NONE: Mapping[str, Mapping[str, Any]] = {}
RESULTS = (  # columns of results.csv
    *("model", "memory", "settings", "parameters", "seeds", "validation_mean", "validation_sd", "test_mean", "test_sd"),
    *("best_epoch", "published", "p_holm", "left_plateau", "left_rate_low", "left_rate_high", "left_mean", "left_sd"),
    *("on_plateau", "causal", "rank"),
    *(f"difference_{name}" for name in Difference._fields),
)


@dataclass(frozen=True)
class Study:
    """One experiment of one sweep: its finished cells, and one row per variant."""

    name: str
    cells: pandas.DataFrame
    variants: pandas.DataFrame


@dataclass(frozen=True)
class Sweep:
    """The records of a sweep and the files beside them."""

    name: str
    records: list[Record]
    whole: Study
    studies: list[Study]  # one per experiment
    rescoring: list[Rescoring]
    adaptation: list[Adaptation]
    search: Search | None

    @classmethod
    def of(cls, records: Iterable[Record], name: str = "", path: Path | None = None) -> "Sweep":
        """Compute everything from records, finished or not; without a name, the folder's or archive's is taken.

        A study is called after its experiment and, if the sweep has a name, after the sweep.
        """
        records, called = (
            list(records),
            name or (sweep_name(path) if path else ""),
        )
        table = cells([record for record in records if store.is_finished(record)], name)
        baselines = read_baselines(path) if path else {}
        whole = Study(name, table, variants(table.record.tolist(), baselines))
        studies = []
        for experiment, some in table.groupby("experiment", sort=False):
            title = experiment if name in ("", experiment) else f"{experiment} ({name})"
            rows = whole.variants if len(some) == len(table) else variants(some.record.tolist(), baselines)
            studies.append(Study(title, some, rows))
        extras = (read_rescoring(path), read_adaptation(path), read_search(path)) if path else ([], [], None)
        return cls(called, records, whole, studies, *extras)


def by_text(variants: Iterable[Any]) -> list[list[Any]]:
    """Group variants by the text that they were trained on, in their order."""
    groups: list[list[Any]] = []
    for v in variants:
        group = next((some for some in groups if same_text(some[0].first, v.first)), None)
        if group is None:
            groups.append([v])
        else:
            group.append(v)
    return groups


def variants(records: Sequence[Record], baselines: Mapping[str, Mapping[str, Any]] = NONE) -> pandas.DataFrame:
    """Return one row per variant of finished records: the columns of RESULTS, and

    - ``label``: model, memory, settings and whether it is not causal;
    - ``memory_shown``: empty if no cell of the model has a memory;
    - ``settings_values``, ``records`` (by seed), and ``first``, one of them;
    - ``baseline``: the row of the variant that it is compared with, or None.

    ``baselines`` are those of a sweep's last commands, by experiment; without one, that of the records counts.
    """
    groups = grouped(records)
    with_memory = {variant.model for variant in groups if variant.memory != "none"}
    columns = [*RESULTS, "label", "memory_shown", "settings_values", "records", "first", "baseline"]
    rows = pandas.DataFrame(columns=columns, dtype=object)
    for variant in groups:
        rows.loc[len(rows)] = dict.fromkeys(columns) | _row(variant, variant.model in with_memory)
    for row in rows.itertuples():
        candidates = [(other, _causal(rows.records[other])) for other in _baselines(rows, row, baselines)]
        theirs = {seed: record for _, one in candidates for seed, record in one.items()}
        if len(theirs) < sum(len(one) for _, one in candidates) or not theirs:
            continue  # several variants could be meant, or there is none
        rows.at[row.Index, "baseline"] = next(other for other, one in candidates if one)
        compared = difference(*([*_perplexities(compared_runs(some)).values()] for some in (row.records, theirs)))
        for name, value in compared._asdict().items() if compared else ():
            rows.at[row.Index, f"difference_{name}"] = value
    rows["p_holm"] = pandas.Series(holm(rows.difference_p.tolist()), dtype=object)
    rows["rank"] = pandas.Series([_rank(rows, row) for row in rows.itertuples()], dtype=object)
    return rows


def compared_runs(records: Mapping[int, Record]) -> dict[int, Record]:
    """Return the runs that a difference is of: those that left the plateau, or all if none did."""
    return {seed: r for seed, r in records.items() if not is_on_plateau(r)} or dict(records)


def _causal(records: Mapping[int, Record]) -> dict[int, Record]:
    return {seed: record for seed, record in records.items() if record["causal"]}


def _perplexities(records: Mapping[int, Record]) -> dict[int, float]:
    return {seed: record["validation"]["perplexity"] for seed, record in records.items()}


def _row(variant: Variant, has_memory: bool) -> dict[str, Any]:
    records, text = variant.records, variant.settings_text
    validation, test = _perplexities(records), [record["test"]["perplexity"] for record in records.values()]
    on_plateau = sorted(seed for seed, record in records.items() if is_on_plateau(record))
    left = [value for seed, value in validation.items() if seed not in on_plateau]
    leaving = rate(len(left), len(records))
    causal, shown = all(record["causal"] for record in records.values()), variant.memory if has_memory else ""
    return {
        **{"model": variant.model, "memory": variant.memory, "memory_shown": shown, "settings": text},
        **{"settings_values": variant.settings, "records": records, "first": variant.first, "seeds": len(records)},
        **{"parameters": variant.first["parameters"], "published": published_figure(variant.first)},
        **{"validation_mean": statistics.fmean(validation.values()), "validation_sd": sd([*validation.values()])},
        **{"test_mean": statistics.fmean(test), "test_sd": sd(test)},
        "best_epoch": statistics.fmean(record["best_epoch"] for record in records.values()),
        **{"left_plateau": len(left), "left_mean": statistics.fmean(left) if left else None, "left_sd": sd(left)},
        **{"left_rate_low": leaving.low, "left_rate_high": leaving.high},
        **{"on_plateau": tuple(on_plateau), "causal": causal},
        "label": " ".join(filter(None, (variant.model, shown, text, "" if causal else "(not causal)"))),
    }


def _baselines(rows: pandas.DataFrame, row: Any, baselines: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the rows that have the values of ``experiment.baseline``, the same text, and are otherwise like a variant.

    A model without memory is the same under any memory, and a setting that one of the two lacks tells nothing.
    """
    experiment = row.first["config"]["experiment"]
    values = dict(baselines.get(experiment["name"], experiment["baseline"]))
    model, memory = values.pop("model", row.model), values.pop("memory", row.memory)
    own = dict(row.settings_values)
    if (row.model, row.memory) == (model, memory) and all(own.get(n, value) == value for n, value in values.items()):
        return []  # it is the baseline
    if not ((rows.model == model) & (rows.memory != "none")).any():
        memory = "none"
    return [
        other.Index
        for other in rows[(rows.model == model) & (rows.memory == memory)].itertuples()
        if other.Index != row.Index
        and same_text(other.first, row.first)
        and all((own | values).get(name, value) == value for name, value in other.settings_values)
    ]


def _rank(rows: pandas.DataFrame, row: Any) -> int | None:
    """Return the rank by mean validation perplexity among the causal variants of the same text, from 1."""
    better = rows[rows.causal.astype(bool) & (rows.validation_mean < row.validation_mean)]
    return 1 + sum(same_text(other, row.first) for other in better["first"]) if row.causal else None
