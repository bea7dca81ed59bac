"""From a cell's config to a trained and scored model: what its figures follow from."""

import functools
import logging
import math
import resource
import time
from pathlib import Path
from typing import Any, cast, get_args

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from hrm_bench import audit, probes, ranks, snapshots
from hrm_bench.averaging import Averaging
from hrm_bench.charlm import CharLM, MemoryPolicy
from hrm_bench.config import locate, memory_mode
from hrm_bench.data import corpora
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.data.windows import Samples, Windows
from hrm_bench.errors import UsageError
from hrm_bench.floors import floors
from hrm_bench.layers.dropout import Place
from hrm_bench.metrics import Score, score
from hrm_bench.objectives import OptimizerSettings
from hrm_bench.recorder import Recorder
from hrm_bench.records import Floors, Record
from hrm_bench.snapshots import Snapshots
from hrm_bench.teacher import teacher

log = logging.getLogger("hrm_bench")

STEPS_WORTH_COMPILING = 20_000  # compiling takes half a minute, and saves some 5 ms a step at the published sizes
WIDTHS = ("width", "num_heads", "hidden_width")  # what of a model grows with its scale
MOST_COUNTED = 1_000_000  # characters of all splits up to which a cell has its n-gram floors: half a minute, 0.4 GB


def build(cfg: DictConfig) -> CharLM:
    """The model that a config describes, initialised from its seed; an ordinary module that needs no Trainer.

    At another scale its heads are as wide as before and its parameters about scale² times as many; AdamW's rate for
    matrices falls as their width grows, so that one that suits a narrow model suits a wide one (arXiv 2203.03466).
    """
    settings = OmegaConf.to_container(cfg.model, resolve=True)
    settings = cast(dict[str, Any], settings)
    del settings["name"]
    settings |= {key: cfg.scale * settings[key] for key in WIDTHS if key in settings}
    objective = settings.pop("objective")
    if cfg.recipe.gradient_depth is not None and "gradient_depth" in settings:
        settings["gradient_depth"] = cfg.recipe.gradient_depth
    optimizer = OptimizerSettings(
        learning_rate=cfg.recipe.learning_rate / cfg.scale,
        gate_learning_rate=cfg.recipe.gate_learning_rate,
        weight_decay=cfg.recipe.weight_decay,
        gradient_clip=cfg.recipe.gradient_clip,
        decayed=cfg.recipe.decayed,
        warmup=cfg.recipe.warmup,
        final_learning_rate=cfg.recipe.final_learning_rate,
        micro_batches=cfg.trainer.micro_batches,
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
    rates = {place: cfg.recipe[f"{place}_dropout"] for place in get_args(Place)}
    try:
        model.regularise(character_dropout=cfg.recipe.character_dropout, **rates)
    except ValueError as error:
        key, rate = f"recipe.{error}_dropout", rates[str(error)]
        raise UsageError(f"{key}={rate}: model={cfg.model.name} has no such dropout; try {key}=0") from error
    return model


def num_epochs(cfg: DictConfig, data: Windows) -> int:
    """As many as there are, or as the budget of characters allows, the last one whole."""
    allowed = math.inf if cfg.recipe.budget is None else math.ceil(cfg.recipe.budget / _characters_an_epoch(cfg, data))
    return int(min(cfg.recipe.max_epochs, allowed))


def _characters_an_epoch(cfg: DictConfig, data: Windows) -> float:
    """That a model sees, those of the teacher's text among them."""
    return data.characters_an_epoch * float(1 + cfg.recipe.distillation)


def load_windows(cfg: DictConfig) -> Windows:
    """The batches that a config describes. Raises UsageError where the text is not to be had, or too short."""
    corpus = corpora.load(cfg.data)
    if cfg.recipe.distillation and len(corpus.train) > MOST_COUNTED:
        raise UsageError(
            f"recipe.distillation={cfg.recipe.distillation}: the training text has {len(corpus.train):,} characters, "
            f"and at most {MOST_COUNTED:,} are counted; try recipe.distillation=0"
        )
    windows = Windows(
        corpus,
        window=cfg.data.window,
        windows_per_sample=cfg.data.windows_per_sample,
        order=cfg.data.order,
        batch_size=cfg.recipe.batch_size,
        evaluation_batch_size=cfg.recipe.evaluation_batch_size,
        offsets=cfg.recipe.offsets,
        seed=cfg.seed,
    )
    if (devices := cfg.trainer.devices) > 1 and (smallest := windows.smallest_batch) < devices:
        size = cfg.recipe.batch_size
        fault = f"with recipe.batch_size={size} an epoch has a batch of {smallest}, fewer than one each"
        raise UsageError(f"trainer.devices={devices}: {fault}; try recipe.batch_size={size + 1}")
    return windows


def train_and_score(cfg: DictConfig, folder: Path, recorder: Recorder, *, marks: dict[str, str]) -> Record:
    """Train the cell, from its snapshot where ``folder`` has one; what its record says of the best epoch's weights.

    ``marks`` are those of its snapshots. Raises ``stopping.Stopped`` where it is asked to stop before it has trained.
    """
    started = time.perf_counter()
    torch.set_num_threads(cfg.trainer.num_threads)
    _reset_peak_memory()
    data = load_windows(cfg)
    with ranks.together(cfg, folder):
        model = fit(cfg, folder, recorder, data, marks=marks)
    recorder.write_history()

    best = snapshots.read(folder / snapshots.BEST_FILE)
    model.load_state_dict(best["state_dict"])
    trainer = _trainer(cfg, folder)
    trainer.validate(model, datamodule=data, verbose=False)
    validation = _score(model, data.validation)
    trainer.test(model, datamodule=data, verbose=False)
    test = _score(model, data.test)
    model.eval()
    num_windows = audit.windows_to_audit(cfg.data.windows_per_sample)
    before = audit.leak(build(cfg), num_windows=num_windows)  # of the same weights as then, and out of training's way
    after = audit.leak(model, num_windows=num_windows)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    read = {name: probes.readings(model, splits[name]) for name in ("validation", "test")}
    others = {"validation": read["test"], "test": read["validation"]}
    trained = len(recorder.history) * _characters_an_epoch(cfg, data)
    with_memory = memory_mode(cfg) != "none"
    return Record(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        history=recorder.history,
        best_epoch=best["epoch"] + 1,
        validation=validation,
        test=test,
        gradient_coverage=audit.gradient_coverage(model),
        leak={"before_training": before, "best": after},
        causal=audit.is_causal(before, after),
        bits_by_position={name: probes.bits_by_position(model, text) for name, text in read.items()},
        memory_use={n: probes.memory_use(model, text, others[n]) for n, text in read.items()} if with_memory else {},
        state_size=probes.state_size(model) if with_memory else 0,
        flops_per_character=probes.flops_per_character(model),
        unknown_characters={name: split.unknown_characters for name, split in splits.items()},
        floors=_floors(corpora.load(cfg.data), cfg.data.window),
        seconds=recorder.seconds_before + time.perf_counter() - started,
        train_seconds=recorder.train_seconds,
        characters_per_second=trained / recorder.train_seconds,
        peak_memory=_peak_memory(model.device),
    )


def fit(cfg: DictConfig, folder: Path, recorder: Recorder, data: Windows, *, marks: dict[str, str]) -> CharLM:
    """The cell's model, trained as far as patience goes; one of several ranks does its share."""
    lightning.seed_everything(cfg.seed, verbose=False)
    model = build(cfg)
    if cfg.recipe.distillation:
        model.teacher, model.taught = teacher(corpora.load(cfg.data)), cfg.recipe.distillation
    if compiles(cfg, data):
        log.info("training is compiled (trainer.compile=%s)", cfg.trainer.compile)
        num_lanes = -(-cfg.recipe.batch_size // cfg.trainer.devices)
        num_lanes += round(cfg.recipe.distillation * num_lanes)
        model.compile_training(-(-num_lanes // cfg.trainer.micro_batches))
    taking = Snapshots(folder, seconds=cfg.trainer.snapshot_seconds, marks=marks)
    keeping = ModelCheckpoint(
        folder,
        filename=snapshots.BEST_FILE.removesuffix(".ckpt"),
        monitor="validation/nll",
        mode="min",
        save_weights_only=True,
        save_on_train_epoch_end=False,  # but at the validation's end, where an average still is in the model
        enable_version_counter=False,
    )
    callbacks: list[lightning.Callback] = [recorder, keeping, taking]
    if cfg.recipe.patience is not None:
        callbacks.append(EarlyStopping("validation/nll", patience=cfg.recipe.patience, mode="min"))
    if cfg.recipe.averaging:
        callbacks.append(Averaging(cfg.recipe.averaging))
    trainer = _trainer(cfg, folder, *callbacks, max_epochs=num_epochs(cfg, data), devices=cfg.trainer.devices)
    trainer.fit(model, datamodule=data, ckpt_path=taking.path if taking.path.exists() else None, weights_only=True)
    return model


def compiles(cfg: DictConfig, data: Windows) -> bool:
    """Whether a cell's training is compiled: asked for, or long enough to gain more than compiling takes."""
    if cfg.trainer.compile != "auto":
        return bool(cfg.trainer.compile == "always")
    segments = cfg.model.get("num_segments", 1) * data.batches.num_samples * cfg.data.windows_per_sample
    steps = num_epochs(cfg, data) * segments / cfg.recipe.batch_size
    return bool(steps >= STEPS_WORTH_COMPILING)


def _trainer(
    cfg: DictConfig, folder: Path, *callbacks: lightning.Callback, max_epochs: int = 1, devices: int = 1
) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=devices,
        strategy="auto" if devices == 1 else ranks.strategy(cfg.trainer.accelerator),
        precision=cfg.trainer.precision,
        max_epochs=max_epochs,
        callbacks=[*callbacks],
        # Never Slurm's own, which would take each task of a sweep for a rank of one training.
        plugins=[LightningEnvironment(), snapshots.AtomicCheckpointIO()],
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # each rank takes its lanes of the same batch
        inference_mode=False,  # its tensors cannot be used outside of it, where the probes go on with the model
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _score(model: CharLM, samples: Samples) -> Score:
    return score(float(model.nll.compute()), characters=samples.num_characters, words=samples.num_words)


@functools.cache
def _floors(corpus: corpora.Corpus, window: int) -> dict[str, Floors]:
    """What counting reaches on each scored split: once a process, since most cells of a sweep share their text."""
    ngrams = sum(map(len, corpus.splits.values())) <= MOST_COUNTED
    return {
        name: floors(corpus.train.indices, text.indices, window=window, ngrams=ngrams)
        for name, text in (("validation", corpus.validation), ("test", corpus.test))
    }


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
