"""Other questions to finished cells, each a column of its own: none of them is what the results table says.

- *sliding*: each character is predicted after at least half a window, not after what precedes it in its own; windows
  overlap by half, and of each but the first only the second half is scored. Not of models whose memory is read, which
  have their own way of seeing further.
- *averaged seeds*: one prediction, the mean of the probabilities that all seeds of the variant give.
- *with counts*: the mean of the model's probabilities and those of Kneser-Ney, order 7, within the window. Half and
  half: no weight is chosen on what is scored.
- *segments*: what a model that was trained on more than one segment reaches with another number of them.

``python -m hrm_bench.evaluate FOLDER`` reads the best weights of a sweep's causal cells and writes evaluation.json and
evaluation.md beside them. Shapes: B lanes, T characters, N scored characters, V vocabulary.
"""

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import torch
from omegaconf import OmegaConf
from torch import Tensor

from hrm_bench import probes, records
from hrm_bench.charlm import CharLM
from hrm_bench.data.windows import Samples
from hrm_bench.errors import UsageError, command
from hrm_bench.generate import load_cell
from hrm_bench.report.tables import markdown_grid, print_grid
from hrm_bench.report.variants import Variant, variants
from hrm_bench.teacher import distributions
from hrm_bench.training import load_windows

SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16)
SPLITS = ("validation", "test")
FILE = "evaluation.json"
WORDS = {"variant", "split"}
NOTE = (
    "Perplexity a character, mean ± sd over seeds, of the weights that are best on validation. sliding: after half a "
    "window at least; averaged seeds: one prediction, the mean of all seeds' probabilities; with counts: half the "
    "model's probabilities, half those of Kneser-Ney (order 7, within the window)."
)


class Answers(TypedDict):
    """Perplexities of a variant on one split, by seed where there is a list."""

    variant: str
    split: str
    seeds: list[int]
    scored: list[float]  # as the results table has it
    sliding: list[float] | None
    averaged_seeds: float
    with_counts: list[float]
    segments: dict[str, list[float]]  # by their number; empty where there is but one


@torch.no_grad()
def probabilities(model: CharLM, samples: Samples) -> Tensor:
    """What the model gives each character after each place of a text that is read as in scoring: (N, V)."""
    found = [model(reading.tokens)[0] for reading in probes.readings(model, samples)]
    return torch.cat([logits.flatten(0, 1) for logits in found]).double().softmax(dim=-1)


@torch.no_grad()
def sliding(model: CharLM, samples: Samples) -> Tensor:
    """The same, of a model without memory, by windows that overlap by half."""
    stride = model.window // 2
    last = samples.num_characters - model.window
    starts = [*range(0, last, stride), last] if last else [0]
    tokens, _ = samples.read(starts, model.window)
    found = model(tokens)[0].double().softmax(dim=-1)
    news = [start - before for before, start in itertools.pairwise(starts)]
    return torch.cat([found[0], *(each[model.window - new :] for each, new in zip(found[1:], news, strict=True))])


def counted(train: Tensor, samples: Samples, window: int) -> Tensor:
    """What Kneser-Ney gives each character after each place, which sees its window from the left: (N, V)."""
    expected, text = distributions(bytes(train.tolist())), bytes(samples.indices.tolist())
    places = range(samples.num_characters)
    return torch.stack([torch.from_numpy(expected(text[place - place % window : place + 1])) for place in places])


def perplexity(found: Tensor, samples: Samples) -> float:
    """Of (N, V) probabilities on the characters that follow."""
    targets = samples.indices[1 : samples.num_characters + 1].long()
    return math.exp(-float(found.gather(1, targets[:, None]).log().mean()))


