"""Go on with a text: what a finished cell writes after a prompt, one character after another.

A text is read as ``CharLM.forward`` reads it: in windows from the left, of which the last may be shorter, the memory
written after each whole one and kept for all that follow, in mode ``reset`` as in ``carry``. The logits at the last
character are the distribution of the next one, also where that opens a window.

Each step reads only the windows that the lanes are in, each after its memory as it stood before the window. What stands
to the right of a lane's place is padding: no causal model sees it, and only lanes whose window is whole are written.

``python -m hrm_bench.generate run=FOLDER prompt="The "`` shows it. Shapes: B lanes, T characters, V vocabulary.
"""

import copy
import difflib
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from yaml import YAMLError

from hrm_bench.charlm import CharLM, Memories
from hrm_bench.config.compose import COMPOSITION_ERRORS, check
from hrm_bench.config.schema import Schema
from hrm_bench.data.vocabulary import CHARACTERS, decode, encode
from hrm_bench.errors import UsageError, allowed, command
from hrm_bench.layers.compressive_memory import Memory
from hrm_bench.records import store
from hrm_bench.training import snapshots
from hrm_bench.training.build import build
from hrm_bench.training.snapshots import BEST_FILE

USAGE = """\
python -m hrm_bench.generate run=FOLDER [key=value ...]: go on with a text
  run=FOLDER       the folder of a finished cell
  prompt="The "    the text to go on with, a character at least
  length=200       characters to add
  temperature=0.8  1: as the model has it; lower: likelier characters; 0: always the likeliest
  seed=1           another seed, another text (but not at temperature 0)
  samples=1        continuations of the prompt"""
DEFAULTS = {"prompt": "The ", "length": 200, "temperature": 0.8, "seed": 1, "samples": 1}
OLDEST = {"recipe": {"name": "published"}}  # what configs had no key for when they had no other
KINDS: dict[str, type] = {"run": str} | {key: type(value) for key, value in DEFAULTS.items()}
IN_WORDS = {int: "a whole number", float: "a number"}
UNREADABLE = (UsageError, *COMPOSITION_ERRORS, YAMLError, UnpicklingError, OSError, EOFError, RuntimeError, KeyError)


@torch.no_grad()
def generate(model: CharLM, prompts: Sequence[str], *, length: int, temperature: float, seed: int) -> list[str]:
    """The ``length`` characters that follow each prompt, without it; a lane a prompt, of any lengths.

    ``temperature`` 0 takes the likeliest character; above it, one is drawn from softmax(logits / temperature), by a
    stream that (seed, lane's index) decides. The model is copied, in double precision and evaluation mode, and stays as
    it is: rounding, which depends on the batch's shape, is then too small to decide a character, so that a lane's text
    does not depend on the other lanes. The model must be causal (``audit.is_causal``), for another sees the padding.

    Raises UsageError for a prompt that is empty or has a character outside the vocabulary, for a length below 1 and
    for a temperature that is negative or not finite.
    """
    if faults := [*_faults(prompts, length=length, temperature=temperature)]:
        raise UsageError(*faults)
    probe = copy.deepcopy(model).double().eval()
    lanes = torch.arange(len(prompts), device=probe.device)
    memory = probe.initial_memory(len(prompts))  # as it stood before the window that a lane is in
    tokens = torch.zeros(len(prompts), probe.window, dtype=torch.long, device=probe.device)  # of that window
    places = torch.zeros_like(lanes)  # (B,) characters of it
    for lane, prompt in enumerate(prompts):
        text = encode(prompt)[0].to(probe.device)  # (T,)
        start = (len(text) - 1) // probe.window * probe.window
        if start:
            memory = _replace(memory, probe(text[None, :start])[1], lanes == lane)
        places[lane] = len(text) - start
        tokens[lane, : places[lane]] = text[start:]
    seeds = (random.Random(f"{seed}/{lane}").getrandbits(63) for lane in range(len(prompts)))
    streams = [torch.Generator().manual_seed(each) for each in seeds]
    written = torch.empty(len(prompts), length, dtype=torch.long)
    for step in range(length if prompts else 0):
        *_, last = probe.refine(tokens[:, : int(places.max())], memory)
        written[:, step] = _choose(last.logits[lanes, places - 1].cpu(), temperature, streams)
        whole = places == probe.window
        memory = _replace(memory, last.memory, whole)
        places = places.masked_fill(whole, 0)
        tokens[lanes, places] = written[:, step].to(probe.device)
        places = places + 1
    return [decode(text) for text in written]


