"""python -m benchmarks.nulls [ARCHIVE ...]: how often one variant is called different from itself.

The seeds of each archived variant are halved, in their order, and the halves are compared as two variants are. Cells
that stand in several archives count once, and a variant is the same in all of them. Runs on the plateau are left out,
as in a comparison. Without words, all archives in results/ are read.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hrm_bench import cli
from hrm_bench.comparison import compare
from hrm_bench.errors import UsageError
from hrm_bench.intervals import MIN_SEEDS, percent_difference, rate
from hrm_bench.records import store
from hrm_bench.records.facts import is_on_plateau, recipe_name
from hrm_bench.records.grouping import grouped
from hrm_bench.records.schema import Record


class Null(NamedTuple):
    """A variant beside itself."""

    variant: str
    seeds: int  # of a half
    answer: str
    percent: float  # the difference
    width: float  # half of its interval, in percent


def measure(records: Iterable[Record]) -> Iterator[Null]:
    """Compare the halves of every variant with at least twice the seeds that give an interval."""
    once = {record["identity"]: record for record in records if store.is_finished(record)}
    counted = [r for r in once.values() if not is_on_plateau(r) and not r["config"]["data"].get("task")]
    for variant in grouped(counted):
        scores = [variant.records[seed]["validation"]["perplexity"] for seed in sorted(variant.records)]
        half = len(scores) // 2
        if half >= MIN_SEEDS:
            sides = scores[:half], scores[half : 2 * half]
            percent = percent_difference(*sides)
            width = (percent.high or 0) - (percent.low or 0)
            name = " ".join([variant.model, variant.memory, recipe_name(variant.first)])
            yield Null(name, half, compare(*sides).answer, percent.estimate, width / 2)


def main(words: list[str]) -> int:
    """Print one line per number of seeds, and how many are called different in all."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    for word in words:
        path = Path(word)
        if not word or not (path.is_dir() or path.suffix == store.ARCHIVE_SUFFIX):
            raise UsageError(f"{word or 'an empty name'}: no archive (.jsonl), and no folder; give archives of records")
    paths = words or sorted(map(str, Path("results").glob("*.jsonl")))
    nulls = [*measure(record for path in paths for record in store.read_all(Path(path)))]
    if not nulls:
        raise UsageError(f"no variant has {2 * MIN_SEEDS} finished seeds off the plateau; give archives with more")
    print("| seeds of a half | comparisons | different | equivalent | undecided | median interval |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for seeds in sorted({null.seeds for null in nulls}):
        some = [null for null in nulls if null.seeds == seeds]
        answers, widths = Counter(null.answer for null in some), sorted(null.width for null in some)
        shown = " | ".join(str(answers[answer]) for answer in ("different", "equivalent", "undecided"))
        print(f"| {seeds} | {len(some)} | {shown} | ±{widths[len(widths) // 2]:.1f} % |")
    different = rate(sum(null.answer == "different" for null in nulls), len(nulls))
    interval = f"[{100 * different.low:.1f}, {100 * different.high:.1f}] %"
    print(f"\n{different.number} of {different.runs} are called different: {interval}, where 5 % are expected.")
    return 0


if __name__ == "__main__":
    cli.run(main)
