"""One cell, from its config to its record: fit, evaluate, audit, write."""

import functools
import logging
import platform
import resource
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import filelock
import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hrm_bench import audit, probes, progress, records, tracking
from hrm_bench.charlm import CharLM, MemoryPolicy
from hrm_bench.config import cell_name, identity, locate, memory_mode
from hrm_bench.data import corpora
from hrm_bench.data.vocabulary import CHARACTERS, encode
from hrm_bench.data.windows import Samples, Windows
from hrm_bench.floors import floors
from hrm_bench.metrics import Score, score
from hrm_bench.objectives import OptimizerSettings
from hrm_bench.recorder import Recorder
from hrm_bench.records import Floors, Record

log = logging.getLogger("hrm_bench")

CHECKPOINT = "best"  # best.ckpt
CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
LOG_FILE = "log.txt"
MOST_COUNTED = 1_000_000  # characters of all splits up to which a cell has its n-gram floors: half a minute, 0.4 GB


def build(cfg: DictConfig) -> CharLM:
    """The model that a config describes, initialised from its seed; an ordinary module that needs no Trainer."""
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    settings = cast(dict[str, Any], settings)
    del settings["name"]
    objective = settings.pop("objective")
    optimizer = OptimizerSettings(
        learning_rate=cfg.recipe.learning_rate,
        weight_decay=cfg.recipe.weight_decay,
        gradient_clip=cfg.recipe.gradient_clip,
    )
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)  # for what a model does not draw by itself, as CharLM.initialise does
        model: CharLM = locate(settings.pop("_target_"))(
            **settings,
            vocabulary_size=len(CHARACTERS),
            window=cfg.data.window,
            memory=MemoryPolicy(**cast(dict[str, Any], cfg.memory)),
            objective=locate(objective.pop("_target_"))(**objective, optimizer=optimizer),
            seed=cfg.seed,
        )
    return model


def load_windows(cfg: DictConfig) -> Windows:
    """The batches that a config describes. Raises UsageError where the text is not to be had, or too short."""
    return Windows(
        corpora.load(cfg.data),
        window=cfg.data.window,
        windows_per_sample=cfg.data.windows_per_sample,
        order=cfg.data.order,
        batch_size=cfg.recipe.batch_size,
        evaluation_batch_size=cfg.recipe.evaluation_batch_size,
        seed=cfg.seed,
    )


def cell_folder(cfg: DictConfig, root: Path) -> Path:
    """Where the cell's files are, in the folder of its sweep."""
    return root / cell_name(cfg, corpora.load(cfg.data).fingerprint)


def run_cell(cfg: DictConfig, root: Path) -> Record:
    """Train the cell, unless its folder in ``root`` holds it finished; its record, also where it failed."""
    folder = cell_folder(cfg, root)
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / LOCK_FILE):  # the same cell in another process: wait, then find it finished
        found = records.read(folder)
        if found is not None and records.is_finished(found):
            return found
        for path in folder.iterdir():  # the remains of a broken run
            if path.name != LOCK_FILE:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return _run_locked(cfg, folder)


def _run_locked(cfg: DictConfig, folder: Path) -> Record:
    record = _opening(cfg, folder)
    OmegaConf.save(cfg, folder / CONFIG_FILE, resolve=True)
    with _log_to(folder / LOG_FILE):
        mirror = tracking.Mirror(cfg, name=folder.name, memory=record["memory"], folder=folder)
        record["wandb"] = mirror.mode
        try:
            return (record := record | _train_and_score(cfg, folder, mirror) | Record(status="finished"))
        except Exception as error:
            log.exception("the cell failed")
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failure = Record(status="failed", reason=reason, log=str(folder / LOG_FILE))
            return (record := record | failure)
        except BaseException as signal:  # Ctrl-C, which Lightning turns into SystemExit
            record |= Record(status="interrupted", reason="stopped before it was finished", log=str(folder / LOG_FILE))
            raise KeyboardInterrupt from signal
        finally:
            records.write_json(folder / records.RECORD_FILE, record)
            mirror.finish(record)
            progress.clear(folder)


