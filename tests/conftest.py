"""What the tests share: small configs, and models trained for a few steps."""

import copy
import functools
import inspect
import itertools
import os
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

import hrm_bench
from hrm_bench import objectives
from hrm_bench.cells.run import cell_folder, run_cell
from hrm_bench.config.words import conf_folder
from hrm_bench.training import fit
from hrm_bench.training.stopping import StopSignal

os.environ["WANDB_MODE"] = "offline"
torch.set_num_threads(1)  # as a cell has it

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(path.stem for path in (conf_folder() / "model").glob("*.yaml"))
SMALL = ["data=sample", "data.window=8", "model.width=16", "model.num_heads=2", "model.hidden_width=24"]
QUICK = [*SMALL, "data.train_chars=2000", "data.validation_chars=500", "data.test_chars=500", "recipe.max_epochs=3"]
FEW = ["data.train_chars=420", "data.validation_chars=100", "data.test_chars=100", "recipe.max_epochs=3"]  # 4 batches
can_compile = pytest.mark.skipif(
    "recompile_limit" not in inspect.signature(torch.compile).parameters, reason="this PyTorch cannot compile training"
)
TIMINGS = {"seconds", "train_seconds", "characters_per_second", "peak_memory"}


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


def quick(*overrides, logger="none"):
    """The config of a cell that trains in a second."""
    return compose(*QUICK, f"logger={logger}", *overrides)


def weights(folder):
    """The best weights of a cell."""
    return torch.load(folder / "best.ckpt", weights_only=True)["state_dict"]


class Watch(lightning.Callback):
    """Keeps what training went through."""

    def __init__(self):
        self.rates, self.weights, self.read = [], [], []

    def on_train_batch_end(self, trainer, model, outputs, batch, batch_idx):
        self.rates.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])
        self.read.append(batch)
        self.weights.append({name: value.detach().clone() for name, value in model.named_parameters()})


def watched(cfg, root, monkeypatch):
    """A cell's record, and what its training went through."""
    watch, make = Watch(), fit.make_trainer
    with monkeypatch.context() as during:
        during.setattr(
            fit,
            "make_trainer",
            lambda cfg, folder, *callbacks, **more: make(cfg, folder, *callbacks, watch, **more),
        )
        return run_cell(cfg, root), watch


def windows_trained(monkeypatch):
    """The windows that objectives train on from now on, as a list that grows."""
    seen = []
    for objective in (objectives.TaskSupervision, objectives.OriginAnchoredDispersion):

        def noting(self, model, windows, memory, *, weight, steps=objective.steps):
            seen.extend(windows)
            return steps(self, model, windows, memory, weight=weight)

        monkeypatch.setattr(objective, "steps", noting)
    return seen


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


def figures(record):
    """A record without what differs between two runs of a cell."""
    kept = {key: value for key, value in record.items() if key not in TIMINGS}
    kept["history"] = [{key: value for key, value in row.items() if key != "seconds"} for row in record["history"]]
    return kept


def stopped_after(looks, monkeypatch):
    """Have the next cells asked to stop when they have looked so many times whether they are."""
    seen = itertools.count()
    monkeypatch.setattr(StopSignal, "requested", lambda _: "a test" if next(seen) > looks else None)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished cell: its config, its folder and its record."""
    root = tmp_path_factory.mktemp("multirun")
    cfg = quick("model=infini_hrm", "memory=carry")
    return cfg, cell_folder(cfg, root), run_cell(cfg, root)


@pytest.fixture
def wikitext(monkeypatch):
    """The folder of real WikiText-2."""
    folder = os.environ.get("HRM_BENCH_WIKITEXT")
    if not folder:
        pytest.skip("set HRM_BENCH_WIKITEXT to a local copy of WikiText-2 to run the tests on real text")
    monkeypatch.setenv("HRM_BENCH_WIKITEXT", str(Path(folder).absolute()))
    return Path(folder).absolute()
