"""One cell, from its config to its record, whatever happens to it on the way."""

import contextlib
import errno
import functools
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import filelock
import numpy
import torch
from omegaconf import DictConfig, OmegaConf

from hrm_bench import __version__, numerics
from hrm_bench.cells import compiling, preflight
from hrm_bench.cells.cell import Cell
from hrm_bench.cells.host import log_to, undisturbed
from hrm_bench.cells.provenance import code_version
from hrm_bench.cells.trackers import Tracker, tracker_of
from hrm_bench.charlm import CharLM
from hrm_bench.data.corpora import Library
from hrm_bench.data.text import VOCABULARIES
from hrm_bench.data.windows import Windows
from hrm_bench.evidence import articles, floors, probes
from hrm_bench.evidence.measures import Trained, measure, nats_of_characters
from hrm_bench.records import check, store
from hrm_bench.records.schema import SCHEMA_VERSION, Epoch, Record
from hrm_bench.training import peak_memory, progress, ranks, snapshots
from hrm_bench.training.build import build, load_windows
from hrm_bench.training.fit import characters_per_epoch, fit
from hrm_bench.training.recorder import HISTORY_FILE, Recorder
from hrm_bench.training.stopping import FAIL_FAST, Stopped, StopSignal

log = logging.getLogger("hrm_bench")

LOG_FILE = "log.txt"
NATS_FILE = "nats.npz"  # the nats of each scored character
RESUMED = (snapshots.SNAPSHOT_FILE, snapshots.BEST_FILE, LOG_FILE)  # that a resumed cell keeps
WRITTEN = (*RESUMED, store.RECORD_FILE, store.CONFIG_FILE, HISTORY_FILE, NATS_FILE, progress.PROGRESS_FILE)
FOLDERS = ("wandb", "csv", "tensorboard")  # of trackers
PATTERNS = (*WRITTEN, *(f".{name}.[0-9]*" for name in WRITTEN), "log-rank[0-9]*.txt", *FOLDERS)


@functools.cache
def process_library() -> Library:
    """Return the library of this process, for the cells that a launcher runs in it, one call per cell.

    A launcher's worker keeps nothing else from one job to the next. Counting a text again takes up to half a minute
    per cell.
    """
    return Library()


def cell_folder(cfg: DictConfig, root: Path) -> Path:
    """Return the folder of a config's cell, in the folder of its sweep."""
    return Cell.of(cfg, root, library=process_library()).folder


