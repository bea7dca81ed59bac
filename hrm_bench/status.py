"""``python -m hrm_bench.status [FOLDER ...]``: show how far sweeps are, also while they run on any machine."""

from pathlib import Path

from hrm_bench import cli
from hrm_bench.errors import UsageError
from hrm_bench.records.schema import MANIFEST_FILE

ALL = Path("multirun")
HELP = cli.Help(
    name="status",
    words="[FOLDER ...]",
    arguments={"FOLDER": f"a sweep; by default every sweep in {ALL}/"},
    example="multirun/recipes",
)


def main(words: list[str]) -> int:
    """Print the status of the cells of each sweep."""
    from hrm_bench.sweeps import display, sweep

    folders = [Path(word) for word in dict.fromkeys(words)]
    folders = folders or sorted(path.parent for path in ALL.glob(f"*/{MANIFEST_FILE}"))
    if not folders:
        raise UsageError(f"{ALL}/: no sweeps here; run one, or give their folders")
    for folder in folders:
        labels = sweep.read_manifest(folder)
        if not labels:
            raise UsageError(f"{folder}: no sweep here ({MANIFEST_FILE} is missing); give the folder of a sweep")
        display.print_status(folder.name, labels, folder, expected={})
    return 0


if __name__ == "__main__":
    cli.run(main, HELP)
