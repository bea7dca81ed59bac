"""``python -m benchmarks.pairing [ARCHIVE ...]``: whether the same seed makes two variants' figures alike.

It correlates the validation perplexities of every two variants of an experiment over their common seeds, and compares
the interval of their difference with and without pairing. Runs on the plateau are left out.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

from hrm_bench import cli
from hrm_bench.intervals import difference, paired_difference
from hrm_bench.records import store
from hrm_bench.records.facts import is_on_plateau, recipe_name
from hrm_bench.records.grouping import grouped
from hrm_bench.records.schema import Record

FEWEST = 5  # common seeds


def measure(records: Iterable[Record]) -> Iterator[tuple[str, float, int, float]]:
    """Yield kind of pair, correlation, common seeds, and the width of the paired interval by that of the other."""
    studies = defaultdict(list)
    for record in records:
        if store.is_finished(record) and not is_on_plateau(record):
            studies[record["config"]["experiment"]["name"], recipe_name(record)].append(record)
    names = {name for name, _ in studies}
    for name in names:  # recipes are compared within a study only if the study is about them
        by_recipe = [some for (study, _), some in studies.items() if study == name]
        for some in by_recipe if name == "recipes" else [[record for part in by_recipe for record in part]]:
            for one, other in itertools.combinations(grouped(some), 2):
                seeds = [seed for seed in one.records if seed in other.records]
                if len(seeds) >= FEWEST:
                    sides = [[v.records[seed]["validation"]["perplexity"] for seed in seeds] for v in (one, other)]
                    paired, free = paired_difference(*sides), difference(*sides)
                    kind = "one model" if one.model == other.model else "two models"
                    if paired and free and None not in (paired.high, paired.low, free.high, free.low):
                        width = (paired.high - paired.low) / (free.high - free.low)  # type: ignore[operator]
                        yield kind, statistics.correlation(*sides), len(seeds), width


def main(words: list[str]) -> int:
    """Print one line per archive and kind of pair, and one for all."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    found = defaultdict(list)
    for path in map(Path, words or sorted(map(str, Path("results").glob("*.jsonl")))):
        for kind, *figures in measure(store.read_all(path)):
            for row in ((path.stem, kind), ("all", kind)):
                found[row].append(figures)
    print(
        "| records | variants of | pairs | mean correlation | 5 % to 95 % | if independent | paired / unpaired width |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for (name, kind), rows in sorted(found.items(), key=lambda item: item[0][0] == "all"):
        correlations, seeds, widths = (numpy.array(column) for column in zip(*rows, strict=True))
        low, high = numpy.quantile(correlations, (0.05, 0.95))
        chance = 1.64 * float(numpy.mean(1 / numpy.sqrt(seeds - 1)))  # a correlation of nothing has sd 1/√(n - 1)
        line = f"{correlations.mean():+.2f} | {low:+.2f} to {high:+.2f} | ±{chance:.2f} | {numpy.median(widths):.2f}"
        print(f"| {name} | {kind} | {len(rows)} | {line} |")
    return 0


if __name__ == "__main__":
    cli.run(main)
