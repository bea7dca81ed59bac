"""From a cell's config, text and model to a trained model, and how it is scored."""

import math
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, Strategy
from omegaconf import DictConfig, OmegaConf

from hrm_bench.charlm import CharLM
from hrm_bench.config.classes import callback
from hrm_bench.data import corpora
from hrm_bench.data.corpora import Corpus
from hrm_bench.data.distillation import generated_text
from hrm_bench.data.windows import Windows
from hrm_bench.training.averaging import Averaging
from hrm_bench.training.build import build
from hrm_bench.training.recorder import Recorder
from hrm_bench.training.snapshots import AtomicCheckpointIO, BestEpoch, Snapshots
from hrm_bench.training.stopping import StopSignal

RANK_TIMEOUT = timedelta(minutes=5)  # for a rank that waits for another; one that has died is noticed at once


def num_epochs(cfg: DictConfig, windows: Windows) -> int:
    """Return the maximum number of epochs, or fewer if the character budget ends earlier; the last one is completed."""
    if cfg.recipe.budget is None:
        return int(cfg.recipe.max_epochs)
    return int(min(cfg.recipe.max_epochs, math.ceil(cfg.recipe.budget / characters_per_epoch(cfg, windows))))


def characters_per_epoch(cfg: DictConfig, windows: Windows) -> float:
    """Return the number of characters that a model reads per epoch, generated text included."""
    return windows.characters_per_epoch * float(1 + cfg.recipe.distillation)


def fit(
    cfg: DictConfig,
    folder: Path,
    recorder: Recorder,
    windows: Windows,
    *,
    corpus: Corpus | None = None,
    model: CharLM | None = None,
    provenance: dict[str, str] | None = None,
    stop: StopSignal | None = None,
    environment: LightningEnvironment | None = None,
    compiled: bool = False,
) -> CharLM:
    """Train a model until the epochs or the patience run out, from the folder's snapshot if there is one.

    Args:
        cfg: the cell's config.
        folder: where checkpoints are written.
        recorder: collects the history.
        windows: the batches.
        corpus: the text, for a recipe that distils from it; by default, the config's.
        model: the model; by default, built from the config.
        provenance: what a snapshot must have to be resumed from.
        stop: asked at every batch whether to stop; then ``Stopped`` is raised.
        environment: this process' place among the ranks, if there are several.
        compiled: whether to compile the segments of full batches.
    """
    lightning.seed_everything(cfg.seed, verbose=False)
    model = build(cfg) if model is None else model
    if cfg.recipe.distillation:
        corpus = corpora.load(cfg.data) if corpus is None else corpus
        train = corpus.train.indices.numpy().tobytes()
        size = model.vocabulary_size
        model.transforms.insert(0, generated_text(train, ratio=cfg.recipe.distillation, vocabulary_size=size))
    if compiled:
        model.compile_training(math.ceil(lanes_per_batch(cfg) / cfg.trainer.micro_batches))
    stop = StopSignal.of_process() if stop is None else stop
    snapshots = Snapshots(folder, seconds=cfg.trainer.snapshot_seconds, provenance=provenance or {}, stop=stop)
    callbacks: list[lightning.Callback] = [recorder, BestEpoch(folder), snapshots]
    if cfg.recipe.patience is not None:
        callbacks.append(EarlyStopping("validation/nll", patience=cfg.recipe.patience, mode="min"))
    if cfg.recipe.averaging:
        callbacks.append(Averaging(cfg.recipe.averaging))
    listed: Any = OmegaConf.to_container(cfg.trainer.callbacks)
    own = [callback(values) for values in listed]
    callbacks += own
    trainer = make_trainer(cfg, folder, *callbacks, max_epochs=num_epochs(cfg, windows), environment=environment)
    resumed = snapshots.path if snapshots.path.exists() else None
    try:
        trainer.fit(model, datamodule=windows, ckpt_path=resumed, weights_only=True)
    except Exception as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if (raiser := frame.f_locals.get("self")) in own:
                message = " ".join(str(error).split())
                raise RuntimeError(f"callback {type(raiser).__name__}: {type(error).__name__}: {message}") from error
        raise
    return model


def lanes_per_batch(cfg: DictConfig) -> int:
    """Return the number of lanes in a full batch on one device, generated lanes included."""
    num_lanes = math.ceil(cfg.recipe.batch_size / cfg.trainer.devices)
    return num_lanes + round(cfg.recipe.distillation * num_lanes)


def make_trainer(
    cfg: DictConfig,
    folder: Path,
    *callbacks: lightning.Callback,
    max_epochs: int,
    environment: LightningEnvironment | None,
) -> lightning.Trainer:
    """Create the Trainer that trains a cell."""
    return lightning.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1 if environment is None else cfg.trainer.devices,
        strategy="auto" if environment is None else _ddp(cfg.trainer.accelerator),
        precision=cfg.trainer.precision,
        max_epochs=max_epochs,
        callbacks=[*callbacks],
        # Never Slurm's environment, which would take each task of a sweep for a rank of one training.
        plugins=[environment or LightningEnvironment(), AtomicCheckpointIO()],
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # each rank takes its lanes of the same batch
        inference_mode=False,  # its tensors could not be used outside of it, where training goes on
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _ddp(accelerator: str) -> Strategy:
    """Average gradients over ranks; parameters that no loss reaches are left out."""
    backend = "nccl" if accelerator == "gpu" else "gloo"
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True, timeout=RANK_TIMEOUT)
