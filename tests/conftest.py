"""What the tests share: small configs, and models trained for a few steps."""

import copy
import functools
import os
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import hrm_bench
from hrm_bench.config.compose import conf_folder

os.environ["WANDB_MODE"] = "offline"
torch.set_num_threads(1)  # as a cell has it

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
SMALL = ["data=sample", "data.window=8", "model.width=16", "model.num_heads=2", "model.hidden_width=24"]


# A tenth of a second each, and most tests ask for one that others ask for too.
_composed = functools.cache(hrm_bench.compose)


def compose(*overrides):
    """What ``hrm_bench.compose`` gives, composed once."""
    return copy.deepcopy(_composed(*overrides))


@functools.cache
def keys(name):
    """What the config of a model can set."""
    return set(_composed("data=sample", f"model={name}").model)


def having(key):
    """The models that have a setting."""
    return [name for name in MODELS if key in keys(name)]


def fitting(*words):
    """The words less those that set what the model among them does not have."""
    name = next((word.removeprefix("model=") for word in words if word.startswith("model=")), "hrm")
    return [word for word in words if not word.startswith("model.") or word.split("=")[0].split(".")[1] in keys(name)]


def small(*overrides):
    """A small model of the same architecture, on windows of 8 characters."""
    return hrm_bench.build(_composed(*fitting(*SMALL, *overrides)))


def random_batch(num_lanes, length, seed=0):
    text = torch.randint(97, (num_lanes, length + 1), generator=torch.Generator().manual_seed(seed))
    return text[:, :-1], text[:, 1:]


def trainer(**settings):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def train(model, batches, epochs=1):
    """Fit a model to a list of batches."""
    trainer(max_epochs=epochs, limit_val_batches=0).fit(model, train_dataloaders=DataLoader(batches, batch_size=None))
    return model


@pytest.fixture
def wikitext(monkeypatch):
    """The folder of real WikiText-2."""
    folder = os.environ.get("HRM_BENCH_WIKITEXT")
    if not folder:
        pytest.skip("set HRM_BENCH_WIKITEXT to a local copy of WikiText-2 to run the tests on real text")
    monkeypatch.setenv("HRM_BENCH_WIKITEXT", str(Path(folder).absolute()))
    return Path(folder).absolute()
