"""Every file that is made of a sweep's records, and of several sweeps together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from hrm_bench import records as records_
from hrm_bench.records import Record
from hrm_bench.report import answers, claims, compare, page, plots, tables, verdicts
from hrm_bench.report.answers import Answers
from hrm_bench.report.sections import Section
from hrm_bench.report.sheets import Sheet

PAGE_FILE = "report.html"


def write_all(records: Sequence[Record], folder: Path) -> list[Path]:
    """Tables, pictures and the page of one sweep's records into its folder; the paths written.

    The records are all of the sweep, so that the page can name the cells that are not finished; one at least is.
    """
    return write_sweep(records, folder, page.drawn(records))


def write_sweep(records: Sequence[Record], folder: Path, made: Sequence[Section]) -> list[Path]:
    """The same, of sections that are drawn already."""
    finished = [record for record in records if records_.is_finished(record)]
    return [
        *tables.write(finished, folder),
        plots.write(finished, folder / "results.svg"),
        *_page(records, folder, made, asked={folder.resolve().name: answers.read(folder)}),
    ]


def write_together(
    sweeps: Mapping[str, Sequence[Record]],
    folder: Path,
    made: Sequence[Section],
    compared: Sequence[compare.Comparison] = (),
    asked: Mapping[str, Sequence[Answers]] = MappingProxyType({}),
) -> list[Path]:
    """The verdicts of all sweeps, their picture, their page, and how they compare; the paths written.

    ``asked`` is what the cells of each sweep answered to other questions.
    """
    records = [record for its in sweeps.values() for record in its]
    finished = [record for record in records if records_.is_finished(record)]
    return [
        *verdicts.write(claims.findings(finished), folder),
        *(compare.write(compared, folder) if compared else []),
        plots.write(finished, folder / "results.svg"),
        *_page(records, folder, made, compare.sheets(compared), asked=asked),
    ]


def _page(
    records: Sequence[Record],
    folder: Path,
    made: Sequence[Section],
    comparison: Sequence[Sheet] = (),
    *,
    asked: Mapping[str, Sequence[Answers]],
) -> list[Path]:
    path = page.write(records, folder / PAGE_FILE, made=made, comparison=comparison, asked=asked)
    return [path, folder / page.PLOTS_FOLDER]
