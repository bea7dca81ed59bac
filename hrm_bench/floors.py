"""``python -m hrm_bench.floors data=wikitext2``: show what n-gram models reach on a text."""

import math
from collections.abc import Mapping

from hrm_bench import cli
from hrm_bench.records.facts import text_name, unknown_sentence

HELP = cli.Help(
    name="floors",
    words="[--config-dir FOLDER] [key=value ...]",
    arguments={
        "key=value": "as in python -m hrm_bench; data=... and data.window matter",
        "FOLDER": "configs of your own, beside conf/",
    },
    example="data=wikitext2 data.window=64",
)
KINDS = {
    "frozen": ("full", "window"),
    "window": ("window",),
    "adaptive": ("adaptive", "sample"),
}  # by kind


def main(words: list[str]) -> int:
    """Print the n-gram baselines of the validation and the test text of a config."""
    from hrm_bench.config.compose import compose
    from hrm_bench.data import corpora
    from hrm_bench.evidence import answers
    from hrm_bench.evidence.floors import WAYS, best, of_split
    from hrm_bench.training.build import load_windows

    cfg = compose(*words)
    corpus = corpora.load(cfg.data)
    data = load_windows(cfg, corpus)
    meanings = WAYS if corpus.task is None else answers.WAYS
    for name, split in (("validation", data.validation), ("test", data.test)):
        baselines = of_split(corpus, name, window=split.window)
        cli.print_table(
            f"{name}: perplexity per character (bits)",
            ["n-gram model", *meanings],
            [[model, *(_formatted(by_way, way) for way in meanings)] for model, by_way in baselines.items()],
            text_columns={"n-gram model"},
        )
        if split.has_bytes:
            per_byte = 1 / split.symbols_per_character
            print(f"{split.symbols_per_character:.4f} bytes per character; bits per byte are {per_byte:.4f} of these.")
        for kind, ways in KINDS.items():
            model, way, _ = best(baselines, *ways)
            print(f"Best {kind} n-gram model: {model} {way}, {_formatted(baselines[model], way)}")
    print(
        f"\n{data.validation.num_decoded:,} validation and {data.test.num_decoded:,} test characters of "
        f"{text_name(cfg.data)}, {corpus.train.num_characters:,} training characters, windows of {cfg.data.window}."
    )
    if line := unknown_sentence(
        {name: getattr(data, name).unknown_fraction for name in corpus.splits}, cfg.data.vocabulary
    ):
        print(line)
    for way, meaning in meanings.items():
        print(f"{way}: {meaning}.")
    return 0


def _formatted(by_way: Mapping[str, float], way: str) -> str:
    return f"{by_way[way]:.2f} ({math.log2(by_way[way]):.3f})" if way in by_way else ""


if __name__ == "__main__":
    cli.run(main, HELP)
