"""The results on held-out articles: each variant, and its difference to the baseline for three populations."""

from typing import Any

from hrm_bench import crossed
from hrm_bench.crossed import Crossed, Interval
from hrm_bench.records.facts import article_nats, article_titles
from hrm_bench.report.frame import Study, compared_runs
from hrm_bench.report.tables import table
from hrm_bench.table import Table

ROWS = (("over_seeds", "seeds"), ("over_articles", "articles"), ("over_both", "both"))


def articles(study: Study) -> Table | None:
    """Show every variant whose records have held-out articles, by rank."""
    rows, number, read = (
        [],
        0,
        {v.Index: article_nats(compared_runs(v.records).values()) for v in study.variants.itertuples()},
    )
    for v in sorted(study.variants.itertuples(), key=lambda v: v.validation_mean):
        if own := read[v.Index]:
            row: dict[str, Any] = {"label": v.label, "level": _text(crossed.level(own), "{:.2f}", "over_both")}
            number = max(number, len(own[0]))
            baseline = read.get(v.baseline)
            if baseline and article_titles(v.first) == article_titles(study.variants["first"][v.baseline]):
                compared = crossed.percent_difference(own, baseline)
                row["difference"] = f"{compared.estimate:+.1f} %"
                row |= {name: _interval(getattr(compared, key), "{:+.1f}") for key, name in ROWS}
            rows.append(row)
    return table("articles", rows, number=number)


def _text(quantity: Crossed, form: str, key: str) -> str:
    return f"{form.format(quantity.estimate)} {_interval(getattr(quantity, key), form)}".rstrip()


def _interval(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f"[{form.format(interval[0])}, {form.format(interval[1])}]"
