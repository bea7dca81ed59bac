"""One cell, from its config to its record, whatever happens to it on the way."""

import errno
import logging
import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import filelock
import torch
from omegaconf import DictConfig, OmegaConf

from hrm_bench.cells import trackers
from hrm_bench.cells.provenance import code_version
from hrm_bench.cells.scoring import train_and_score
from hrm_bench.config.compose import SWEEP_KEYS
from hrm_bench.config.identity import cell_name, identity, memory_mode
from hrm_bench.data import corpora
from hrm_bench.records import store
from hrm_bench.records.schema import SCHEMA_VERSION, Record
from hrm_bench.training import progress, snapshots, stopping
from hrm_bench.training.recorder import Recorder

log = logging.getLogger("hrm_bench")

LOG_FILE = "log.txt"


def cell_folder(cfg: DictConfig, root: Path) -> Path:
    """Where the cell's files are, in the folder of its sweep."""
    return root / cell_name(cfg, corpora.load(cfg.data).fingerprint)


def run_cell(cfg: DictConfig, root: Path) -> Record:
    """Train the cell, unless its folder in ``root`` holds it finished; its record, also where it failed.

    Where the cell is at work in another process, or is asked to stop before it has begun, the record has that status
    (``busy``, ``waiting``) alone and is written nowhere. Nothing that can happen to a cell is raised.
    """
    if stopping.requested() is not None:
        return Record(status="waiting")
    try:
        folder = cell_folder(cfg, root)
        folder.mkdir(parents=True, exist_ok=True)
        with stopping.listening(), locked(folder) as is_ours:
            if not is_ours:
                return Record(status="busy")
            found, notes = store.read_or_set_aside(folder)
            return found if found is not None and store.is_finished(found) else _run_locked(cfg, folder, notes)
    except Exception as error:  # before there is a log to tell it: the folder cannot be made, or the disk is full
        return Record(status="failed", reason=_reason(error))


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Have the cell to ourselves; false where it is another's. A lock ends with its process, however that ends."""
    lock = filelock.FileLock(folder / store.LOCK_FILE)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def clear(folder: Path, *keep: str) -> None:
    """Remove what an earlier run of the cell left, but for its lock, what was set aside, and these."""
    for path in folder.iterdir():
        if path.name not in (store.LOCK_FILE, *keep) and not store.is_set_aside(path):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _run_locked(cfg: DictConfig, folder: Path, notes: list[str]) -> Record:
    record = _opening(cfg, folder)
    marks = {"identity": record["identity"], "code": record["code"]}
    before = snapshots.find(folder, marks, notes)
    clear(folder, *((snapshots.SNAPSHOT_FILE, snapshots.BEST_FILE, LOG_FILE) if before else ()))
    mirror = None
    with _log_to(folder / LOG_FILE):
        try:
            OmegaConf.save(OmegaConf.create(record["config"]), folder / store.CONFIG_FILE)
            mirror = trackers.Mirror(
                cfg, name=folder.name, memory=record["memory"], folder=folder, run=before["run"] if before else None
            )
            for row in before["history"] if before else []:
                mirror.log(row)
            if before:
                log.info("the cell goes on from its snapshot, after %d whole epochs", len(before["history"]))
            recorder = Recorder(folder, mirror, with_memory=record["memory"] != "none")
            record |= train_and_score(cfg, folder, recorder, marks=marks) | Record(status="finished")
        except (stopping.Stopped, KeyboardInterrupt) as stop:  # the latter where no handler of ours could be set
            reason = str(stop) if isinstance(stop, stopping.Stopped) else "stopped"
            record |= Record(status="interrupted", reason=reason, log=str(folder / LOG_FILE))
        except Exception as error:
            log.exception("the cell failed")
            record |= Record(status="failed", reason=_reason(error), log=str(folder / LOG_FILE))
            if cfg.fail_fast:
                stopping.request(stopping.FAIL_FAST)
        finally:  # what else is raised is of submitit, which has queued its job again: that goes on with the cell
            progress.clear(folder)
        if notes:
            record["notes"] = notes
        if mirror is not None:
            record["wandb"] = mirror.mode
        record = _close(folder, record)
        if record["status"] == "finished":
            (folder / snapshots.SNAPSHOT_FILE).unlink(missing_ok=True)
        if mirror is not None:
            mirror.finish(record)
    return record


def fail(cfg: DictConfig, folder: Path, reason: str) -> Record:
    """The record of a cell that could not write one itself, since its process died; written, if that can be."""
    folder.mkdir(parents=True, exist_ok=True)
    record = _opening(cfg, folder) | Record(status="failed", reason=reason, log=str(folder / LOG_FILE))
    progress.clear(folder)
    return _close(folder, record)


def _close(folder: Path, record: Record) -> Record:
    """Write the record; where that cannot be, the record that says so."""
    try:
        store.write_json(folder / store.RECORD_FILE, record)
    except OSError as error:
        told = f"{record['reason']}; " if "reason" in record else ""
        return record | Record(status="failed", reason=f"{told}its record cannot be written: {_reason(error)}")
    return record


def _opening(cfg: DictConfig, folder: Path) -> Record:
    """What is known of a cell before it runs."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    fingerprint = corpora.load(cfg.data).fingerprint
    return Record(
        schema_version=SCHEMA_VERSION,
        identity=identity(cfg, fingerprint),
        code=code_version(cfg),
        config={str(key): value for key, value in config.items() if key not in SWEEP_KEYS},
        text=fingerprint[:12],
        model=cfg.model.name,
        memory=memory_mode(cfg),
        seed=cfg.seed,
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("hrm_bench", "torch", "lightning")},
    )


def _reason(error: Exception) -> str:
    """Why a cell failed, in one line, with what to do about it where that is known."""
    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator: " in told:
        return f"out of memory ({told}); try a smaller recipe.batch_size, or trainer.micro_batches=4"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in told or "PytorchStreamWriter" in told:
        return f"the disk is full ({told}); make room, and the same command goes on"
    return told


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Everything that libraries say goes into the cell's log, so that the terminal stays the user's."""
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    names = ("hrm_bench", "lightning.pytorch", "lightning.fabric", "py.warnings")
    loggers = [logging.getLogger(name) for name in names]
    kept = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if logger is log else logging.WARNING)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            # The windows are indexed in memory: there is nothing for workers to do.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # The checkpoint stands in the cell's folder, beside its config, on purpose.
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            # A cell is one task, wherever it runs; Lightning would have each task of a cluster be a rank.
            warnings.filterwarnings("ignore", message="The `srun` command is available on your system.*")
            # Lightning's own use of PyTorch, which a newer Lightning will mend.
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, (logger.handlers, logger.propagate, level) in zip(loggers, kept, strict=True):
            logger.setLevel(level)
        handler.close()
