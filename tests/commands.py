"""Commands in processes of their own, forked from one that has imported what takes a short command most of its time.

Its modules, arguments, environment, folder, streams and exit status are as ``python -m`` has them.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

SECONDS = 240  # that any command is given
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["lightning", "scipy.stats", "hydra"])


def hrm_bench(*words, cwd, module="hrm_bench", forked=True, **environment):
    """``python -m MODULE WORDS`` in a folder: how it ended, and what it printed."""
    command, environment = [sys.executable, "-m", module, *words], os.environ | environment
    if not forked:
        pipes = {"capture_output": True, "text": True}
        return subprocess.run(command, cwd=cwd, env=environment, timeout=SECONDS, check=False, **pipes)
    with tempfile.TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        process = start(*words, cwd=cwd, module=module, environment=environment, out=out, err=err)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, SECONDS, out.read_bytes(), err.read_bytes())
        return subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())


def start(*words, cwd, module="hrm_bench", environment=os.environ, out, err):
    """The process of a command, the first of a group of its own, that prints at the end of two files."""
    process = FORKED.Process(target=_become, args=(module, words, cwd, dict(environment), out, err))
    process.start()
    return process


def _become(module, words, cwd, environment, out, err):
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background shell has ignored
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [str(cwd), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # as an interpreter ends, and a fork does not
        threading._shutdown()
        atexit._run_exitfuncs()
