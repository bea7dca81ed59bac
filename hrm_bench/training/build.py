"""A cell's model and batches, as its config describes them."""

from typing import Any, cast, get_args

import torch
from omegaconf import DictConfig, OmegaConf

from hrm_bench.charlm import CharLM, MemoryPolicy
from hrm_bench.config.identity import locate
from hrm_bench.data import corpora
from hrm_bench.data.vocabulary import CHARACTERS
from hrm_bench.data.windows import Windows
from hrm_bench.errors import UsageError
from hrm_bench.layers.dropout import Place
from hrm_bench.objectives import OptimizerSettings

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
