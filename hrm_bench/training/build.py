"""A cell's model and batches, as its config describes them."""

from typing import Any, cast, get_args

import torch
from omegaconf import DictConfig, OmegaConf

from hrm_bench.charlm import CharLM, MemoryPolicy, Setting
from hrm_bench.config.identity import locate
from hrm_bench.data import corpora
from hrm_bench.data.corpora import Corpus
from hrm_bench.data.kneser_ney import MOST_COUNTED
from hrm_bench.data.text import ONE_BYTE
from hrm_bench.data.windows import Windows
from hrm_bench.errors import UsageError
from hrm_bench.layers.dropout import CharacterDropout, Site
from hrm_bench.optimizers import OptimizerSettings

SCALED = ("width", "num_heads", "hidden_width")  # the sizes of a model that grow with its scale


def build(cfg: DictConfig, vocabulary_size: int | None = None) -> CharLM:
    """Return the model that a config describes, initialised from its seed, with its objective and transforms.

    It is an ordinary module that needs no Trainer. At another scale its heads are as wide as before and it has about
    scale² times as many parameters. AdamW's learning rate is divided by the scale, so that a rate that suits a narrow
    model suits a wide one (arXiv 2203.03466). A dropout rate for a site that the model does not have is left out, with
    a sentence in ``model.notes``. Without a vocabulary's size, the text is read if the vocabulary depends on it.

    Raises:
        ConfigFault: the model's ``Config`` refuses a value.
    """
    values = _values(cfg.model)
    objective = cast(dict[str, Any], values.pop("objective"))
    values.update({key: cfg.scale * values[key] for key in SCALED if key in values})
    if cfg.recipe.gradient_depth is not None and "gradient_depth" in values:
        values["gradient_depth"] = cfg.recipe.gradient_depth
    setting = Setting(
        vocabulary_size=vocabulary_size or len(corpora.vocabulary_of(cfg.data)),
        window=cfg.data.window,
        memory=MemoryPolicy(**cfg.memory),
        seed=cfg.seed,
        windows_per_sample=cfg.data.windows_per_sample,
    )
    model_class: Any = locate(cfg.model._target_)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(cfg.seed)  # for parameters that a model does not draw by CharLM.initialise
        model: CharLM = model_class(model_class.Config(**values), setting)
    objective_class: Any = locate(objective.pop("_target_"))
    model.objective = objective_class(objective_class.Config(**objective), optimizer_settings(cfg))
    model.objective.is_of_task = cfg.data.task is not None  # type: ignore[attr-defined]
    if rate := cfg.recipe.character_dropout:
        model.transforms.append(CharacterDropout(rate, setting.vocabulary_size))
    for site in model.regularise({site: cfg.recipe[f"{site}_dropout"] for site in get_args(Site)}):
        key, rate = f"recipe.{site}_dropout", cfg.recipe[f"{site}_dropout"]
        model.notes.append(f"{key}={rate} is left out: model={cfg.model.name} has no such dropout")
    return model


def optimizer_settings(cfg: DictConfig) -> OptimizerSettings:
    """Return the optimizer settings of a recipe, at the config's scale."""
    recipe = cfg.recipe
    return OptimizerSettings(
        name=recipe.optimizer,
        other=cast(Any, locate(recipe.optimizer)) if "." in recipe.optimizer else None,
        learning_rate=recipe.learning_rate / cfg.scale,
        gate_learning_rate=recipe.gate_learning_rate,
        weight_decay=recipe.weight_decay,
        gradient_clip=recipe.gradient_clip,
        decayed=recipe.decayed,
        warmup=recipe.warmup,
        final_learning_rate=recipe.final_learning_rate,
        micro_batches=cfg.trainer.micro_batches,
    )


def _values(group: DictConfig) -> dict[str, Any]:
    """Return the values of a model's config, lists as tuples."""
    values = cast(dict[str, Any], OmegaConf.to_container(group, resolve=True))
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in values.items()
        if key not in ("name", "_target_")
    }


def load_windows(cfg: DictConfig, corpus: Corpus | None = None) -> Windows:
    """Cut a corpus (by default, the config's) into batches. Raises UsageError if it cannot be read or is too short."""
    corpus = corpora.load(cfg.data) if corpus is None else corpus
    if cfg.recipe.distillation and len(corpus.train) > MOST_COUNTED:
        raise UsageError(
            f"recipe.distillation={cfg.recipe.distillation}: the training text has {len(corpus.train):,} characters, "
            f"and at most {MOST_COUNTED:,} are counted; try recipe.distillation=0"
        )
    if cfg.recipe.distillation and len(corpus.vocabulary) > ONE_BYTE:
        raise UsageError(
            f"recipe.distillation={cfg.recipe.distillation}: the vocabulary has {len(corpus.vocabulary):,} symbols, "
            f"and at most {ONE_BYTE} are distilled; try recipe.distillation=0, or data.vocabulary=bytes"
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
    devices, size = cfg.trainer.devices, cfg.recipe.batch_size
    if devices > 1 and windows.smallest_batch < devices:
        raise UsageError(
            f"trainer.devices={devices}: with recipe.batch_size={size} an epoch has a batch of "
            f"{windows.smallest_batch}, fewer than one each; try recipe.batch_size={size + 1}"
        )
    return windows
