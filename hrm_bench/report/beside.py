"""What lies beside the records of a sweep: what its cells answered to other questions, and how it was searched."""

from pathlib import Path
from typing import NamedTuple

from hrm_bench.report import answers, searches
from hrm_bench.report.answers import Answers
from hrm_bench.report.drawing import Plot
from hrm_bench.report.searches import Search
from hrm_bench.report.sheets import Sheet

FILES = (answers.FILE, searches.FILE)


class Beside(NamedTuple):
    """Of one sweep; what there is not is empty."""

    sweep: str
    answers: list[Answers]
    search: Search | None

    def answer_sheets(self) -> list[Sheet]:
        return answers.sheets(self.answers, self.sweep)

    def search_sheets(self) -> list[Sheet]:
        return [searches.sheet(self.search, self.sweep)] if self.search else []

    def answer_plots(self) -> list[Plot]:
        return answers.plots(self.answers, self.sweep)

    def search_plots(self) -> list[Plot]:
        return searches.plots(self.search, self.sweep) if self.search else []


def read(folder: Path, sweep: str) -> Beside:
    """What lies in the folder of a sweep that a report calls by this name."""
    return Beside(sweep, answers.read(folder), searches.read(folder))