def run_cell(
    cell: Cell | DictConfig, root: Path | None = None, overrides: Sequence[str] = (), *, stop: StopSignal | None = None
) -> Record:
    """Train a cell, unless its folder holds it finished, and return its record, also if it failed.

    If another process is running the cell, or it is asked to stop before it has begun, the record has that status
    (``busy``, ``waiting``) alone and is not written. Nothing that can happen to a cell is raised.

    Args:
        cell: a cell, or a checked config with the sweep's folder, ``root``, and the words that composed it.
        root: the folder of the sweep, for a config.
        overrides: the words that composed the config.
        stop: whom to ask whether to stop; by default, the one of this process.
    """
    stop = StopSignal.of_process() if stop is None else stop
    if stop.requested() is not None:
        return Record(status="waiting")
    try:
        if not isinstance(cell, Cell):
            assert root is not None, "a config needs the folder of its sweep"
            cell = Cell.of(cell, root, overrides, process_library())
        cell.folder.mkdir(parents=True, exist_ok=True)
        with undisturbed(), stop.listening(), locked(cell.folder) as is_ours:
            if not is_ours:
                return Record(status="busy")
            record, notes = store.read_or_set_aside(cell.folder)
            if record is not None and store.is_finished(record):
                return record
            return _run_locked(cell, notes, stop)
    except Exception as error:  # before the log exists: the folder cannot be created, or the disk is full
        return Record(status="failed", reason=_reason(error))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a cell's folder while it lasts; give False if another process has it. A lock ends with its process."""
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
    """Remove what an earlier run of the cell has written, except the files named ``keep``; all else stays."""
    for path in {path for pattern in PATTERNS for path in folder.glob(pattern)}:
        if path.name not in keep:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def fail(cell: Cell, reason: str) -> Record:
    """Write the record of a cell whose process died before it could."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    record = _opening(cell, [])
    record.update(Record(status="failed", reason=reason, log=str(cell.folder / LOG_FILE)))
    progress.clear(cell.folder)
    return _close(cell.folder, record)


def _run_locked(cell: Cell, notes: list[str], stop: StopSignal) -> Record:
    folder = cell.folder
    record = _opening(cell, notes)
    provenance = {"identity": record["identity"], "code": record["code"]}
    before = snapshots.find(folder, provenance, notes)
    clear(folder, *(RESUMED if before else ()))
    mirror = None
    with log_to(folder / LOG_FILE):
        try:
            OmegaConf.save(OmegaConf.create(cell.values), folder / store.CONFIG_FILE)
            mirror = tracker_of(cell)(cell, before["run"] if before else None)
            if before:
                log.info("the cell resumes from its snapshot, after %d whole epochs", len(before["history"]))
                for row in before["history"]:
                    mirror.log(row)
            record.update(_train_and_measure(cell, mirror, provenance, stop))
        except (Stopped, KeyboardInterrupt) as error:  # the latter if no handler of ours could be set
            reason = str(error) if isinstance(error, Stopped) else "stopped"
            record.update(Record(status="interrupted", reason=reason, log=str(folder / LOG_FILE)))
        except Exception as error:
            log.exception("the cell failed")
            record.update(Record(status="failed", reason=_reason(error), log=str(folder / LOG_FILE)))
            if cell.config.fail_fast:
                stop.request(FAIL_FAST)
        finally:  # anything else that is raised is submitit's, which has queued its job again: that one resumes
            progress.clear(folder)
        if mirror is not None:
            record["wandb"] = mirror.mode
        record = _close(folder, record)
        if record["status"] == "finished":
            (folder / snapshots.SNAPSHOT_FILE).unlink(missing_ok=True)
        if mirror is not None:
            mirror.finish(record)
    return record


def _train_and_measure(cell: Cell, mirror: Tracker, provenance: dict[str, str], stop: StopSignal) -> Record:
    """Train a cell, from its snapshot if there is one; return what its record says of the best epoch's weights.

    Raises ``Stopped`` if the cell is asked to stop before training ends.
    """
    cfg, corpus, folder = cell.config, cell.corpus, cell.folder
    started = time.perf_counter()
    if cfg.trainer.numerics == "portable":
        numerics.check()
    torch.set_num_threads(cfg.trainer.num_threads)
    peak_memory.reset(cfg.trainer.accelerator)
    windows, held_out = load_windows(cfg, corpus), articles.of_cell(cfg.data, corpus, cell.library)
    scale = {name: getattr(windows, name).symbols_per_character for name in ("train", "validation")}
    recorder = Recorder(folder, mirror, has_memory=cell.memory != "none", symbols_per_character=scale)
    model = build(cfg, len(corpus.vocabulary))
    if compiled := compiling.is_compiled(cell):
        log.info("training is compiled (trainer.compile=%s)", cfg.trainer.compile)
        if cfg.trainer.devices == 1:
            compiling.warm_up(model, cfg)
    with ranks.together(cfg.trainer.devices, folder) as environment:
        fit(
            cfg,
            folder,
            recorder,
            windows,
            model=model,
            corpus=corpus,
            provenance=provenance,
            stop=stop,
            environment=environment,
            compiled=compiled,
        )
    recorder.write_history()
    best_epoch = snapshots.load_best(model, folder)
    _check_best(best_epoch, recorder.history)
    record = _measure(cell, model, windows, held_out)
    if record["status"] == "failed" and cfg.fail_fast:
        stop.request(FAIL_FAST)
    num_read = len(recorder.history) * characters_per_epoch(cfg, windows)
    record.update(
        Record(
            history=recorder.history,
            best_epoch=best_epoch,
            compiled=compiled,
            seconds=recorder.seconds_before + time.perf_counter() - started,
            train_seconds=recorder.train_seconds,
            characters_per_second=num_read / recorder.train_seconds,
            peak_memory=peak_memory.read(cfg.trainer.accelerator),
        )
    )
    return record


def _measure(cell: Cell, model: CharLM, windows: Windows, held_out: Mapping[str, Sequence[articles.Held]]) -> Record:
    """Score a model with its best weights and measure everything about it.

    If a measure fails, the record has the others, the scores among them, and names the failure.
    """
    cfg, corpus, nll, readings = cell.config, cell.corpus, {}, {}
    model.to("cuda" if cfg.trainer.accelerator == "gpu" else "cpu")
    progress.enter(cell.folder, "scoring")
    for split, batches in (("validation", windows.val_dataloader()), ("test", windows.test_dataloader())):
        nll[split], readings[split] = probes.read(model, batches, precision=cfg.trainer.precision)
    window = cfg.data.window
    baselines = cell.library.derive(corpus, ("floors", window), lambda: floors.of_corpus(corpus, window=window))
    progress.enter(cell.folder, "auditing")
    trained = Trained(
        model,
        samples={"train": windows.train, "validation": windows.validation, "test": windows.test},
        nll=nll,
        readings=readings,
        leak_before=preflight.leak_before_training(cell),
        floors=baselines,
        has_memory=cell.memory != "none",
        precision=cfg.trainer.precision,
        held_out=held_out,
    )
    record, failures = measure(trained)
    record["status"] = "failed" if failures else "finished"
    if not failures:
        with store.replacing(cell.folder / NATS_FILE) as file:
            numpy.savez_compressed(file, allow_pickle=False, **nats_of_characters(trained))
    for key, error in failures.items():
        log.error("the measure %s failed", key, exc_info=error)
    if failures:
        details = "; ".join(f"{key}: {_reason(error)}" for key, error in failures.items())
        reason = f"trained and scored, but not measured: {details}; the same command only measures again"
        record.update(Record(reason=reason, log=str(cell.folder / LOG_FILE)))
    return record


def _check_best(best_epoch: int, history: Sequence[Epoch]) -> None:
    """Raise RuntimeError if the checkpoint's epoch is not the history's best, but for Lightning's rounding."""
    by_epoch = {row["epoch"]: row["validation_nll"] for row in history}
    best = min(by_epoch, key=lambda epoch: by_epoch[epoch])
    if by_epoch[best_epoch] > by_epoch[best] * (1 + check.ROUNDING):
        raise RuntimeError(f"the best checkpoint is of epoch {best_epoch}, but epoch {best} has a lower loss")


