"""``python -m hrm_bench.new NAME``: write a folder for a study of one's own, outside the package."""

import re
import shutil
from pathlib import Path

from hrm_bench import cli
from hrm_bench.errors import UsageError

HELP = cli.Help(
    name="new",
    words="FOLDER",
    arguments={
        "FOLDER": "a new folder: a model, its config, a text, a claim, a notebook and a README that says what to type"
    },
    example="my_study",
)


def main(words: list[str]) -> int:
    """Copy the example study into a new folder. Raises UsageError if the folder exists or cannot be created."""
    if len(words) != 1:
        raise HELP.misuse(words)
    folder = Path(words[0])
    if not re.fullmatch(r"\w[\w .-]*", folder.name):
        raise UsageError(f"{folder}: names a folder: allowed are letters, digits, spaces, _, - and dots; try my_study")
    try:
        shutil.copytree(study(), folder, ignore=shutil.ignore_patterns("__pycache__", "multirun"))
    except FileExistsError as error:
        raise UsageError(f"{folder}: exists already; give a new folder") from error
    print(f"Written: {folder}\nNext: cd {folder}, and read README.md there.")
    return 0


def study() -> Path:
    """Return the folder of the example: inside the installed package, or in examples/ of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "study"
    return installed if installed.is_dir() else package.parent / "examples" / "study"


if __name__ == "__main__":
    cli.run(main, HELP)
