"""Claims decided in rounds: seeds come a few at a time, and each claim stops as soon as it is decided.

A claim is looked at after 4, 8, 16, 32 … seeds. To look often must not make wrong verdicts more frequent. So each look
has an equal part of the 5 % by which a verdict may be wrong (Bonferroni), and its intervals are wider than those of a
number of seeds that is fixed beforehand. A look uses the first seeds alone, whatever else has run: so a command that
was killed goes on as if it had not been.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas

from hrm_bench import intervals
from hrm_bench.records import store
from hrm_bench.records.facts import recipe_name
from hrm_bench.records.papers import Claim, Paper
from hrm_bench.records.schema import Record
from hrm_bench.records.tidy import cells
from hrm_bench.report.claims import Judged, judge

FIRST_LOOK = 4  # seeds
FIRST_SEED = 42
Run = Callable[[str, Sequence[str]], int]  # of an experiment and more words of its command: an exit status


class Question(NamedTuple):
    """A claim in one of its experiments."""

    claim: Claim
    experiment: str


class Look(NamedTuple):
    """What is known of a question after some seeds."""

    seeds: int
    finding: Any  # a row of Judged.findings; None if the records do not measure the claim
    reason: str = ""  # why they do not

    @property
    def is_decided(self) -> bool:
        """Whether more seeds would change nothing."""
        return self.finding is None or self.finding.verdict != "undecided" or self.finding.short == "articles"


def looks(most: int) -> list[int]:
    """Return after how many seeds a claim is looked at: twice as many each time, at most ``most``."""
    numbers = [FIRST_LOOK]
    while numbers[-1] < most:
        numbers.append(min(2 * numbers[-1], most))
    return numbers


def confidence(most: int) -> float:
    """Return the confidence of the intervals of each look."""
    return 1 - (1 - intervals.CONFIDENCE) / len(looks(most))


class Decision:
    """The state of all questions of a paper's claims, and the rounds that decide them."""

    def __init__(self, paper: Paper, folder: Path, recipe: str, *, most: int, with_cases: Collection[str] = ()) -> None:
        """Ask about the claims of a paper; ``folder`` has a sweep per experiment, whose cells have this recipe.

        ``with_cases`` are the experiments that list their variants: all of these run, since a word that chooses a model
        would change every variant.
        """
        self.paper, self.folder, self.recipe, self.most = paper, folder, recipe, most
        self.questions = [Question(claim, name) for claim in paper.claims for name in claim.experiments]
        self.with_cases = with_cases
        self.looks = looks(most)
        self.last: dict[int, Look] = {}  # by number of the question: its last look

    @property
    def open(self) -> list[int]:
        """The questions that are not decided, those that need the fewest seeds first."""
        numbers = [n for n in range(len(self.questions)) if n not in self.last or not self.last[n].is_decided]
        return sorted(numbers, key=self._needed)

    def rounds(self, run: Run, *, minutes: float | None = None, report: Callable[[int], None]) -> int:
        """Run what is missing, look, and go on with what is open; return 1 if a cell failed, else 0.

        Args:
            run: runs the cells of an experiment.
            minutes: begin no cells after so many, nor cells that would take longer; None: no limit.
            report: called after each look with its number of seeds.

        An exit status of ``run`` above 1 ends all and is returned.
        """
        started, status = time.monotonic(), 0
        for seeds in self.looks:
            for group in self._groups(seeds, minutes is not None):
                left = None if minutes is None else 60 * minutes - (time.monotonic() - started)
                if left is not None and left < self.seconds(group, seeds):
                    continue
                for experiment, words in self.commands(group, seeds):
                    ended = run(experiment, words)
                    if ended not in (0, 1):
                        return ended
                    status = max(status, ended)
                self.look(group, seeds)
            report(seeds)
            if not self.open:
                break
        return status

    def _groups(self, seeds: int, one_by_one: bool) -> list[list[int]]:
        """Return the open questions that were looked at in the round before, in the order in which they run."""
        before = [number for number in self.looks if number < seeds]
        wanted = [n for n in self.open if not before or (n in self.last and self.last[n].seeds == before[-1])]
        return [[n] for n in wanted] if one_by_one else [wanted] if wanted else []

    def commands(self, numbers: Iterable[int], seeds: int) -> list[tuple[str, list[str]]]:
        """Return, per experiment, the words that run the cells of some questions with so many seeds."""
        by_experiment: dict[str, list[Mapping[str, Any]]] = {}
        for number in sorted(numbers):
            claim, experiment = self.questions[number]
            by_experiment.setdefault(experiment, []).extend(claim.cells)
        return [(name, _words([] if name in self.with_cases else some, seeds)) for name, some in by_experiment.items()]

    def look(self, numbers: Iterable[int], seeds: int) -> None:
        """Judge some questions by their first seeds."""
        for experiment in dict.fromkeys(self.questions[n].experiment for n in numbers):
            with intervals.at_confidence(confidence(self.most)):
                judged = judge(cells(self.records(experiment, seeds)), [self.paper])
            for number in numbers:
                claim, name = self.questions[number]
                if name == experiment:
                    self.last[number] = self._found(judged, claim, experiment, seeds)

    def _found(self, judged: Judged, claim: Claim, experiment: str, seeds: int) -> Look:
        for row in judged.findings.itertuples():
            if (row.claim, row.experiment, row.recipe) == (claim.claim, experiment, self.recipe):
                return Look(seeds, row)
        reasons = [m["reason"] for m in judged.missing if (m["claim"], m["experiment"]) == (claim.claim, experiment)]
        return Look(seeds, None, *reasons[:1])

    def records(self, experiment: str, seeds: int) -> list[Record]:
        """Return the finished records of an experiment that have the recipe and one of the first seeds."""
        wanted = range(FIRST_SEED, FIRST_SEED + seeds)
        some = store.read_whole(self.folder / experiment)
        return [r for r in some if store.is_finished(r) and r["seed"] in wanted and recipe_name(r) == self.recipe]

    def seconds(self, numbers: Iterable[int], seeds: int) -> float:
        """Return how long the missing cells of a look take one after another, if each takes the median."""
        total = 0.0
        for experiment, words in self.commands(numbers, seeds):
            models = next((word.split("=")[1].split(",") for word in words if word.startswith("model=")), [])
            run = [r for r in self.records(experiment, self.most) if not models or r["model"] in models]
            per_seed = max(Counter(record["seed"] for record in run).values(), default=len(models))
            have = sum(record["seed"] < FIRST_SEED + seeds for record in run)
            each = statistics.median(record["seconds"] for record in run) if run else 0.0
            total += max(0, per_seed * seeds - have) * each
        return total

    def rows(self) -> list[dict[str, Any]]:
        """Return what a table of the rounds shows: a row per question."""
        rows = []
        for number, (claim, experiment) in enumerate(self.questions):
            look = self.last.get(number)
            row: dict[str, Any] = {"claim": claim.claim, "experiment": experiment, "look": look}
            if look is not None and not look.is_decided:
                after = next((seeds for seeds in self.looks if seeds > look.seeds), None)
                row |= {"next": after, "seconds": self.seconds([number], after) if after else None}
            rows.append(row)
        return rows

    def judged(self) -> Judged:
        """Return the last finding about each question."""
        rows = [look.finding._asdict() for _, look in sorted(self.last.items()) if look.finding is not None]
        frame = pandas.DataFrame(rows, dtype=object).drop(columns="Index", errors="ignore")
        columns = judge(cells([]), [self.paper]).findings.columns
        looks = ", ".join(map(str, self.looks))
        note = (
            f" Seeds came in rounds, and a claim stopped when it was decided. Each look, after {looks} seeds, has "
            f"intervals of {100 * confidence(self.most):.3g} %."
        )
        return Judged(frame.reindex(columns=columns), [], note)

    def _needed(self, number: int) -> tuple[float, int]:
        look = self.last.get(number)
        needed = None if look is None or look.finding is None else look.finding.seeds_needed
        return (float("inf") if needed is None else float(needed), number)


def _words(some: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    """Return the words of a sweep over some cells of claims and the first seeds.

    Cells with settings of their own are those of the experiment: its lists stay as they are, as without any cells.
    """
    words = [f"seed={','.join(map(str, range(FIRST_SEED, FIRST_SEED + seeds)))}"]
    if not some or any(set(cell) - {"model", "memory"} for cell in some):
        return words
    memories = dict.fromkeys(str(cell["memory"]) for cell in some if "memory" in cell)
    words.insert(0, f"model={','.join(dict.fromkeys(str(cell['model']) for cell in some))}")
    return [*words[:1], *([f"memory={','.join(memories)}"] if memories else []), *words[1:]]
