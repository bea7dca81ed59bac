"""Commands as a user types them, in processes of their own: how long one waits for them, and cells per hour of a sweep.

A sweep does everything that belongs to its cells: audits, n-gram baselines, records, W&B and the report. The reference
models train in this process for as many epochs, with one validation per epoch and one test, and nothing else.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import reference.training

from benchmarks.settings import Batch, Settings
from benchmarks.table import Row, compare
from benchmarks.timing import Device, timed, use
from hrm_bench.config.compose import compose
from hrm_bench.records import store
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.progress import PROGRESS_FILE

START_QUESTION = "how long does a command take to its help and to its first training step?"
SWEEP_QUESTION = "how many cells per hour does a sweep train, compared with the reference in a bare loop?"
ROOT = Path(__file__).parent.parent
MODEL = "hrm"
FIRST_SEED = 42
IMPORT = "import torch, lightning"
TIMEOUT = 600.0  # seconds for any command
POLL_SECONDS = 0.005


def measure_start(settings: Settings) -> Iterator[Row | str]:
    """Yield rows of seconds."""
    seconds: dict[str, list[float]] = {IMPORT: [], "help": [], "first step": []}
    for _ in range(settings.few_rounds):
        with TemporaryDirectory() as folder:
            cells = Path(folder) / "cells"
            seconds[IMPORT].append(python("-c", IMPORT, cwd=Path(folder))[0])
            seconds["help"].append(python("-m", "hrm_bench", "--help", cwd=Path(folder))[0])
            words = ["-m", "hrm_bench", *settings.words(MODEL), f"hydra.run.dir={cells}"]
            # A cell reports its progress when its first epoch starts.
            started = until(partial(_any, cells, f"*/{PROGRESS_FILE}"), *words, cwd=Path(folder))
            seconds["first step"].append(started)
    for what in ("help", "first step"):
        yield compare(f"python -m hrm_bench, to its {what}", "one process", seconds, what, IMPORT, unit="s")


def measure_sweep(settings: Settings) -> Iterator[Row | str]:
    """Yield rows of cells per hour."""
    launchers = ["serial", "joblib"]
    if importlib.util.find_spec("joblib") is None:
        launchers.remove("joblib")
        yield "joblib is not installed; pip install 'hrm_bench[launchers]'"
    words = sweep_words(settings)
    seconds: dict[str, float] = {}
    for launcher in launchers:
        seconds[launcher], epochs = _sweep(words, range(FIRST_SEED, FIRST_SEED + settings.num_seeds), launcher)
    with use(Device("cpu", 1)):
        seconds["reference"] = timed(partial(_train_reference, words, epochs))
    rates = {way: [3600 * settings.num_seeds / second] for way, second in seconds.items()}
    shortest, longest = min(epochs.values()), max(epochs.values())
    note = f"measured once; {settings.num_seeds} cells of {MODEL}, {shortest} to {longest} epochs"
    for launcher in launchers:
        what, cores = f"sweep of {words[0].removeprefix('data=')}, launcher={launcher}", f"{os.cpu_count()} cores"
        yield compare(what, cores, rates, launcher, "reference", unit="cells/h", note=note)


def sweep_words(settings: Settings) -> list[str]:
    """Return the words of a sweep, but for its seeds and its launcher."""
    source = "wikitext2" if os.environ.get("HRM_BENCH_WIKITEXT") else "sample"
    return [*settings.words(MODEL, source), *(["recipe.max_epochs=2"] if settings.quick else [])]


def _sweep(words: list[str], seeds: Iterable[int], launcher: str) -> tuple[float, dict[int, int]]:
    """Return the seconds of the whole command, and the number of epochs of each seed."""
    command = ["-m", "hrm_bench", "-m", *words, f"seed={','.join(map(str, seeds))}", f"launcher={launcher}"]
    with TemporaryDirectory() as folder:
        seconds, _ = python(*command, "hydra.sweep.dir=cells", cwd=Path(folder))
        records = store.read_all(Path(folder) / "cells")
        return seconds, {record["seed"]: len(record["history"]) for record in records}


def _train_reference(words: list[str], epochs: dict[int, int]) -> None:
    """Train one reference model per seed, for its number of epochs."""
    for seed, num_epochs in epochs.items():
        config = compose(*words, f"seed={seed}")
        data = load_windows(config)
        training = reference.training.reference(config, dict(build(config).named_parameters()))

        def score(batches: Iterable[Batch], training: reference.training.DeepSupervision = training) -> None:
            for batch in batches:
                training.score(*batch)

        for epoch in range(num_epochs):
            data.batches.set_epoch(epoch)
            for indices in data.batches:
                training.train(*data.train[indices])
            score(data.val_dataloader())
        score(data.test_dataloader())


def environment(root: Path = ROOT) -> dict[str, str]:
    """Return this process's environment, in which any folder can import a checkout's package, and W&B stays offline."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {"PYTHONPATH": path, "WANDB_MODE": "offline"}
    if "HRM_BENCH_WIKITEXT" in variables:
        variables["HRM_BENCH_WIKITEXT"] = str(Path(variables["HRM_BENCH_WIKITEXT"]).absolute())
    return variables


def python(*words: str, cwd: Path, root: Path = ROOT) -> tuple[float, str]:
    """Return the seconds of ``python WORDS`` by a checkout's code, and what it prints.

    Raises CalledProcessError if it fails.
    """
    started = time.perf_counter()
    command = [sys.executable, *words]
    pipe, variables = subprocess.PIPE, environment(root)
    done = subprocess.run(
        command, cwd=cwd, env=variables, text=True, timeout=TIMEOUT, check=True, stdout=pipe, stderr=pipe
    )
    return time.perf_counter() - started, done.stdout


def until(happened: Callable[[], bool], *words: str, cwd: Path) -> float:
    """Return the seconds from the start of ``python WORDS`` until something happens; then interrupt it, as by Ctrl-C.

    Raises RuntimeError if the command ends first, or runs longer than TIMEOUT.
    """
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment(), stdout=subprocess.DEVNULL)
    try:
        while not happened():
            if process.poll() is not None or time.perf_counter() - started > TIMEOUT:
                raise RuntimeError(f"python {' '.join(words)} did not come to its first step")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGINT)  # without effect on a process that has ended
        try:
            process.wait(timeout=TIMEOUT / 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _any(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))
