"""Stopping cleanly: a signal, or a failure under ``fail_fast``, asks the cells of a sweep to stop and to be resumable.

A signal interrupts nothing by itself. It leaves a request, which a cell sees at its next batch: it writes a snapshot
and ends as ``interrupted``. A sweep's request is also a file in its folder, which its cells in other processes and on
other machines read; a signal to one of those stops that one alone. A sweep's job stops too if the process that started
it dies, so that the same command does not wait for it. A process that has not stopped after GRACE seconds (it was not
training, say), or at a second signal, is stopped by an exception in its main thread.

A sweep creates a ``StopSignal`` (``of_sweep``), listens, and passes it down. A job learns of it only by the environment
(VARIABLE) or, in the sweep's own process, by the signal handlers: ``of_process`` looks at both.
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
from typing import Any, Self

VARIABLE = "HRM_BENCH_STOP"  # in the environment of a sweep's jobs: the path of its request
GRACE = 6.0  # seconds
SECONDS_BETWEEN_READS = 0.5  # of the file
SIGNALS = (signal.SIGINT, signal.SIGTERM)
QUEUED = "SUBMITIT_EXECUTOR"  # in the environment of submitit's jobs, which submitit stops by handlers of its own
FAIL_FAST = "another cell failed, and fail_fast=true"
ANOTHER_RANK = "another process of the cell was stopped"
ORPHANED = "the command that started this process has died"
PARENT = os.getppid()  # as this process began


class Stopped(BaseException):
    """The end of a cell that was asked to stop; no ``except Exception`` on its way may catch it."""


class StopSignal:
    """A request to stop, as one process knows it."""

    def __init__(self, file: Path | None = None, *, is_sweep: bool = False) -> None:
        self.file = file  # where the other processes of the sweep look
        self.is_sweep = is_sweep  # whether this process is the sweep's own, whose signals are for all cells
        self.reason: str | None = None
        self.signal: int | None = None
        self._read_at = 0.0
        self._previous: dict[int, Any] = {}  # the handlers that were set before; empty unless it listens

    @classmethod
    def of_sweep(cls, folder: Path) -> Self:
        """Create the one of a sweep, with a new file in its folder."""
        return cls(folder.absolute() / f".stop-{uuid.uuid4().hex[:12]}", is_sweep=True)

    @classmethod
    def of_process(cls) -> Self:
        """Return the one that listens in this process, or a new one for the file that the environment names."""
        listener = getattr(signal.getsignal(signal.SIGALRM), "__self__", None)
        if isinstance(listener, cls):
            return listener
        return cls(Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None)

    @property
    def exit_status(self) -> int | None:
        """128 plus the signal's number, if a signal made the request."""
        return None if self.signal is None else 128 + self.signal

    def requested(self) -> str | None:
        """Return why this process is to stop, or None. Cheap enough to call at every batch."""
        if self.reason is None and self.file is not None and time.monotonic() - self._read_at > SECONDS_BETWEEN_READS:
            self._read_at = time.monotonic()
            if not self.is_sweep and os.getppid() != PARENT:
                self.reason = ORPHANED
            with contextlib.suppress(FileNotFoundError):
                self.reason = self.file.read_text(encoding="utf-8") or "stopped"
        return self.reason

    def request(self, reason: str) -> None:
        """Ask every cell of the sweep to stop."""
        self.reason = self.reason or reason
        if self.file is not None:
            with contextlib.suppress(OSError):  # on a full disk, at least this process knows
                self.file.write_text(reason, encoding="utf-8")

    @contextlib.contextmanager
    def listening(self) -> Iterator[Self]:
        """Turn the first signal into a request while it lasts; inside itself, and outside the main thread, do nothing.

        Raises RuntimeError if another StopSignal listens in this process: take that one, by ``of_process``.
        """
        if self._previous or threading.current_thread() is not threading.main_thread():
            yield self
            return
        if StopSignal.of_process()._previous:
            raise RuntimeError("another StopSignal listens in this process; use StopSignal.of_process()")
        timer, started = signal.getitimer(signal.ITIMER_REAL), time.monotonic()
        self._previous = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
        self.listen_again()
        try:
            yield self
        finally:
            if self.signal is not None:  # then the timer is ours: restore the host's
                left = timer[0] and max(timer[0] - (time.monotonic() - started), 0.001)
                signal.setitimer(signal.ITIMER_REAL, left, timer[1])
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous = {}
            if self.is_sweep and self.file is not None:
                self.file.unlink(missing_ok=True)

    def listen_again(self) -> None:
        """Set the handlers again if it listens: for a library that has set its own in between."""
        if self._previous and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A job that Slurm preempts must wait for its end: one that ends by itself is not queued again.
                signal.signal(number, self._previous[number] if QUEUED in os.environ else self._on_signal)
            signal.signal(signal.SIGALRM, self._on_alarm)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise Stopped(self.reason)
        self.signal = number
        signal.setitimer(signal.ITIMER_REAL, GRACE)
        reason = f"stopped by {signal.Signals(number).name}"
        if self.is_sweep:
            self.request(reason)
        else:
            self.reason = reason

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Stopped(self.reason)
        host = self._previous[number]  # the alarm is the host's own
        if callable(host):
            host(number, frame)