def _opening(cfg: DictConfig, folder: Path) -> Record:
    """What is known of a cell before it runs."""
    return Record(
        schema_version=records.SCHEMA_VERSION,
        identity=identity(cfg, corpora.load(cfg.data).fingerprint),
        config=OmegaConf.to_container(cfg, resolve=True),  # type: ignore[typeddict-item]
        model=cfg.model.name,
        memory=memory_mode(cfg),
        seed=cfg.seed,
        versions={"python": platform.python_version()}
        | {name: version(name) for name in ("hrm_bench", "torch", "lightning")},
    )


def _train_and_score(cfg: DictConfig, folder: Path, mirror: tracking.Mirror) -> Record:
    started = time.perf_counter()
    torch.set_num_threads(cfg.trainer.num_threads)
    _reset_peak_memory()
    lightning.seed_everything(cfg.seed, verbose=False)
    data = load_windows(cfg)
    model = build(cfg)
    num_windows = audit.windows_to_audit(cfg.data.windows_per_sample)
    before = audit.leak(model, num_windows=num_windows)
    with_memory = memory_mode(cfg) != "none"
    recorder = Recorder(folder, mirror, with_memory=with_memory)
    trainer = _trainer(cfg, folder, recorder)
    trainer.fit(model, datamodule=data)
    recorder.write_history()

    best = torch.load(folder / f"{CHECKPOINT}.ckpt", weights_only=True)
    model.load_state_dict(best["state_dict"])
    trainer.validate(model, datamodule=data, verbose=False)
    validation = _score(model, data.validation)
    trainer.test(model, datamodule=data, verbose=False)
    test = _score(model, data.test)
    model.eval()
    after = audit.leak(model, num_windows=num_windows)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    scored = {"validation": (data.validation, data.test), "test": (data.test, data.validation)}  # and the other one
    trained = len(recorder.history) * data.train.num_whole * data.train.length
    return Record(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        history=recorder.history,
        best_epoch=best["epoch"] + 1,
        validation=validation,
        test=test,
        gradient_coverage=audit.gradient_coverage(model),
        leak={"before_training": before, "best": after},
        causal=audit.is_causal(before, after),
        bits_by_position={name: probes.bits_by_position(model, split) for name, (split, _) in scored.items()},
        memory_use={name: probes.memory_use(model, *both) for name, both in scored.items()} if with_memory else {},
        state_size=probes.state_size(model) if with_memory else 0,
        flops_per_character=probes.flops_per_character(model),
        unknown_characters={name: split.unknown_characters for name, split in splits.items()},
        floors=_floors(corpora.load(cfg.data), cfg.data.window),
        seconds=time.perf_counter() - started,
        train_seconds=recorder.train_seconds,
        characters_per_second=trained / recorder.train_seconds,
        peak_memory=_peak_memory(model.device),
    )


def _trainer(cfg: DictConfig, folder: Path, recorder: Recorder) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        max_epochs=cfg.recipe.max_epochs,
        callbacks=[
            recorder,
            EarlyStopping("validation/nll", patience=cfg.recipe.patience, mode="min"),
            ModelCheckpoint(
                folder,
                filename=CHECKPOINT,
                monitor="validation/nll",
                mode="min",
                save_weights_only=True,
                enable_version_counter=False,
            ),
        ],
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        inference_mode=False,  # its tensors cannot be used outside of it, where the probes go on with the model
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _score(model: CharLM, samples: Samples) -> Score:
    return score(float(model.nll.compute()), characters=samples.num_characters, words=samples.num_words)


@functools.cache
def _floors(corpus: corpora.Corpus, window: int) -> dict[str, Floors]:
    """What counting reaches on each scored split: once a process, since most cells of a sweep share their text."""
    ngrams = sum(map(len, corpus)) <= MOST_COUNTED
    train, *scored = (encode(text)[0] for text in corpus)
    return {
        name: floors(train, text, window=window, ngrams=ngrams)
        for name, text in zip(("validation", "test"), scored, strict=True)
    }


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
            # Lightning's own use of PyTorch, which a newer Lightning will mend.
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, (logger.handlers, logger.propagate, level) in zip(loggers, kept, strict=True):
            logger.setLevel(level)
        handler.close()


def _reset_peak_memory() -> None:
    """Begin a new peak, so that a cell is not charged for those that ran before it in this process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        log.info("peak memory cannot be reset here: it is that of the process since its start")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS, where /proc is not
