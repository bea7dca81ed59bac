"""``python -m benchmarks.hashes``: what a stated set of cells gives on this machine with portable arithmetic.

One line per cell: a hash of every epoch's losses and of both scores. docs/performance.md lists those of other machines.
"""

import hashlib
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from hrm_bench.records import store

WORDS = (
    *("-m", "model=hrm,infini_hrm,hrm_memory,lstm,transformer", "memory=carry", "data=sample", "recipe.max_epochs=3"),
    *("seed=42", "logger=none", "trainer.numerics=portable"),
)


def main() -> None:
    """Train the cells in a temporary folder and print the machine and the hashes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hrm_bench", *WORDS, f"hydra.sweep.dir={folder}/cells"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        records = list(store.read_all(Path(folder, "cells")))
    print(f"{_processor()}, Python {platform.python_version()}, torch {records[0]['versions']['torch']}")
    for record in records:
        losses = [(row["epoch"], row["train_nll"], row["validation_nll"]) for row in record["history"]]
        figures = repr((losses, record["validation"]["nll"], record["test"]["nll"]))
        digest = hashlib.sha256(figures.encode()).hexdigest()[:12]
        print(f"{record['model']:12} {digest}")


def _processor() -> str:
    """Return the name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
