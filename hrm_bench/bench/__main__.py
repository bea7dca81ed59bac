"""``python -m hrm_bench.bench``: one table of ratios, each of things measured side by side."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hrm_bench.bench import matmul, memory, overhead, peers, start, steps, sweep
from hrm_bench.bench.settings import COMPILED, Settings, all_models, check_models, distinct_models
from hrm_bench.bench.table import JSON_FILE, MARKDOWN_FILE, Row, Table, machine, show, told, write
from hrm_bench.errors import UsageError, allowed, command

USAGE = """\
python -m hrm_bench.bench [PART ...] [quick] [key=value ...]: how fast it is, as ratios
  steps      a training step and an evaluation of each model, against plain code for the same mathematics
  overhead   the step in Lightning with records and W&B, against a bare loop
  matmul     the step's share of the machine's rate of matrix products
  peers      against models of the package index, where they are installed
  memory     time and memory a character of long texts, against attention to all of it
  start      seconds to the help, to the first step, and to that of a sweep's next cell
  sweep      cells an hour, against plain training
  quick      all of it small, to see that it works
  models=hrm,lstm      those of the parts that take several, or all (default: one of each class and number of levels)
  compiled=hrm         those that are compiled as well, or none
  seeds=2              cells of the sweep, which has one of each
  out=multirun/bench   the folder of the table, as JSON and as Markdown"""
Part = Callable[[Settings], Iterator[Row | str]]
PARTS: dict[str, Part] = {
    "steps": steps.measure,
    "overhead": overhead.measure,
    "matmul": matmul.measure,
    "peers": peers.measure,
    "memory": memory.measure,
    "start": start.measure,
    "sweep": sweep.measure,
}
OUT = "multirun/bench"
SEEDS = "2"
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def parse(words: Sequence[str]) -> tuple[list[str], Settings, Path]:
    """The parts, how large, and where to write. Raises UsageError, a line a fault."""
    values = {"models": "", "compiled": "", "seeds": SEEDS, "out": OUT}
    parts, quick, faults = [], False, []
    for word in words:
        key, sign, text = word.partition("=")
        if sign and key in values:
            values[key] = text
        elif word in PARTS:
            parts.append(word)
        elif word == "quick":
            quick = True
        else:
            faults.append(
                f"{word}: not understood; allowed are {allowed([*PARTS, 'quick', *(f'{k}=' for k in values)])}"
            )
    if not (values["seeds"].isdecimal() and int(values["seeds"])):
        faults.append(f"seeds={values['seeds']}: must be a whole number, at least 1; try seeds={SEEDS}")
    if faults:
        raise UsageError(*faults)
    if values["models"] in ("", "all"):
        models = tuple(distinct_models() if not values["models"] else all_models())
    else:
        models = check_models("models", values["models"].split(","))
    compiled: tuple[str, ...] = () if quick else COMPILED
    if values["compiled"]:
        named = values["compiled"].split(",")
        compiled = () if named == ["none"] else check_models("compiled", named)
    settings = Settings(quick, models, compiled, int(values["seeds"]))
    return [part for part in PARTS if part in parts or not parts], settings, Path(values["out"])


def run(parts: Sequence[str], settings: Settings, out: Path) -> tuple[Table, bool]:
    """Measure, and write after each part what there is; whether all parts came to their end."""
    table, sound = Table(machine(), settings.quick), True
    with compiling_anew():
        for part in parts:
            print(f"{part} ...", file=sys.stderr, flush=True)
            started = time.perf_counter()
            try:
                for found in PARTS[part](settings):
                    if isinstance(found, Row):
                        print(f"  {told(found)}", file=sys.stderr, flush=True)
                        table.rows.append((part, found))
                    else:
                        table.remarks.append((part, found))
            except Exception as error:
                traceback.print_exc()
                table.remarks.append((part, f"broken off by {type(error).__name__}: {error}"))
                sound = False
            table.seconds[part] = time.perf_counter() - started
            write(table, out)
    return table, sound


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Begin with nothing compiled, so that the seconds of compiling are those of a first time."""
    kept = os.environ.get(CACHE)
    with TemporaryDirectory() as folder:
        os.environ[CACHE] = folder
        try:
            yield
        finally:
            del os.environ[CACHE]
            if kept is not None:
                os.environ[CACHE] = kept


def main(words: list[str]) -> int:
    """Measure, show and write the table; 1 where a part broke off."""
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return 0
    parts, settings, out = parse(words)
    table, sound = run(parts, settings, out)
    show(table)
    for path in (JSON_FILE, MARKDOWN_FILE):
        print(f"Written: {out / path}")
    return 0 if sound else 1


if __name__ == "__main__":
    command(main)
