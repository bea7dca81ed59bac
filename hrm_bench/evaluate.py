"""Other questions to finished cells, each a column of its own: none of them is what the results table says.

- *sliding*: each character is predicted after at least half a window, not after what precedes it in its own; windows
  overlap by half, and of each but the first only the second half is scored. Not of models whose memory is read, which
  have their own way of seeing further.
- *averaged seeds*: one prediction, the mean of the probabilities that all seeds of the variant give.
- *with counts*: the mean of the model's probabilities and those of Kneser-Ney, order 7, within the window. Half and
  half: no weight is chosen on what is scored.
- *segments*: what a model that was trained on more than one segment reaches with another number of them.
- *halting*: what it reaches where a Q head decides at each character when to stop (``halting``). Of models that have
  such a head and read no memory.

``python -m hrm_bench.evaluate FOLDER`` reads the best weights of a sweep's causal cells and writes evaluation.json and
evaluation.md beside them. Shapes: B lanes, T characters, N scored characters, V vocabulary.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from hrm_bench.charlm import CharLM
from hrm_bench.config.identity import identity
from hrm_bench.data import corpora
from hrm_bench.data.distillation import distributions
from hrm_bench.data.windows import Samples
from hrm_bench.errors import UsageError, command
from hrm_bench.evidence import halting, probes
from hrm_bench.generate import completed, load_cell
from hrm_bench.records import store
from hrm_bench.records.schema import Record
from hrm_bench.report import answers
from hrm_bench.report.answers import Answers, Halting
from hrm_bench.report.tables import print_grid
from hrm_bench.report.variants import Variant, variants
from hrm_bench.training.build import MOST_COUNTED, load_windows

SEGMENTS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_SCORED = 50_000  # characters of a split, of which every segment's whole distributions are kept at once


@torch.no_grad()
def probabilities(model: CharLM, samples: Samples) -> Tensor:
    """What the model gives each character after each place of a text that is read as in scoring: (N, V)."""
    found = [model(reading.tokens)[0] for reading in probes.readings(model, samples)]
    return torch.cat([logits.flatten(0, 1) for logits in found]).double().softmax(dim=-1)


@torch.no_grad()
def sliding(model: CharLM, samples: Samples) -> Tensor:
    """The same, of a model without memory, by windows that overlap by half."""
    stride = max(1, model.window // 2)
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


def ask(variant: Variant, folder: Path) -> list[Answers]:
    """All answers of a variant, on validation and on test; its cells lie in ``folder``."""
    cells = {seed: load_cell(folder / _name(folder, record)).eval() for seed, record in variant.seeds.items()}
    record = next(iter(variant.seeds.values()))
    cfg = completed(record["config"])
    torch.set_num_threads(cfg.trainer.num_threads)
    _check_text(folder, variant, cfg)
    data = load_windows(cfg)
    countable = len(data.train.indices) <= MOST_COUNTED
    heads = [] if record["memory"] != "none" else _q_heads([*cells.values()], data.train)
    made = []
    for split, samples in (("validation", data.validation), ("test", data.test)):
        counts = counted(data.train.indices, samples, data.train.window) if countable else None
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
                with_counts=None if counts is None else [perplexity((each + counts) / 2, samples) for each in found],
                segments=_by_segments([*cells.values()], samples, reads_memory=reads_memory),
                halting=_halting([*cells.values()], heads, samples),
            )
        )
    return made


def _check_text(folder: Path, variant: Variant, cfg: DictConfig) -> None:
    """Raise UsageError where the text is not the one that the cells had, or longer than can be asked about."""
    corpus = corpora.load(cfg.data)
    if identity(cfg, corpus.fingerprint) != variant.seeds[cfg.seed]["identity"]:
        where = f"data.path={cfg.data.path}" if cfg.data.path else f"data={cfg.data.source}"
        raise UsageError(f"{folder}: {variant.label}: {where} is not the text that its cells had; give that one back")
    for name, text in (("validation", corpus.validation), ("test", corpus.test)):
        if len(text) > MOST_SCORED + 1:
            raise UsageError(
                f"{folder}: {variant.label}: its {name} text has {len(text):,} characters, and at most {MOST_SCORED:,} "
                f"are asked about; train with data.{name}_chars={MOST_SCORED}"
            )


def _by_segments(models: Sequence[CharLM], samples: Samples, *, reads_memory: bool) -> dict[str, list[float]]:
    if models[0].num_segments == 1:
        return {}
    by_model = [_refined_again(model, samples) if reads_memory else _refined_on(model, samples) for model in models]
    return {str(number): list(found) for number, *found in zip(SEGMENTS, *by_model, strict=True)}


def _refined_on(model: CharLM, samples: Samples) -> list[float]:
    """By number of segments, of a model without memory: all are on the way to the most."""
    found = halting.refined(model, samples, SEGMENTS[-1]).log_probabilities
    return [perplexity(found[number - 1].exp(), samples) for number in SEGMENTS]


def _refined_again(model: CharLM, samples: Samples) -> list[float]:
    """The same of a model that writes a memory after the last: each number is another reading of the text."""
    trained, found = model.num_segments, []
    for number in SEGMENTS:
        model.num_segments = number
        found.append(perplexity(probabilities(model, samples), samples))
    model.num_segments = trained
    return found


def _q_heads(models: Sequence[CharLM], train: Samples) -> list[nn.Linear]:
    """One for each model; none where they have none, or nothing to decide."""
    if models[0].num_segments == 1 or not hasattr(models[0], "q_head"):
        return []
    return [halting.fit(halting.refined(model, train, most=halting.MOST_FITTED)) for model in models]


def _halting(models: Sequence[CharLM], heads: Sequence[nn.Linear], samples: Samples) -> list[Halting]:
    if not heads:
        return []
    curves = [halting.curve(model, head, samples) for model, head in zip(models, heads, strict=True)]
    return [
        Halting(
            threshold=points[0].threshold,
            mean_segments=[point.mean_segments for point in points],
            perplexity=[point.perplexity for point in points],
        )
        for points in zip(*curves, strict=True)
    ]


def _name(folder: Path, record: Record) -> str:
    """The folder of a record's cell: the one that ends in its identity."""
    return next(path.name for path in folder.glob(f"*-{record['identity']}"))


def main(words: Sequence[str]) -> int:
    """Ask all causal cells of a sweep, show their answers and write them."""
    if len(words) != 1 or words[0] in {"-h", "--help"}:
        raise UsageError("give one folder, of a sweep: python -m hrm_bench.evaluate multirun/recipes")
    folder = Path(words[0])
    finished = [each for each in store.read_all(folder) if store.is_finished(each)] if folder.is_dir() else []
    asked = [variant for variant in variants(finished) if variant.row.causal] if finished else []
    if not asked:
        raise UsageError(f"{folder}: no finished causal cells here; give the folder of a sweep")
    found = [each for variant in asked for each in ask(variant, folder)]
    written = answers.write(found, folder)
    for title, (headings, lines) in zip(answers.TITLES, answers.grids(found), strict=False):
        print_grid(title, headings, lines, words=answers.WORDS, note=answers.NOTE)
    for path in written:
        print(f"Written: {path}")
    print(f"python -m hrm_bench.report {folder} puts them on its page.")
    return 0


if __name__ == "__main__":
    command(main)
