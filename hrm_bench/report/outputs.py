"""Every file that is made of a sweep's records, and of several sweeps together."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrm_bench.records import store as records_
from hrm_bench.records.schema import Record
from hrm_bench.report import beside, claims, compare, page, plots, tables, verdicts
from hrm_bench.report.beside import Beside
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
        *_page(records, folder, made, beside=[beside.read(folder, folder.resolve().name)]),
    ]


def write_together(
    sweeps: Mapping[str, Sequence[Record]],
    folder: Path,
    made: Sequence[Section],
    compared: Sequence[compare.Comparison] = (),
    found: Sequence[Beside] = (),
) -> list[Path]:
    """The verdicts of all sweeps, their picture, their page, and how they compare; the paths written.

    ``found`` is what lies beside their records.
    """
    records = [record for its in sweeps.values() for record in its]
    finished = [record for record in records if records_.is_finished(record)]
    return [
        *verdicts.write(claims.findings(finished), folder),
        *(compare.write(compared, folder) if compared else []),
        plots.write(finished, folder / "results.svg"),
        *_page(records, folder, made, compare.sheets(compared), beside=found),
    ]


def _page(
    records: Sequence[Record],
    folder: Path,
    made: Sequence[Section],
    comparison: Sequence[Sheet] = (),
    *,
    beside: Sequence[Beside],
) -> list[Path]:
    path = page.write(records, folder / PAGE_FILE, made=made, comparison=comparison, beside=beside)
    return [path, folder / page.PLOTS_FOLDER]
