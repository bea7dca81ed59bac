"""The request to stop: from a signal, from a file, for one process or for a whole sweep."""

import os
import signal
import threading
import time

import pytest

from hrm_bench.training import stopping
from hrm_bench.training.stopping import Stopped, StopSignal


def test_a_signal_to_a_sweep_becomes_a_request_that_its_jobs_read(tmp_path, monkeypatch):
    before = {number: signal.getsignal(number) for number in (*stopping.SIGNALS, signal.SIGALRM)}
    with StopSignal.of_sweep(tmp_path).listening() as stop:
        monkeypatch.setenv(stopping.VARIABLE, str(stop.file))
        assert StopSignal.of_process() is stop
        job = StopSignal(stop.file)
        assert (stop.requested(), stop.exit_status) == (None, None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.requested(), stop.exit_status) == ("stopped by SIGTERM", 128 + signal.SIGTERM)
        assert job.requested() == "stopped by SIGTERM"
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            os.kill(os.getpid(), signal.SIGINT)
    assert not list(tmp_path.iterdir())
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_signal_to_a_job_stops_that_job_alone(tmp_path, monkeypatch):
    file = tmp_path / "stop"
    monkeypatch.setenv(stopping.VARIABLE, str(file))
    stop = StopSignal.of_process()
    assert stop.file == file
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested() == "stopped by SIGTERM"
    assert not file.exists()


def test_a_job_stops_if_the_command_that_started_it_has_died_and_a_command_does_not(tmp_path, monkeypatch):
    job, command = StopSignal(tmp_path / "stop"), StopSignal.of_sweep(tmp_path)
    assert job.requested() is None
    monkeypatch.setattr(stopping, "PARENT", -1)
    assert StopSignal(tmp_path / "stop").requested() == stopping.ORPHANED
    assert (command.requested(), StopSignal().requested()) == (None, None)  # as under nohup


def test_a_job_that_ends_leaves_the_request_to_the_others_and_the_sweep_removes_it(tmp_path):
    sweep = StopSignal.of_sweep(tmp_path)
    sweep.request("a test")
    for _ in range(2):
        with StopSignal(sweep.file).listening() as job:
            assert job.requested() == "a test"
    with sweep.listening():
        assert sweep.file.exists()
    assert not sweep.file.exists()


def test_a_process_that_does_not_stop_is_stopped_after_the_grace(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.05)
    with StopSignal().listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT"):
            time.sleep(5)


def test_listening_again_inside_is_nothing_new_and_another_signal_is_refused(tmp_path):
    stop = StopSignal.of_sweep(tmp_path)
    refused = pytest.raises(RuntimeError, match="another StopSignal listens")
    with stop.listening(), stop.listening(), refused, StopSignal().listening():
        pass
    assert StopSignal.of_process() is not stop


def test_a_library_that_sets_its_own_handlers_is_overruled(tmp_path):
    with StopSignal.of_sweep(tmp_path).listening() as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        StopSignal.of_process().listen_again()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested() == "stopped by SIGTERM"


@pytest.mark.parametrize("is_stopped", [False, True])
def test_the_hosts_own_timer_still_rings(is_stopped):
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with StopSignal().listening():
            if is_stopped:
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                time.sleep(0.3)
        time.sleep(0.3)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_thread_leaves_the_handlers_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def listen():
        with StopSignal.of_sweep(tmp_path).listening() as stop:
            handlers.append(signal.getsignal(signal.SIGTERM))
            stop.request("a test")
            handlers.append(stop.requested())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [before, "a test"]
