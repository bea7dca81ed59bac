"""``python -m hrm_bench.evaluate FOLDER``: score the trained cells of a sweep in other ways.

``evidence.rescoring`` has these ways. With ``adapt=...`` it is ``evidence.adaptation`` instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrm_bench import cli
from hrm_bench.errors import UsageError, choices

if TYPE_CHECKING:
    from hrm_bench.cells.reopen import Reopened
    from hrm_bench.evidence.adaptation import Group, Mixture
    from hrm_bench.records.schema import Adaptation, Rescoring

PARTS = ("cache", "dynamic", "counts", "memory")
NO_PARTS = "none"
KEYS = {
    "adapt": cli.Key(
        "show instead what the cells gain from the text that they have read so far, by these ways or some of them: a "
        "cache of states, dynamic evaluation, n-gram counts, an output memory; adds to adaptation.json and .md",
        default=NO_PARTS,
        shown=",".join(PARTS),
    ),
    "memory_chars": cli.Key(
        "unseen characters that an output memory learns on; they follow those of training",
        int,
        default=200_000,
        at_least=2_100,
    ),
}
HELP = cli.Help(
    name="evaluate",
    words="FOLDER [key=value ...]",
    arguments={
        "FOLDER": "a sweep; its causal cells are rescored, and evaluation.json and .md written into it",
        **cli.arguments(KEYS),
    },
    example="multirun/recipes",
)


def main(words: list[str]) -> int:
    """Rescore all causal cells of a sweep, print the scores and write them."""
    options = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [word for word in words if word not in options]
    if len(folders) != 1:
        raise HELP.misuse(words)
    values = cli.parse(options, KEYS, _faults)
    if "memory" not in _parts(values) and any(word.startswith("memory_chars=") for word in options):
        raise UsageError("memory_chars: is of an output memory; add adapt=memory")

    from hrm_bench.records import store
    from hrm_bench.report import adaptation, summaries
    from hrm_bench.report.frame import Sweep

    folder = Path(folders[0])
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the folder of a sweep")
    records = [record for record in store.read_all(folder) if store.is_finished(record)]
    causal = [variant for variant in Sweep.of(records).whole.variants.itertuples() if variant.causal] if records else []
    if not causal:
        raise UsageError(f"{folder}: no finished causal cells here; give the folder of a sweep")
    parts = _parts(values)
    path = _adapt(folder, causal, parts, values["memory_chars"]) if parts else _rescore(folder, causal)
    sweep = Sweep.of(records, path=folder)
    tables = [adaptation.adaptation(sweep)] if parts else summaries.rescoring(sweep)
    shown = [table for table in tables if table]
    with store.replacing(path.with_suffix(".md")) as file:
        file.write("\n".join(table.markdown() for table in shown).encode())
    cli.show(*shown)
    print(f"Written: {path}\nWritten: {path.with_suffix('.md')}")
    print(f"python -m hrm_bench.report {folder} adds these scores to its page.")
    return 0


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    for part in _parts(values):
        if part not in PARTS:
            yield choices(f"adapt={part}", part, PARTS)


def _parts(values: Mapping[str, Any]) -> list[str]:
    return [] if values["adapt"] == NO_PARTS else str(values["adapt"]).split(",")


def _rescore(folder: Path, variants: Sequence[Any]) -> Path:
    """Read the cells in other ways; return the file of their scores."""
    from hrm_bench.cells.reopen import reopen
    from hrm_bench.evidence.probes import in_precision
    from hrm_bench.evidence.rescoring import rescore
    from hrm_bench.records import store
    from hrm_bench.records.schema import RESCORING_FILE

    scores: list[Rescoring] = []
    for variant in variants:
        cells = reopen(folder, list(variant.records.values()))
        texts = {"validation": cells.windows.validation, "test": cells.windows.test}
        with in_precision(next(iter(cells.models.values())), cells.precision):
            scores += rescore(
                variant.label, cells.models, cells.windows.train, texts, with_counts=cells.ngrams_are_affordable
            )
    store.write_json(folder / RESCORING_FILE, {"answers": scores})
    return folder / RESCORING_FILE


def _adapt(folder: Path, variants: Sequence[Any], parts: Sequence[str], memory_chars: int) -> Path:
    """Have the cells adapt while they read; return the file of their scores, which is written after every cell."""
    from hrm_bench.cells.reopen import reopen
    from hrm_bench.evidence.adaptation import OWN_TEXT, UNSEEN, adapt, by_mixture, joined
    from hrm_bench.evidence.articles import unseen
    from hrm_bench.records import store
    from hrm_bench.records.extras import read_adaptation
    from hrm_bench.records.schema import ADAPTATION_FILE

    path = folder / ADAPTATION_FILE
    answers: list[Adaptation] = []
    earlier = read_adaptation(folder)
    opened = [(variant.label, reopen(folder, list(variant.records.values()))) for variant in variants]
    groups = [_groups(label, cells, parts) for label, cells in opened]  # all faults come before the first cell is read
    learning = [
        {OWN_TEXT: cells.windows.train, UNSEEN: unseen(cells.data, cells.corpus, memory_chars)}
        if "memory" in parts
        else {}
        for _, cells in opened
    ]
    for (label, cells), texts, learned in zip(opened, groups, learning, strict=True):
        mixtures: dict[int, list[Mixture]] = {}
        for seed, model in cells.models.items():
            mixtures[seed] = adapt(model, texts, parts, learning=learned, seed=seed, precision=cells.precision)
            if not earlier:  # else what is there stays until all seeds of a variant are done
                store.write_json(path, {"answers": answers + by_mixture(label, mixtures)})
            print(f"{label}: seed {seed} is done", flush=True)
        answers += by_mixture(label, mixtures)
        store.write_json(path, {"answers": joined(earlier, answers)})
    return path


def _groups(label: str, cells: "Reopened", parts: Sequence[str]) -> "dict[str, Group]":
    """Return the texts that a variant's cells read."""
    from hrm_bench.data.kneser_ney import MOST_COUNTED
    from hrm_bench.evidence import adaptation
    from hrm_bench.evidence.articles import that_choose
    from hrm_bench.evidence.rescoring import check_lengths

    train, scored = cells.windows.train, {"validation": cells.windows.validation, "test": cells.windows.test}
    check_lengths(label, scored)
    counts = None
    if "counts" in parts:
        if not cells.ngrams_are_affordable:
            rest = ",".join(part for part in parts if part != "counts") or PARTS[0]
            raise UsageError(
                f"adapt=counts: {label} has {len(train.indices):,} training characters, and at most {MOST_COUNTED:,} "
                f"can be counted; type adapt={rest}"
            )
        counts = adaptation.trained_counts(train.indices, len(cells.corpus.vocabulary))
    choosing = [held.samples for held in that_choose(cells.data, cells.corpus)]
    return adaptation.groups(choosing, scored, counts)


if __name__ == "__main__":
    cli.run(main, HELP)
