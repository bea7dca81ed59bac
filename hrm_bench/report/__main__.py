"""``python -m hrm_bench.report [FOLDER ...]``: the tables of finished sweeps, again, from their records."""

import sys
from pathlib import Path

from hrm_bench import records
from hrm_bench.report import tables


def main(folders: list[str]) -> int:
    """Show and write the table of each sweep folder (default: all in multirun/); exit status 2 where one has none."""
    sweeps = [Path(folder) for folder in folders] or sorted(
        path for path in Path("multirun").glob("*") if path.is_dir()
    )
    if not sweeps:
        print("hrm_bench: multirun/: no sweeps here; run one, or give their folders", file=sys.stderr)
        return 2
    for sweep in sweeps:
        finished = [record for record in records.read_all(sweep) if records.is_finished(record)]
        if not finished:
            print(f"hrm_bench: {sweep}: no finished cells here; give the folder of a sweep", file=sys.stderr)
            return 2
        tables.show(finished)
        for path in tables.write(finished, sweep):
            print(f"Table: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
