"""Kill a sweep with SIGKILL at random moments, start it again each time, and compare its end with that of one left alone.

``python tests/kill.py [kills=20] [launcher=serial,joblib] [seed=0]``: 12 small cells, with memories that are carried,
random states, and patience that runs out. Exit status 1 where a record or a weight differs by a bit.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from conftest import SMALL
from test_run import figures, weights

from hrm_bench import progress, records

SWEEP = [
    *SMALL,
    *("data.train_chars=4000", "data.validation_chars=500", "data.test_chars=500", "data.order=contiguous"),
    *("data.windows_per_sample=2", "recipe.max_epochs=12", "recipe.patience=2", "recipe.learning_rate=0.01"),
    *("trainer.snapshot_seconds=0.05", "logger=none", "model=hrm,lct_2layer,infini_hrm,hrm_memory", "memory=carry"),
    *("seed=1,2,3", "-m"),
]
SECONDS_AT_WORK = 0.8  # after it was first seen to train, a sweep lives at most so long


def start(folder: Path, launcher: str) -> subprocess.Popen[bytes]:
    words = [*SWEEP, f"launcher={launcher}", f"hydra.sweep.dir={folder}"]
    with (folder.parent / "told.txt").open("ab") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "hrm_bench", *words], stdout=told, stderr=told, start_new_session=True
        )


def kill(folder: Path, launcher: str, chance: random.Random) -> str:
    """Start the sweep, let it work for a moment, kill all of its processes; what it was doing, or how it ended."""
    began = time.time()
    process = start(folder, launcher)
    while process.poll() is None and not any(
        path.stat().st_mtime > began for path in folder.glob(f"*/{progress.PROGRESS_FILE}")
    ):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, SECONDS_AT_WORK))
    ended = process.poll()
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sum(map(records.is_finished, records.read_all(folder)))
    snapshots = len(list(folder.glob("*/last.ckpt")))
    return f"ended with status {ended}" if ended is not None else f"{finished} of 12 finished, {snapshots} snapshots"


def differences(ours: Path, theirs: Path) -> list[str]:
    found = []
    names = sorted(path.parent.name for path in theirs.glob(f"*/{records.RECORD_FILE}"))
    assert len(names) == 12, names
    for name in names:
        one, other = (records.read(folder / name) for folder in (ours, theirs))
        if one is None or figures(one) != figures(other):
            found.append(f"{name}: another record")
        elif not all(
            torch.equal(mine, yours)
            for mine, yours in zip(weights(ours / name).values(), weights(theirs / name).values(), strict=True)
        ):
            found.append(f"{name}: other weights")
    return found


def main(words: list[str]) -> int:
    asked = {"kills": "20", "launcher": "serial,joblib", "seed": "0"} | dict(word.split("=") for word in words)
    chance = random.Random(int(asked["seed"]))
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        began = time.monotonic()
        if start(alone, "joblib").wait():
            print((alone.parent / "told.txt").read_text())
            return 1
        print(f"undisturbed, joblib: {time.monotonic() - began:.0f} s", flush=True)
        found = []
        for launcher in asked["launcher"].split(","):
            folder = Path(name) / launcher
            for number in range(1, int(asked["kills"]) + 1):
                print(f"{launcher}, kill {number}: {kill(folder, launcher, chance)}", flush=True)
            status = start(folder, launcher).wait()
            told = differences(folder, alone)
            print(f"{launcher}: last start ended with status {status}; {len(told)} of 12 cells differ", flush=True)
            found += told
        print("\n".join(found))
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
