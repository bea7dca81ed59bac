"""What a process does before it runs cells for a command that was given elsewhere."""

import os

FOLDER = "HRM_BENCH_FOLDER"  # in the environment of such a process: the working directory of the command


def enter_folder() -> None:
    """Work where the command was given, so that its relative paths mean the same; Ray's workers start elsewhere."""
    os.chdir(os.environ[FOLDER])
