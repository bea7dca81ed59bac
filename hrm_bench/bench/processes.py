"""Commands as a user types them, in processes of their own, and how long they take."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hrm_bench

PATIENCE = 600.0  # seconds that any command is given
POLL_SECONDS = 0.005
SHOWN = 800  # last characters of a failed command's errors


def environment() -> dict[str, str]:
    """This process's, in which the package is found from any folder, and W&B stays offline."""
    path = os.pathsep.join(filter(None, [str(Path(hrm_bench.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    found = os.environ | {"PYTHONPATH": path, "WANDB_MODE": "offline"}
    if "HRM_BENCH_WIKITEXT" in found:
        found["HRM_BENCH_WIKITEXT"] = str(Path(found["HRM_BENCH_WIKITEXT"]).absolute())
    return found


def python(*words: str, cwd: Path) -> tuple[float, str]:
    """Seconds that ``python WORDS`` takes, and what it prints. Raises RuntimeError where it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"python {' '.join(words)} ended with status {done.returncode}: {done.stderr[-SHOWN:]}")
    return seconds, done.stdout


def until(happened: Callable[[], bool], *words: str, cwd: Path) -> float:
    """Seconds from the start of ``python WORDS`` until something has happened; then it is interrupted, as by Ctrl-C.

    Raises RuntimeError where it ends before, or PATIENCE does.
    """
    started = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not happened():
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise RuntimeError(f"python {' '.join(words)} ended too early: {process.stderr.read()[-SHOWN:]}")
                if time.perf_counter() - started > PATIENCE:
                    raise RuntimeError(f"python {' '.join(words)} did not come so far in {PATIENCE:.0f} s")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - started
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=PATIENCE / 10)
                except subprocess.TimeoutExpired:
                    process.kill()
