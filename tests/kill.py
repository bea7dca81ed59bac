"""Kill a sweep at random moments, start it again after each, and compare the result with an undisturbed sweep.

``python tests/kill.py [kills=20] [launcher=serial,joblib] [seed=0] [compile=never|always]``: 12 small cells, with
memories that are carried, random states, and patience that runs out. After each kill the folder stays, or is renamed,
moved to another place or copied there, in every order. Exit status 1 where a record or a weight differs by a bit.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from commands import start
from conftest import SMALL, figures, weights

from hrm_bench.records import store
from hrm_bench.sweeps import display

SWEEP = [
    *SMALL,
    *("data.train_chars=2000", "data.validation_chars=200", "data.test_chars=200", "data.order=contiguous"),
    *("data.windows_per_sample=2", "recipe.max_epochs=8", "recipe.patience=2", "recipe.learning_rate=0.01"),
    *("trainer.snapshot_seconds=0.05", "logger=none", "model=hrm,lct_2layer,infini_hrm,hrm_memory", "memory=carry"),
    *("seed=1,2,3", "-m"),
]


def launch(folder: Path, launcher: str, compiled: str) -> BaseProcess:
    folder.parent.mkdir(exist_ok=True)
    printed = folder.parent / "printed.txt"
    words = [*SWEEP, f"trainer.compile={compiled}", f"launcher={launcher}", f"hydra.sweep.dir={folder}"]
    return start(*words, cwd=folder.parent, out=printed, err=printed)


def end(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def renamed(folder: Path) -> Path:
    return folder.rename(folder.with_name(f"{folder.name}x"))


def moved(folder: Path) -> Path:
    place = folder.parent / "elsewhere"
    place.mkdir()
    return folder.rename(place / folder.name)


def copied(folder: Path) -> Path:
    copy = folder.with_name(f"{folder.name}c")
    shutil.copytree(folder, copy)
    shutil.rmtree(folder)
    return copy


def left(folder: Path) -> Path:
    return folder


def kill(folder: Path, launcher: str, compiled: str, seconds: float) -> str:
    """Start the sweep, kill all of its processes after some seconds of work; return how far it was, or how it ended."""
    began = time.time()
    process = launch(folder, launcher, compiled)
    while process.is_alive() and not any(
        path.stat().st_mtime > began for path in folder.glob(f"*/{display.PROGRESS_FILE}")
    ):
        time.sleep(0.01)
    time.sleep(seconds)
    killed = process.is_alive()
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    ended = end(process)
    finished = sum(map(store.is_finished, store.read_all(folder)))
    snapshots = len(list(folder.glob("*/last.ckpt")))
    return f"{finished} of 12 finished, {snapshots} snapshots" if killed else f"ended with status {ended}"


def differences(ours: Path, theirs: Path) -> list[str]:
    differing = []
    names = sorted(path.parent.name for path in theirs.glob(f"*/{store.RECORD_FILE}"))
    assert len(names) == 12, names
    for name in names:
        one, other = (store.read(folder / name) for folder in (ours, theirs))
        if one is None or figures(one) != figures(other):
            differing.append(f"{name}: another record")
        elif not all(
            torch.equal(mine, yours)
            for mine, yours in zip(weights(ours / name).values(), weights(theirs / name).values(), strict=True)
        ):
            differing.append(f"{name}: other weights")
    return differing


def main(words: list[str]) -> int:
    """Kill the sweep at random times that let it finish with about the last start; return 1 if a cell differs."""
    asked = {"kills": "20", "launcher": "serial,joblib", "seed": "0", "compile": "never"}
    asked |= dict(word.split("=") for word in words)
    chance, compiled = random.Random(int(asked["seed"])), asked["compile"]
    orders = [*itertools.permutations((renamed, moved, copied, left))]
    chance.shuffle(orders)
    with tempfile.TemporaryDirectory() as name:
        alone = Path(name) / "alone"
        if end(launch(alone, "serial", compiled)):
            print((alone.parent / "printed.txt").read_text())
            return 1
        work = sum(record["seconds"] for record in store.read_all(alone))
        print(f"undisturbed: {work:.0f} s in its cells", flush=True)
        differing = []
        for launcher in asked["launcher"].split(","):
            folder = Path(name) / launcher / "sweep"
            places = itertools.cycle(place for order in orders for place in order)
            for number, place in zip(range(1, int(asked["kills"]) + 1), places, strict=False):
                at_once = 1 if launcher == "serial" else os.cpu_count() or 1
                seconds = chance.uniform(0, 1.5 * work / at_once / int(asked["kills"]))
                how = kill(folder, launcher, compiled, seconds)
                folder = place(folder)
                print(f"{launcher}, kill {number}: {how}; then {place.__name__}", flush=True)
            status = end(launch(folder, launcher, compiled))
            differences_here = differences(folder, alone)
            print(
                f"{launcher}: last start ended with status {status}; {len(differences_here)} of 12 cells differ",
                flush=True,
            )
            differing += differences_here
        print("\n".join(differing))
        return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