def _faults(prompts: Sequence[str], *, length: int, temperature: float) -> Iterator[str]:
    if length < 1:
        yield f"length={length}: must be at least 1; try length={DEFAULTS['length']}"
    if not 0 <= temperature < math.inf:
        yield f"temperature={temperature}: must be at least 0 and finite; try temperature={DEFAULTS['temperature']}"
    if not all(prompts):
        yield 'prompt: must not be empty, for a model predicts what follows a character; try prompt="The "'
    for each in sorted(set("".join(prompts)) - set(CHARACTERS)):
        yield f"prompt: {each!r} is not in the vocabulary; allowed are printable ASCII, newline and tab"


def _replace(memory: Memories, news: Memories, where: Tensor) -> Memories:
    """``news``, of all lanes or of one, in the lanes where (B,) ``where`` is true, and ``memory`` in the others."""
    return tuple(
        Memory(
            torch.where(where[:, None, None, None], new.matrix, old.matrix),
            torch.where(where[:, None, None], new.normalizer, old.normalizer),
        )
        for old, new in zip(memory, news, strict=True)
    )


def _choose(logits: Tensor, temperature: float, streams: Sequence[torch.Generator]) -> Tensor:
    """A character a lane, (B,), from (B, V) logits in double precision on the CPU."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    below = logits - logits.amax(dim=-1, keepdim=True)  # first, so that no temperature, however low, makes ∞ − ∞
    probabilities = (below / temperature).softmax(dim=-1)
    drawn = [torch.multinomial(each, 1, generator=stream) for each, stream in zip(probabilities, streams, strict=True)]
    return torch.cat(drawn)


def completed(config: Any) -> DictConfig:
    """The config of a cell that may be older than some of the keys."""
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Schema), OLDEST, config))


def load_cell(folder: Path) -> CharLM:
    """The model of a finished cell with its best weights, on the CPU wherever it was trained.

    Raises UsageError where it is not finished or not causal, and where a file of it cannot be read, or does not fit.
    """
    if not folder.is_dir():
        raise UsageError(f"run={folder}: no such folder; give that of a finished cell")
    record = store.read(folder)
    if record is None:
        inside = sorted(path.parent for path in folder.glob(f"*/{store.RECORD_FILE}"))
        hint = f"did you mean a cell in it, run={inside[0]}?" if inside else "give the folder of a finished cell"
        raise UsageError(f"run={folder}: no {store.RECORD_FILE} here; {hint}")
    if not store.is_finished(record):
        found = f"status {record['status']}, record version {record['schema_version']}"
        raise UsageError(f"run={folder}: not a finished cell of this version ({found}); run it again, or give another")
    if not record["causal"]:
        raise UsageError(f"run={folder}: not causal: a cell that reads ahead cannot go on with a text; give another")
    path = folder / store.CONFIG_FILE
    try:
        cfg = completed(OmegaConf.load(path))
        cfg.trainer.accelerator, cfg.trainer.devices = "cpu", 1
        check(cfg)
        model = build(cfg)
        path = folder / BEST_FILE
        model.load_state_dict(snapshots.read(path)["state_dict"])
    except UNREADABLE as error:
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        reason = f"{kind}{error}".splitlines()[0].split(". ")[0].rstrip(": ")  # PyTorch goes on with advice
        raise UsageError(f"{path}: cannot be read, or not by this version ({reason}); give another cell") from error
    return model


def parse(words: Sequence[str]) -> dict[str, Any]:
    """A value for each of ``KINDS``. Raises UsageError, a line a fault."""
    values: dict[str, Any] = dict(DEFAULTS)
    faults = []
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            faults.append(f"{word}: not understood; write key=value, and put a value with spaces in quotes")
        elif key not in KINDS:
            meant = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(key, KINDS, n=1))
            faults.append(f"{key}: no such key; allowed are {allowed(KINDS)}{meant}")
        else:
            try:
                values[key] = KINDS[key](text)
            except ValueError:
                faults.append(f"{word}: must be {IN_WORDS[KINDS[key]]}")
    if "run" not in values:
        faults.append("run: must be given; run=FOLDER")
    if values["samples"] < 1:
        faults.append(f"samples={values['samples']}: must be at least 1; try samples={DEFAULTS['samples']}")
    if faults := [*faults, *_faults([values["prompt"]], length=values["length"], temperature=values["temperature"])]:
        raise UsageError(*faults)
    return values


def main(words: Sequence[str]) -> int:
    """Print the prompt and what the cell makes of it, once for each sample."""
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    asked = parse(words)
    model, prompts = load_cell(Path(asked["run"])), [asked["prompt"]] * asked["samples"]
    texts = generate(model, prompts, length=asked["length"], temperature=asked["temperature"], seed=asked["seed"])
    for number, text in enumerate(texts, start=1):
        heading = f"--- {number} of {len(texts)} ---\n" if len(texts) > 1 else ""
        print(f"{heading}{asked['prompt']}{text}", flush=True)
    return 0


if __name__ == "__main__":
    command(main)
