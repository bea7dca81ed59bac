"""``python -m hrm_bench.report [FOLDER ...]``: tables and pictures of finished sweeps, again, from their records."""

import sys
from pathlib import Path

from hrm_bench import records
from hrm_bench.errors import UsageError
from hrm_bench.report import plots, tables


def main(folders: list[str]) -> int:
    """Show and write what each sweep folder (default: all in multirun/) has finished, and one picture of them all.

    Exit status 2 where a folder has no finished cell.
    """
    sweeps = [Path(folder) for folder in folders]
    sweeps = sweeps or sorted(path.parent.parent for path in Path("multirun").glob(f"*/*/{records.RECORD_FILE}"))
    if not sweeps:
        print("hrm_bench: multirun/: no sweeps here; run one, or give their folders", file=sys.stderr)
        return 2
    together = []
    for sweep in dict.fromkeys(sweeps):
        finished = [record for record in records.read_all(sweep) if records.is_finished(record)]
        if not finished:
            print(f"hrm_bench: {sweep}: no finished cells here; give the folder of a sweep", file=sys.stderr)
            return 2
        tables.show(finished)
        for path in (*tables.write(finished, sweep), plots.write(finished, sweep / "results.svg")):
            print(f"Written: {path}")
        together += finished
    if len(set(sweeps)) > 1:
        print(f"Written: {plots.write(together, sweeps[0].parent / 'results.svg')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        print(f"hrm_bench: {error}", file=sys.stderr)
        sys.exit(2)
