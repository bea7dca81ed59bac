"""``python -m hrm_bench.archive``: pack the records of a sweep into one file, unpack or check them; give weights."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hrm_bench import cli
from hrm_bench.errors import UsageError, choices
from hrm_bench.records import archive

KEYS = {
    "train": cli.Key("cells, drawn at random, that check trains again and compares", int, default=0, at_least=0),
    "tolerance": cli.Key("by which their perplexities may differ, as a fraction", float, default=0.05, at_least=0),
    "seed": cli.Key("of the draw; 0: another one each time", int, default=0, at_least=0),
    "trust": cli.Key("true: import classes that are not of hrm_bench", default="false"),
}
ACTIONS = ("pack", "unpack", "check", "weights")
HELP = cli.Help(
    name="archive",
    words="pack FOLDER FILE | unpack FILE FOLDER | check FILE [key=value ...] | weights FOLDER TARGET",
    arguments={
        "pack FOLDER FILE": "write the finished records of a sweep into a .jsonl file",
        "unpack FILE FOLDER": "write them back; what is finished there is kept",
        "check FILE": "compute again what follows from each record's config and text; status 1 if anything differs",
        **cli.arguments(KEYS),
        "weights FOLDER TARGET": "write the causal cells with weights (safetensors) and a card into another folder",
    },
    example="pack multirun/recipes results/recipes.jsonl",
)


def main(words: list[str]) -> int:
    """Pack, unpack, check or give weights away, and print how many files, or what is wrong."""
    if words and words[0] not in ACTIONS:
        raise UsageError(choices(words[0], words[0], ACTIONS))
    if len(words) >= 2 and words[0] == "check":
        return _check(Path(words[1]), cli.parse(words[2:], KEYS, _faults))
    if len(words) != 3 or words[0] not in ("pack", "unpack", "weights"):
        raise HELP.misuse(words)
    if not all(words[1:]):
        raise UsageError(f"{words[0]}: a name is empty; give both")
    source, target = map(Path, words[1:])
    if words[0] == "weights":
        return _give_weights(source, target)
    if words[0] == "pack":
        print(f"{archive.pack(source, target)} records: {target}")
    else:
        num_written, num_kept = archive.unpack(source, target)
        print(f"{num_written} files written, {num_kept} kept: {target}")
    return 0


def _give_weights(sweep: Path, target: Path) -> int:
    from hrm_bench.cells.release import release
    from hrm_bench.records import store
    from hrm_bench.report.card import CARD_FILE, card
    from hrm_bench.report.frame import Sweep
    from hrm_bench.table import count

    number, left_out = release(sweep, target)
    with store.replacing(target / CARD_FILE) as file:
        file.write(card(Sweep.of(store.read_all(target), path=target), target).encode())
    print(f"{count(number, 'cell')} with weights: {target}, described in {target / CARD_FILE}")
    if left_out:
        print(f"{left_out} left out: not causal")
    return 0


def _faults(values: Mapping[str, Any]) -> Iterator[str]:
    if values["trust"] not in ("true", "false"):
        yield f"trust={values['trust']}: must be true or false"


def _check(file: Path, values: Mapping[str, Any]) -> int:
    from hrm_bench.cells import verify

    checked = verify.check_archive(file, trust=values["trust"] == "true")
    faults = checked.faults
    if values["train"] and not faults:
        draw = random.Random(values["seed"] or None)
        faults = verify.train_again(file, values["train"], tolerance=values["tolerance"], draw=draw)
        trained = min(values["train"], checked.cells)
        odds = verify.odds_of_missing(checked.cells, trained)
        print(
            f"If a tenth of the cells were forged, training {trained} of {checked.cells} again would miss them with "
            f"probability {odds:.2f}."
        )
    for line in faults:
        print(line)
    print(verify.summary(checked, faults))
    return 1 if faults else 0


if __name__ == "__main__":
    cli.run(main, HELP)