def _close(folder: Path, record: Record) -> Record:
    """Write a record; return it, or if it cannot be written, the record that says so."""
    try:
        store.write_json(folder / store.RECORD_FILE, record)
    except OSError as error:
        earlier = f"{record['reason']}; " if "reason" in record else ""
        record.update(Record(status="failed", reason=f"{earlier}its record cannot be written: {_reason(error)}"))
    return record


def _opening(cell: Cell, notes: list[str]) -> Record:
    """Return what is known of a cell before it runs."""
    packages = {"hrm_bench": __version__} | {name: version(name) for name in ("torch", "lightning")}
    record = Record(
        schema_version=SCHEMA_VERSION,
        identity=cell.identity,
        code=code_version(cell.config),
        config=cell.values,
        overrides=[*cell.overrides],
        text=cell.corpus.fingerprint[:12],
        model=cell.config.model.name,
        memory=cell.memory,
        seed=cell.config.seed,
        versions={"python": platform.python_version(), **packages, "cpu": numerics.capability()},
        notes=notes,
    )
    if cell.config.data.vocabulary not in VOCABULARIES:
        record["vocabulary"] = cell.corpus.vocabulary.characters
    return record


def _reason(error: Exception) -> str:
    """Explain in one line why a cell failed, and what to do about it if that is known."""
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator: " in message:
        return f"out of memory ({message}); try a smaller recipe.batch_size, or trainer.micro_batches=4"
    if full := _disk_full(error):
        return f"the disk is full ({full}); make room, and the same command resumes"
    return message


def _disk_full(error: BaseException | None) -> str | None:
    """Return what the system says if the disk, the quota or a file's allowed size is full.

    PyTorch raises an error of its own after that of the system, or alone.
    """
    if "PytorchStreamWriter" in str(error):
        return os.strerror(errno.ENOSPC)
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None
