"""``python -m hrm_bench.generate run=FOLDER``: continue a text with a trained cell."""

from pathlib import Path

from hrm_bench import cli
from hrm_bench.cli import Key

KEYS = {
    "run": Key("the folder of a finished cell", shown="FOLDER"),
    "prompt": Key("the text to continue, at least one character", default="The ", shown='"The "'),
    "length": Key("characters to add; of a model of bytes: bytes", int, 200),
    "temperature": Key("1: the model's own distribution; lower: likelier characters; 0: the likeliest", float, 0.8),
    "seed": Key("another seed gives another text, unless the temperature is 0", int, 1),
    "samples": Key("continuations of the prompt", int, 1, at_least=1),
}
HELP = cli.Help(
    name="generate",
    words="run=FOLDER [key=value ...]",
    arguments=cli.arguments(KEYS),
    example='run=multirun/custom/hrm-seed42-8c1f4a52e7b0 prompt="In 1871 " temperature=0.5',
)


def main(words: list[str]) -> int:
    """Print the prompt with its continuation, once per sample."""
    from hrm_bench.cells.reopen import load_cell, vocabulary_of
    from hrm_bench.evidence.generation import faults, generate

    options = cli.parse(
        words,
        KEYS,
        check=lambda given: faults(
            [given["prompt"]],
            length=given["length"],
            temperature=given["temperature"],
            vocabulary=vocabulary_of(Path(given.get("run", ""))),
        ),
    )
    model, prompts = load_cell(Path(options["run"])), [options["prompt"]] * options["samples"]
    settings = {name: options[name] for name in ("length", "temperature", "seed")}
    texts = generate(model, prompts, **settings, vocabulary=vocabulary_of(Path(options["run"])))
    for number, text in enumerate(texts, start=1):
        heading = f"--- {number} of {len(texts)} ---\n" if len(texts) > 1 else ""
        print(f"{heading}{options['prompt']}{text}", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main, HELP)
