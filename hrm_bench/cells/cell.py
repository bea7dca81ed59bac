"""A cell: one training run, wholly described by its config."""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from hrm_bench.config.compose import SWEEP_KEYS
from hrm_bench.config.identity import described, digest, uses_memory
from hrm_bench.data.corpora import Corpus, Library

NOT_OF_THE_CELL = (*SWEEP_KEYS, "launcher")  # words of a command that say how its cells are run


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell as planned: its config, and what follows from it, computed once."""

    config: DictConfig
    corpus: Corpus
    identity: str
    parts: dict[str, Any]  # the values that the identity stands for
    memory: str  # none | reset | carry; none for a model without memory, whatever was asked for
    folder: Path  # of its files, in the folder of its sweep
    label: str  # the cell as a reader knows it: model, memory, seed
    overrides: tuple[str, ...]  # the words that compose the config again
    library: Library  # that the corpus is from, for what follows from the corpus alone

    @classmethod
    def of(
        cls, config: DictConfig, root: Path, overrides: Sequence[str] = (), library: Library | None = None
    ) -> "Cell":
        """Make the cell of a checked config, in the folder of its sweep. Raises UsageError if its text cannot be read.

        ``library`` is shared by cells whose texts are to be read once.
        """
        library = Library() if library is None else library
        corpus = library.load(config.data)
        return cls._of(config, corpus, described(config, corpus.fingerprint), root, overrides, library)

    @classmethod
    def _of(
        cls,
        config: DictConfig,
        corpus: Corpus,
        parts: dict[str, Any],
        root: Path,
        overrides: Sequence[str],
        library: Library,
    ) -> "Cell":
        mode = str(config.memory.mode) if uses_memory(config) else None
        name = [str(config.model.name), *([] if mode is None else [mode]), f"seed{config.seed}", digest(parts)]
        label = [str(config.model.name), *([] if mode in (None, "none") else [str(mode)]), f"seed {config.seed}"]
        return cls(
            config=config,
            corpus=corpus,
            identity=digest(parts),
            parts=parts,
            memory=mode or "none",
            folder=root / "-".join(name),
            label=" ".join(label),
            overrides=tuple(word for word in overrides if _key(word) not in NOT_OF_THE_CELL),
            library=library,
        )

    def reseeded(self, seed: int, overrides: Sequence[str]) -> "Cell":
        """Return the cell of another seed, composed by these words: all else is as in this one."""
        config = pickle.loads(pickle.dumps(self.config))  # four times as fast as a deep copy
        config.seed = seed
        parts = {**self.parts, "seed": seed}
        cell = Cell._of(config, self.corpus, parts, self.folder.parent, overrides, self.library)
        cell.__dict__.update(values={**self.values, "seed": seed}, but_for_seed=self.but_for_seed)
        return cell

    @cached_property
    def values(self) -> dict[str, Any]:
        """The config as plain values, without what a command does with its cells."""
        values = cast(dict[str, Any], OmegaConf.to_container(self.config, resolve=True))
        return {key: value for key, value in values.items() if key not in SWEEP_KEYS}

    @cached_property
    def but_for_seed(self) -> str:
        """The values but for the seed, as text: equal for the cells of one variant."""
        return json.dumps({**self.values, "seed": None}, sort_keys=True)


def _key(override: str) -> str:
    """Return the key of a Hydra override: ``++group/key@package=value`` → ``group/key``."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]
