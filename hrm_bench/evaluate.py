"""``python -m hrm_bench.evaluate FOLDER``: score the trained cells of a sweep otherwise, see ``evidence.rescoring``."""

from pathlib import Path

from hrm_bench import cli
from hrm_bench.errors import UsageError

HELP = cli.Help(
    name="evaluate",
    words="FOLDER",
    arguments={"FOLDER": "a sweep; its causal cells are rescored, and evaluation.json and .md written into it"},
    example="multirun/recipes",
)


def main(words: list[str]) -> int:
    """Rescore all causal cells of a sweep, print the scores and write them."""
    if len(words) != 1:
        raise HELP.misuse(words)

    from hrm_bench.cells.reopen import reopen
    from hrm_bench.evidence.probes import in_precision
    from hrm_bench.evidence.rescoring import rescore
    from hrm_bench.records import store
    from hrm_bench.records.schema import RESCORING_FILE
    from hrm_bench.report import summaries
    from hrm_bench.report.frame import Sweep

    folder = Path(words[0])
    records = [record for record in store.read_all(folder) if store.is_finished(record)] if folder.is_dir() else []
    causal = [variant for variant in Sweep.of(records).whole.variants.itertuples() if variant.causal] if records else []
    if not causal:
        raise UsageError(f"{folder}: no finished causal cells here; give the folder of a sweep")
    scores = []
    for variant in causal:
        cells = reopen(folder, list(variant.records.values()))
        texts = {"validation": cells.windows.validation, "test": cells.windows.test}
        with in_precision(next(iter(cells.models.values())), cells.precision):
            scores += rescore(
                variant.label, cells.models, cells.windows.train, texts, with_counts=cells.ngrams_are_affordable
            )
    store.write_json(folder / RESCORING_FILE, {"answers": scores})
    shown = [table for table in summaries.rescoring(Sweep.of(records, path=folder)) if table]
    path = folder / Path(RESCORING_FILE).with_suffix(".md")
    with store.replacing(path) as file:
        file.write("\n".join(table.markdown() for table in shown).encode())
    cli.show(*shown)
    print(f"Written: {folder / RESCORING_FILE}\nWritten: {path}")
    print(f"python -m hrm_bench.report {folder} adds these scores to its page.")
    return 0


if __name__ == "__main__":
    cli.run(main, HELP)
