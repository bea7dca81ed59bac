"""``python -m hrm_bench.floors data=wikitext2``: show what n-gram models reach on a text."""

import math
from collections.abc import Mapping

from hrm_bench import cli

HELP = cli.Help(
    name="floors",
    words="[--config-dir FOLDER] [key=value ...]",
    arguments={
        "key=value": "as in python -m hrm_bench; data=... and data.window matter",
        "FOLDER": "configs of your own, beside conf/",
    },
    example="data=wikitext2 data.window=64",
)
KINDS = {"frozen": ("full", "window"), "window": ("window",), "adaptive": ("adaptive",)}  # ways of reading, by kind


def main(words: list[str]) -> int:
    """Print the n-gram baselines of the validation and the test text of a config."""
    from hrm_bench.config.compose import compose
    from hrm_bench.data.text import VOCABULARIES
    from hrm_bench.evidence.floors import WAYS, best, floors
    from hrm_bench.training.build import load_windows

    cfg = compose(*words)
    data, size = load_windows(cfg), len(VOCABULARIES[cfg.data.vocabulary])
    for name, split in (("validation", data.validation), ("test", data.test)):
        baselines = floors(data.train.indices, split.indices, window=split.window, vocabulary_size=size)
        cli.print_table(
            f"{name}: perplexity per character (bits)",
            ["n-gram model", *WAYS],
            [[model, *(_formatted(by_way, way) for way in WAYS)] for model, by_way in baselines.items()],
            text_columns={"n-gram model"},
        )
        for kind, ways in KINDS.items():
            model, way, _ = best(baselines, *ways)
            print(f"Best {kind} n-gram model: {model} {way}, {_formatted(baselines[model], way)}")
    print(
        f"\n{data.validation.num_characters:,} validation and {data.test.num_characters:,} test characters of "
        f"{cfg.data.source}, {len(data.train.indices):,} training characters, windows of {cfg.data.window}."
    )
    for way, meaning in WAYS.items():
        print(f"{way}: {meaning}.")
    return 0


def _formatted(by_way: Mapping[str, float], way: str) -> str:
    return f"{by_way[way]:.2f} ({math.log2(by_way[way]):.3f})" if way in by_way else ""


if __name__ == "__main__":
    cli.run(main, HELP)