def answers(variant: Variant, folder: Path) -> list[Answers]:
    """All answers of a variant, on validation and on test; its cells lie in ``folder``."""
    cells = {seed: load_cell(folder / _name(folder, record)).eval() for seed, record in variant.seeds.items()}
    record = next(iter(variant.seeds.values()))
    data = load_windows(OmegaConf.create(record["config"]))
    made = []
    for split, samples in (("validation", data.validation), ("test", data.test)):
        counts = counted(data.train.indices, samples, data.train.window)
        found = [probabilities(model, samples) for model in cells.values()]
        reads_memory = record["memory"] != "none"
        made.append(
            Answers(
                variant=variant.label,
                split=split,
                seeds=[*cells],
                scored=[perplexity(each, samples) for each in found],
                sliding=None if reads_memory else [perplexity(sliding(m, samples), samples) for m in cells.values()],
                averaged_seeds=perplexity(torch.stack(found).mean(dim=0), samples),
                with_counts=[perplexity((each + counts) / 2, samples) for each in found],
                segments=_by_segments([*cells.values()], samples),
            )
        )
    return made


def _by_segments(models: Sequence[CharLM], samples: Samples) -> dict[str, list[float]]:
    trained = models[0].num_segments
    found: dict[str, list[float]] = {}
    for number in SEGMENTS if trained > 1 else ():
        for model in models:
            model.num_segments = number
        found[str(number)] = [perplexity(probabilities(model, samples), samples) for model in models]
    for model in models:
        model.num_segments = trained
    return found


def _name(folder: Path, record: records.Record) -> str:
    """The folder of a record's cell: the one that ends in its identity."""
    return next(path.name for path in folder.glob(f"*-{record['identity']}"))


def grids(found: Sequence[Answers]) -> list[tuple[list[str], list[list[str]]]]:
    """Two tables: the columns, and the curve over segments where there is one."""
    lines = [
        [
            each["variant"],
            each["split"],
            str(len(each["seeds"])),
            _mean(each["scored"]),
            _mean(each["sliding"]) if each["sliding"] else "–",
            f"{each['averaged_seeds']:.2f}",
            _mean(each["with_counts"]),
        ]
        for each in found
    ]
    headings = ["variant", "split", "seeds", "as scored", "sliding", "averaged seeds", "with counts"]
    curves = [
        [each["variant"], each["split"], *map(_mean, each["segments"].values())] for each in found if each["segments"]
    ]
    both = [(headings, lines), (["variant", "split", *(f"{number} segments" for number in SEGMENTS)], curves)]
    return [each for each in both if each[1]]


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def read(folder: Path) -> list[Answers]:
    """What was answered of the cells in a folder; nothing where nothing was asked."""
    path = folder / FILE
    found: list[Answers] = json.loads(path.read_bytes())["answers"] if path.exists() else []
    return found


def main(words: Sequence[str]) -> int:
    """Ask all causal cells of a sweep, show their answers and write them."""
    if len(words) != 1 or words[0] in {"-h", "--help"}:
        raise UsageError("give one folder, of a sweep: python -m hrm_bench.evaluate multirun/recipes")
    folder = Path(words[0])
    finished = [each for each in records.read_all(folder) if records.is_finished(each)] if folder.is_dir() else []
    asked = [variant for variant in variants(finished) if variant.row.causal] if finished else []
    if not asked:
        raise UsageError(f"{folder}: no finished causal cells here; give the folder of a sweep")
    found = [each for variant in asked for each in answers(variant, folder)]
    records.write_json(folder / FILE, {"answers": found})
    tables = grids(found)
    for title, (headings, lines) in zip(("other questions", "segments at evaluation"), tables, strict=False):
        print_grid(title, headings, lines, words=WORDS, note=NOTE)
    text = "\n\n".join([NOTE, *(markdown_grid(*table, words=WORDS) for table in tables)])
    (folder / "evaluation.md").write_text(f"{text}\n", encoding="utf-8")
    print(f"Written: {folder / FILE}\nWritten: {folder / 'evaluation.md'}")
    return 0


if __name__ == "__main__":
    command(main)
