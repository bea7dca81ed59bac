"""From a cell's config to a trained and scored model: what its figures follow from."""

import logging
import math
from pathlib import Path

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig

from hrm_bench.charlm import CharLM
from hrm_bench.data import corpora
from hrm_bench.data.distillation import teacher
from hrm_bench.data.windows import Windows
from hrm_bench.training import ranks, snapshots
from hrm_bench.training.averaging import Averaging
from hrm_bench.training.build import build
from hrm_bench.training.recorder import Recorder
from hrm_bench.training.snapshots import Snapshots

log = logging.getLogger("hrm_bench")

STEPS_WORTH_COMPILING = 20_000  # compiling takes half a minute, and saves some 5 ms a step at the published sizes


def num_epochs(cfg: DictConfig, data: Windows) -> int:
    """As many as there are, or as the budget of characters allows, the last one whole."""
    allowed = math.inf if cfg.recipe.budget is None else math.ceil(cfg.recipe.budget / characters_per_epoch(cfg, data))
    return int(min(cfg.recipe.max_epochs, allowed))


def characters_per_epoch(cfg: DictConfig, data: Windows) -> float:
    """That a model sees, those of the teacher's text among them."""
    return data.characters_an_epoch * float(1 + cfg.recipe.distillation)


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
    trainer = make_trainer(cfg, folder, *callbacks, max_epochs=num_epochs(cfg, data), devices=cfg.trainer.devices)
    trainer.fit(model, datamodule=data, ckpt_path=taking.path if taking.path.exists() else None, weights_only=True)
    return model


def compiles(cfg: DictConfig, data: Windows) -> bool:
    """Whether a cell's training is compiled: asked for, or long enough to gain more than compiling takes."""
    if cfg.trainer.compile != "auto":
        return bool(cfg.trainer.compile == "always")
    segments = cfg.model.get("num_segments", 1) * data.batches.num_samples * cfg.data.windows_per_sample
    steps = num_epochs(cfg, data) * segments / cfg.recipe.batch_size
    return bool(steps >= STEPS_WORTH_COMPILING)


def make_trainer(
    cfg: DictConfig, folder: Path, *callbacks: lightning.Callback, max_epochs: int = 1, devices: int = 1
) -> lightning.Trainer:
    """Make the Trainer of a cell, for training or for scoring."""
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
