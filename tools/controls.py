"""Write what memories gain on tasks into papers/controls.json: ``python tools/controls.py ARCHIVE``."""

import json
import sys
from pathlib import Path

from hrm_bench.records import controls, store


def main(path: Path) -> None:
    """Replace the controls that the report knows by those of an archive or a sweep's folder."""
    measured = controls.measured(store.read_all(path))
    text = json.dumps([control._asdict() for control in measured], indent=1)
    controls.FILE.write_text(f"{text}\n", encoding="utf-8")
    print(f"{sum(control.passes for control in measured)} of {len(measured)} memories pass: {controls.FILE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
