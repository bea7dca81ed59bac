"""Controls of memories: the tasks on which a memory has helped, without which it is not said that it does not help.

A memory passes if its own content is worth more to it than none, and more than that of another sample, on a task whose
answers an earlier window states. The whole interval over seeds of log2(perplexity with the better of these / with its
own), in bits per answer, must be above ``LEAST``. A control speaks for every cell whose model is of the same class,
whatever the settings of its memory: the code that reads, writes and carries is the same.

``papers/controls.json`` has those that were measured, and ``results/recall.jsonl`` their records.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hrm_bench.intervals import MIN_SEEDS, level
from hrm_bench.records.facts import carries_unrelated, flat, text_name
from hrm_bench.records.grouping import Variant, grouped
from hrm_bench.records.papers import FOLDER
from hrm_bench.records.schema import Record

FILE = FOLDER / "controls.json"
LEAST = 0.1  # bits per answer
PUBLISHED = {"bind": "same", "features": "elu", "tie": False, "gradient": "none"}  # settings of a memory


class Control(NamedTuple):
    """One memory on one task, over its seeds."""

    kind: str  # the class of the model
    model: str
    task: str
    settings: str  # of the memory, where they differ from the published ones
    seeds: int
    bits: float  # per answer, that the own memory is worth
    low: float  # 95 % interval
    high: float

    @property
    def passes(self) -> bool:
        """Whether the memory helps."""
        return self.low > LEAST

    def __str__(self) -> str:
        settings = f"with {self.settings}" if self.settings else "as published"
        gain = f"{self.bits:.2f} [{self.low:.2f}, {self.high:.2f}] bits per answer"
        return f"{self.model} {settings} gains {gain} of {self.task}, {self.seeds} seeds"


def measured(records: Iterable[Record]) -> list[Control]:
    """Return what each memory gains on each task, of variants with at least four seeds."""
    asked = [r for r in records if r["config"]["data"].get("task") and r.get("memory_use", {}).get("validation")]
    return [_of(variant) for variant in grouped(asked) if len(variant.records) >= MIN_SEEDS]


def shipped() -> list[Control]:
    """Return the controls of ``papers/controls.json``."""
    return [Control(**values) for values in json.loads(FILE.read_text(encoding="utf-8"))]


def passed(controls: Sequence[Control], record: Record) -> Control | None:
    """Return the control of a record's class that gains most, or None if none passes."""
    kind = class_of(record)
    return max((c for c in controls if c.kind == kind and c.passes), key=lambda control: control.bits, default=None)


def class_of(record: Record) -> str:
    """Return the class of a record's model."""
    return str(record["config"]["model"].get("_target_", record["model"]))


def what_it_reads(config: Mapping[str, Any], memory: str) -> str:
    """Say what a memory holds when a window begins to read it; empty if that is the text before, as it should be."""
    if carries_unrelated(config, memory):
        return "unrelated text in training"
    if memory == "reset" and config["data"].get("windows_per_sample", 1) == 1:
        return "its own window" if config["memory"].get("write") == "every_segment" else "nothing"
    return ""


def _of(variant: Variant) -> Control:
    uses = [record["memory_use"]["validation"] for record in variant.records.values()]
    gain = level([math.log2(min(use["zeroed"], use["another_lane"]) / use["own"]) for use in uses])
    memory = dict(flat(variant.first["config"]["memory"]))
    values = {key: memory.get(key, value) for key, value in PUBLISHED.items()}
    changed = [f"memory.{key}={str(value).lower()}" for key, value in values.items() if value != PUBLISHED[key]]
    return Control(
        kind=class_of(variant.first),
        model=variant.model,
        task=text_name(variant.first["config"]["data"]),
        settings=" ".join(changed),
        seeds=gain.seeds,
        bits=gain.estimate,
        low=-math.inf if gain.low is None else gain.low,
        high=math.inf if gain.high is None else gain.high,
    )
