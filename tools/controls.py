"""Write what memories gain on tasks into papers/controls.json: ``python tools/controls.py ARCHIVE``."""

import json
import sys
from pathlib import Path

from hrm_bench.records import controls, store


def main(path: Path) -> None:
    """Replace the controls that the report knows by those of an archive or a sweep's folder."""
    found = [control._asdict() for control in controls.measured(store.read_all(path))]
    controls.FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(control['low'] > controls.LEAST for control in found)} of {len(found)} memories pass: {controls.FILE}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
