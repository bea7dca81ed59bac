"""Trained cells, read again from their folders: the models with their best weights, and their texts."""

import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from yaml import YAMLError

from hrm_bench.charlm import CharLM
from hrm_bench.config import schema
from hrm_bench.config.compose import COMPOSITION_ERRORS, check, completed
from hrm_bench.config.identity import identity
from hrm_bench.data import corpora
from hrm_bench.data.corpora import Corpus
from hrm_bench.data.kneser_ney import MOST_COUNTED
from hrm_bench.data.sources import HUB_CONFIGS
from hrm_bench.data.text import VOCABULARIES, Vocabulary
from hrm_bench.data.windows import Windows
from hrm_bench.errors import UsageError
from hrm_bench.records import store
from hrm_bench.records.schema import Record
from hrm_bench.training import snapshots
from hrm_bench.training.build import build, load_windows

RELEASED_FILE = "weights.safetensors"  # the best weights of a cell that was given away
UNREADABLE = (
    *(UsageError, *COMPOSITION_ERRORS, YAMLError, UnpicklingError, SafetensorError),
    *(OSError, EOFError, RuntimeError, KeyError),
)


class Reopened(NamedTuple):
    """Trained cells that differ in their seeds only."""

    models: dict[int, CharLM]  # by seed, in evaluation mode
    windows: Windows  # of the text that all of them were trained on
    precision: str  # in which they were scored
    data: DictConfig  # the config of the text
    corpus: Corpus

    @property
    def ngrams_are_affordable(self) -> bool:
        """Whether the training text is short enough for n-gram models of it."""
        return len(self.windows.train.indices) <= MOST_COUNTED


def reopen(sweep: Path, records: Sequence[Record]) -> Reopened:
    """Load the cells of these records, which differ in their seeds only, from a sweep's folder.

    PyTorch gets as many threads as the cells had. Raises UsageError if a file cannot be read or the text is another.
    """
    folders = {record["seed"]: next(sweep.glob(f"*-{record['identity']}")) for record in records}
    for folder in folders.values():
        _check_weights(folder)
    cfg, corpus = _with_text(sweep, records[0])
    torch.set_num_threads(cfg.trainer.num_threads)
    models = {seed: load_cell(folder).eval() for seed, folder in folders.items()}
    return Reopened(models, load_windows(cfg, corpus), cfg.trainer.precision, cfg.data, corpus)


def _with_text(sweep: Path, record: Record) -> tuple[DictConfig, Corpus]:
    """Return a cell's config and text. Relative paths are tried from here, then from the folders above the sweep.

    Raises UsageError if the text cannot be read or is another.
    """
    cfg = completed(record["config"])
    find_wikitext(cfg)
    given = {key: Path(cfg.data[key]) for key in ("path", "vocabulary") if cfg.data[key] and _is_path(cfg, key)}
    is_relative = any(not path.expanduser().is_absolute() for path in given.values())
    faults = []
    for folder in (Path.cwd(), *(sweep.absolute().parents if is_relative else ())):
        cfg.data.update({key: str(folder / path.expanduser()) for key, path in given.items()})
        try:
            corpus = corpora.load(cfg.data)
        except UsageError as error:
            faults.append(error)
            continue
        if identity(cfg, corpus.fingerprint) == record["identity"]:
            return cfg, corpus
        source = f"data.path={cfg.data.path}" if cfg.data.path else f"data={cfg.data.source}"
        faults.append(
            UsageError(f"{sweep}: {source} is not the text that its cells were trained on; restore that text")
        )
    raise faults[0]


def find_wikitext(cfg: DictConfig) -> None:
    """Give a config that names no folder of WikiText, as in an archive, the one that conf/data/wikitext2.yaml gives."""
    if cfg.data.source in HUB_CONFIGS and not cfg.data.path:
        cfg.data.path = os.environ.get("HRM_BENCH_WIKITEXT") or None


def _is_path(cfg: DictConfig, key: str) -> bool:
    return key == "path" or cfg.data.vocabulary not in schema.VOCABULARIES


def load_cell(folder: str | Path, *, causal: bool = True) -> CharLM:
    """Return the model of a finished cell with its best weights, on the CPU.

    Raises UsageError if the cell is not finished, or if a file is missing, damaged or of another version; and, unless
    ``causal`` is false, if the model is not causal.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"run={folder}: no such folder; give the folder of a finished cell")
    record = store.read(folder)
    if record is None:
        cells = sorted(path.parent for path in folder.glob(f"*/{store.RECORD_FILE}"))
        hint = f"did you mean a cell in it, run={cells[0]}?" if cells else "give the folder of a finished cell"
        raise UsageError(f"run={folder}: no {store.RECORD_FILE} here; {hint}")
    if not store.is_finished(record):
        state = f"status {record['status']}, record version {record['schema_version']}"
        raise UsageError(f"run={folder}: not a finished cell of this version ({state}); run it again, or give another")
    if causal and not record["causal"]:
        raise UsageError(f"run={folder}: not causal: a model that sees later characters cannot write; give another")
    _check_weights(folder)
    path = folder / store.CONFIG_FILE
    try:
        cfg = completed(OmegaConf.load(path))
        cfg.trainer.accelerator, cfg.trainer.devices = "cpu", 1
        check(cfg)
        model = build(cfg, len(vocabulary_of(folder)))
        path = weights_file(folder)
        model.load_state_dict(_weights(path))
    except UNREADABLE as error:
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        reason = f"{kind}{error}".splitlines()[0].split(". ")[0].rstrip(": ")  # PyTorch adds advice in more sentences
        raise UsageError(f"{path}: cannot be read, or not by this version ({reason}); give another cell") from error
    return model


def weights_file(folder: Path) -> Path:
    """Return the file of a cell's best weights: that of a release if there is no other."""
    best, released = folder / snapshots.BEST_FILE, folder / RELEASED_FILE
    return released if released.exists() and not best.exists() else best


def _weights(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(path) if path.name == RELEASED_FILE else snapshots.read(path)["state_dict"]
    return weights


def _check_weights(folder: Path) -> None:
    """Raise UsageError if a cell's folder has no weights, as after ``archive unpack``."""
    if not weights_file(folder).exists():
        raise UsageError(
            f"{folder}: has no {snapshots.BEST_FILE}; an archive keeps no weights, and the sweep's command "
            "with force=true trains them again"
        )


def vocabulary_of(folder: Path) -> Vocabulary:
    """Return the vocabulary of a cell's text; the default if the folder has no record."""
    record = store.read(folder)
    if record is not None and "vocabulary" in record:
        return Vocabulary(record["vocabulary"], "those of the cell's text")
    return VOCABULARIES[completed(record["config"] if record else {}).data.vocabulary]
