"""``python -m benchmarks [key=value ...]``: measure, print the table and write it."""

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import commands, commit, long_text, overhead, peers, steps
from benchmarks.settings import Settings, all_models
from benchmarks.table import Part, Row, Table, machine
from hrm_bench import cli
from hrm_bench.errors import allowed


class Measurement(NamedTuple):
    """A part of the benchmarks: its question, and what yields rows and remarks."""

    question: str
    measure: Callable[[Settings], Iterator[Row | str]]


PARTS = {
    "steps": Measurement(steps.QUESTION, steps.measure),
    "overhead": Measurement(overhead.QUESTION, overhead.measure),
    "peers": Measurement(peers.QUESTION, peers.measure),
    "long_text": Measurement(long_text.QUESTION, long_text.measure),
    "start": Measurement(commands.START_QUESTION, commands.measure_start),
    "sweep": Measurement(commands.SWEEP_QUESTION, commands.measure_sweep),
    "commit": Measurement(commit.QUESTION, commit.measure),
}
MODELS = (
    "gated_delta_net",
    "hrm",
    "hrm_memory",
    "infini_hrm",
    "lct_2layer",
    "lstm",
    "transformer",
    "transformer_xl",
    "trm",
    "trm_one_step",
    "ut",
)  # one per class
KEYS = {
    "parts": cli.Key("what to measure, as in parts=steps,peers", default="all"),
    "models": cli.Key("models to measure, or all of them", default=",".join(MODELS)),
    "compiled": cli.Key("models that are also measured compiled, or none", default="hrm,infini_hrm"),
    "seeds": cli.Key("cells of the sweep", int, default=2, at_least=1),
    "against": cli.Key("a commit that the part commit compares with", default="none"),
    "quick": cli.Key("true: small models and few rounds, to see that everything works", default="false"),
    "out": cli.Key("folder of the table, as JSON and Markdown", default="multirun/bench"),
}


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line per name that does not exist."""
    known = {
        "parts": ["all", *PARTS],
        "models": ["all", *all_models()],
        "compiled": ["none", *all_models()],
        "quick": ["true", "false"],
    }
    for key, names in known.items():
        for name in values[key].split(","):
            if name not in names:
                yield f"{key}={name}: allowed are {allowed(names)}"
    parts, against = values["parts"].split(","), values["against"]
    if "commit" in parts and against == "none":
        yield "parts=commit: compares with a commit; add against=COMMIT"
    if against != "none" and not {"commit", "all"} & {*parts}:
        yield f"against={against}: is of the part commit, which is not asked for; add it to parts"
    if Path(values["out"]).is_file():
        yield f"out={values['out']}: a file; give a folder"


def parse(words: list[str]) -> tuple[list[str], Settings, Path]:
    """Return the parts, the settings and the folder to write to. Raises UsageError with one line per fault."""
    values = cli.parse(words, KEYS, faults)
    models = all_models() if values["models"] == "all" else values["models"].split(",")
    quick = values["quick"] == "true"
    compiled = () if values["compiled"] == "none" or quick else tuple(values["compiled"].split(","))
    asked = values["parts"].split(",")
    against = "" if values["against"] == "none" else commit.resolved(values["against"])
    parts = [part for part in PARTS if part in asked or ("all" in asked and (part != "commit" or against))]
    return parts, Settings(quick, tuple(models), compiled, values["seeds"], against), Path(values["out"])


def run(parts: Mapping[str, Measurement], settings: Settings, out: Path) -> tuple[Table, bool]:
    """Measure, and write the table after each part; return it, and whether all parts came to their end."""
    table, complete = Table(machine(), settings.quick), True
    for name, measurement in parts.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        part = table.parts[name] = Part(measurement.question)
        started = time.perf_counter()
        try:
            for result in measurement.measure(settings):
                if isinstance(result, Row):
                    part.rows.append(result)
                else:
                    part.remarks.append(result)
                print(f"  {result}", file=sys.stderr, flush=True)
        except Exception as error:
            traceback.print_exc()
            part.remarks.append(f"Broken off by {type(error).__name__}: {error}")
            complete = False
        part.seconds = time.perf_counter() - started
        table.write(out)
    return table, complete


def main(words: list[str]) -> int:
    """Measure, print and write the table; return 1 if a part broke off."""
    if {"-h", "--help"} & set(words):
        lines = [f"  {word:24}  {meaning}" for word, meaning in cli.arguments(KEYS).items()]
        print("\n".join([f"{__doc__}", *lines, "", *(f"  {name:9}  {part.question}" for name, part in PARTS.items())]))
        return 0
    names, settings, out = parse(words)
    table, complete = run({name: PARTS[name] for name in names}, settings, out)
    print(table.markdown())
    print(f"Written: {', '.join(map(str, table.write(out)))}")
    return 0 if complete else 1


if __name__ == "__main__":
    cli.run(main)
