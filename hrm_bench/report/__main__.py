"""``python -m hrm_bench.report [FOLDER ...]``: tables and pictures of finished sweeps, again, from their records."""

from pathlib import Path

from hrm_bench import records
from hrm_bench.errors import UsageError, command
from hrm_bench.report import plots, tables


def main(folders: list[str]) -> int:
    """Show and write what each sweep folder (default: all in multirun/) has finished, and one picture of them all.

    Raises UsageError where a folder has no finished cell.
    """
    sweeps = [Path(folder) for folder in folders]
    sweeps = sweeps or sorted(path.parent.parent for path in Path("multirun").glob(f"*/*/{records.RECORD_FILE}"))
    if not sweeps:
        raise UsageError("multirun/: no sweeps here; run one, or give their folders")
    together = []
    for sweep in dict.fromkeys(sweeps):
        finished = [record for record in records.read_all(sweep) if records.is_finished(record)]
        if not finished:
            raise UsageError(f"{sweep}: no finished cells here; give the folder of a sweep")
        tables.show(finished)
        for path in (*tables.write(finished, sweep), plots.write(finished, sweep / "results.svg")):
            print(f"Written: {path}")
        together += finished
    if len(set(sweeps)) > 1:
        print(f"Written: {plots.write(together, sweeps[0].parent / 'results.svg')}")
    return 0


if __name__ == "__main__":
    command(main)
