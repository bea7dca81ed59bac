"""The card of weights that are given away: how to use them, what they learned from, their figures and their limits."""

import shlex
from pathlib import Path

from hrm_bench.records.facts import recipe_name, text_name
from hrm_bench.report import articles, tables
from hrm_bench.report.frame import Sweep
from hrm_bench.table import count

CARD_FILE, CARD_TITLE = "README.md", "# Trained weights of"
CARD = """\
{title} {models}

Trained and scored by hrm_bench: {number} of single characters.
Each folder is one cell of a sweep: `weights.safetensors` has the weights of the epoch that is best on validation,
`config.yaml` the config, and `record.json` every figure, the versions and the words that train the cell again.

## Use

    python -m hrm_bench.generate {run} prompt="The "
    python -m hrm_bench.evaluate {typed}
    python -m hrm_bench.audit {run}

`hrm_bench.cells.reopen.load_cell("{folder}/{first}")` gives the model in Python.

## Text and recipe

- Text: {texts}. No text is in this folder.
- Training characters: {characters}.
- Recipe: {recipes}.

## Figures

{tables}
## Limits

- A model of this size that has read this much writes words that look right and sentences that say nothing.
- Perplexities are per character. None compares with a perplexity per word or of another text.
- Scores repeat to the bit on one machine. Another one rounds differently.
"""


def card(sweep: Sweep, folder: Path) -> str:
    """Return the card of the causal cells of a sweep, whose weights lie in a folder."""
    variants = [variant for variant in sweep.whole.variants.itertuples() if variant.causal]
    records = [record for variant in variants for record in variant.records.values()]
    shown = [make(sweep.whole) for make in (tables.results, articles.articles, tables.commands)]
    first = records[0]
    cell = next(folder.glob(f"*-{first['identity']}"))

    def all_of(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(values))

    return CARD.format(
        title=CARD_TITLE,
        models=all_of([record["model"] for record in records]),
        number=count(len(records), "language model"),
        folder=folder,
        first=cell.name,
        typed=shlex.quote(str(folder)),
        run=shlex.quote(f"run={cell}"),
        texts=all_of([text_name(record["config"]["data"]) for record in records]),
        characters=all_of([_characters(record["config"]["data"]["train_chars"]) for record in records]),
        recipes=all_of([recipe_name(record) for record in records]),
        tables="\n".join(table.markdown() for table in shown if table),
    )


def _characters(number: int | None) -> str:
    return "all" if number is None else f"the first {number:,}"
