"""``python -m hrm_bench.compare FILE``: compare models by scores that were made elsewhere."""

import csv
import math
import statistics as plain
import sys
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

from hrm_bench import cli
from hrm_bench.errors import UsageError, allowed

COLUMNS = ("model", "seed", "score")
FILE = "a CSV file with the columns model, seed, score, and item if a seed has a score for each of several items"
KEYS = {
    "baseline": cli.Key("the model that the others are compared with", default="", shown="the first in the file"),
    "margin": cli.Key("percent within which a difference is none", float, 1.0, at_least=0),
    "plateau": cli.Key("score from which on a run has learned nothing", float, math.inf, shown="none"),
    "published": cli.Key(
        "a published difference to the baseline in percent, to be judged", float, math.nan, shown="none"
    ),
}
HELP = cli.Help("compare", "FILE [key=value ...]", {"FILE": FILE} | cli.arguments(KEYS), "mine.csv baseline=lstm")


def main(words: list[str]) -> int:
    """Print a table of all models, and how to report each comparison."""
    from hrm_bench.comparison import compare
    from hrm_bench.statistics import holm

    if not words or "=" in words[0]:
        raise HELP.misuse(words)
    values = cli.parse(words[1:], KEYS)
    scores = read(Path(words[0]))
    baseline = values["baseline"] or next(iter(scores))
    if baseline not in scores:
        raise UsageError(f"baseline={baseline}: not in the file; allowed are {allowed(scores)}")
    if len(scores) < 2:
        raise UsageError(f"{words[0]}: has one model only; give the scores of at least two")
    settings: dict[str, Any] = {"margin": values["margin"]}
    settings["plateau"] = values["plateau"] if math.isfinite(values["plateau"]) else None
    settings["published"] = values["published"] if math.isfinite(values["published"]) else None
    others = [name for name in scores if name != baseline]
    compared = [compare(scores[name], scores[baseline], names=(name, baseline), **settings) for name in others]
    adjusted = holm([found.difference.p for found in compared])
    rows = []
    for found, p in zip(compared, adjusted, strict=True):
        d = found.difference
        interval = "" if d.percent_low is None else f" [{d.percent_low:+.2f}, {d.percent_high:+.2f}]"
        judged = [found.verdict] if found.verdict else []
        rows.append([found.names[0], f"{found.levels[0].estimate:.4g}", f"{d.percent:+.2f} %{interval}"])
        rows[-1] += ["" if p is None else f"{p:.2g}", found.answer, *judged]
    headings = ["model", "mean", f"difference to {baseline}", "p (Holm)", "answer"]
    headings += ["published"] if settings["published"] is not None else []
    cli.print_table("Comparison", headings, rows, text_columns={"model", "answer", "published"})
    print("\nHow to report this:")
    print("\n".join(f"- {found}" for found in compared))
    return 0


def read(path: Path) -> dict[str, dict[int, float]]:
    """Return the score of each seed by model; a seed's items are averaged. Raises UsageError."""
    items: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
            raise UsageError(f"{path}: the first line lacks {allowed(missing)}; it must be model,seed,score")
        for line, row in enumerate(reader, start=2):
            try:
                model, seed, score = row["model"].strip(), int(row["seed"]), float(row["score"])
            except (TypeError, ValueError, AttributeError):
                raise UsageError(f"{path}, line {line}: seed must be a whole number, and score a number") from None
            item = row.get("item") or ""
            if item in items[model, seed]:
                raise UsageError(f"{path}, line {line}: {model} has seed {seed} twice{item and f' for item {item}'}")
            items[model, seed][item] = score
    if len({frozenset(some) for some in items.values()}) > 1:
        raise UsageError(f"{path}: every seed of every model must have the same items")
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for (model, seed), some in items.items():
        scores[model][seed] = plain.fmean(some.values())
    if not scores:
        raise UsageError(f"{path}: has no scores")
    return dict(scores)


class _Callable(types.ModuleType):
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        from hrm_bench.comparison import compare

        return compare(*arguments, **settings)


# To import this module makes it the package's attribute, in the place of the function of that name.
sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    cli.run(main, HELP)
