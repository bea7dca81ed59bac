"""Stopping cleanly: a signal, or a failure under ``fail_fast``, asks all cells of a sweep to stop where they can go on.

Nothing is torn apart by a signal. It leaves a request, which a cell finds at its next batch: it writes a snapshot and
ends as ``interrupted``. A sweep's request is a file too, in its folder, so that its cells in other processes and on
other machines find it; a signal to one of those stops that one alone. What has not stopped after GRACE seconds (it was
not training, say), or at a second signal, is stopped by an exception in the main thread.
"""

import contextlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

VARIABLE = "HRM_BENCH_STOP"  # in the environment of a sweep's jobs: the path of its request
GRACE = 6.0  # seconds
SECONDS_BETWEEN_LOOKS = 0.5  # at the file
SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUEUED = "SUBMITIT_EXECUTOR"  # in the environment of submitit's jobs, which it stops by signals and handlers of its own
FAIL_FAST = "another cell failed, and fail_fast=true"
ANOTHER_RANK = "another process of the cell was stopped"


class Stopped(BaseException):
    """A cell was asked to stop; no ``except Exception`` on its way may keep it from doing so."""


class Request:
    """What a process knows of a request to stop; ``file`` is where the other processes of its sweep look."""

    def __init__(self, file: Path | None, *, is_ours: bool = False) -> None:
        self.file = file
        self.is_ours = is_ours  # this process is the sweep's own, not that of one of its jobs
        self.reason: str | None = None
        self.signal: int | None = None
        self._looked = 0.0

    @property
    def exit_status(self) -> int | None:
        """128 and the signal's number, where it was a signal."""
        return None if self.signal is None else 128 + self.signal

    def look(self) -> None:
        """Read the file, where it was not looked at just now."""
        if self.reason is None and self.file is not None and time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            with contextlib.suppress(FileNotFoundError):
                self.reason = self.file.read_text(encoding="utf-8") or "stopped"

    def make(self, reason: str) -> None:
        """Ask every cell of the sweep."""
        self.reason = self.reason or reason
        if self.file is not None:
            with contextlib.suppress(OSError):  # on a full disk, this process at least knows
                self.file.write_text(reason, encoding="utf-8")


_current: Request | None = None
_kept: dict[int, Any] = {}  # the handlers that were there before


def requested() -> str | None:
    """Why this process is to stop, or None. Cheap enough to ask at every batch."""
    request = _current or Request(_file_of_the_sweep())
    request.look()
    return request.reason


def request(reason: str) -> None:
    """Ask every cell of the sweep that this process belongs to."""
    (_current or Request(_file_of_the_sweep())).make(reason)


@contextlib.contextmanager
def listening(folder: Path | None = None) -> Iterator[Request]:
    """Turn the first signal into a request while it lasts; the request's file is new in a sweep's ``folder``.

    Inside of itself, as where a sweep runs its cells in its own process, it changes nothing.
    """
    global _current
    if _current is not None:
        yield _current
        return
    file = _file_of_the_sweep() if folder is None else folder.absolute() / f".stop-{uuid.uuid4().hex[:12]}"
    _current = Request(file, is_ours=folder is not None)
    main = threading.current_thread() is threading.main_thread()  # the only one that may set handlers
    if main:
        _kept.update({each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGALRM)})
    listen_again()
    try:
        yield _current
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in _kept.items():
            signal.signal(each, handler)
        _kept.clear()
        _current = None
        if folder is not None and file is not None:
            file.unlink(missing_ok=True)


def listen_again() -> None:
    """Set the handlers, where they are to be: for a library that has set its own in between."""
    if _current is not None and threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            # A job that Slurm preempts is to wait for its end: one that ends by itself before is not queued again.
            signal.signal(each, _kept[each] if QUEUED in os.environ else _on_signal)
        signal.signal(signal.SIGALRM, _on_alarm)


def _on_signal(number: int, _: FrameType | None) -> None:
    assert _current is not None
    if _current.signal is not None:
        raise Stopped(_current.reason)
    _current.signal = number
    signal.setitimer(signal.ITIMER_REAL, GRACE)
    reason = f"stopped by {signal.Signals(number).name}"
    if _current.is_ours:
        _current.make(reason)
    else:
        _current.reason = reason


def _on_alarm(number: int, _: FrameType | None) -> None:
    assert _current is not None
    raise Stopped(_current.reason)


def _file_of_the_sweep() -> Path | None:
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None
