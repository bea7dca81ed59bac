"""The table of memories: what each can have gained, whether its cells test a memory, and where its kind has helped."""

from typing import Any

from hrm_bench.records import controls
from hrm_bench.report.frame import Study
from hrm_bench.report.tables import table
from hrm_bench.table import Table


def memories(study: Study) -> Table | None:
    """Show one row per variant with a memory."""
    having = [v for v in study.variants.itertuples() if v.memory != "none"]
    if not having:
        return None
    known = [*controls.shipped(), *controls.measured(study.cells.record)]
    return table("memories", [_row(v, known) for v in having])


def _row(v: Any, known: list[controls.Control]) -> dict[str, str | bool]:
    unrelated = controls.what_it_reads(v.first["config"], v.memory)
    gain, excluded = "", ""
    if v.difference_low is not None:
        gain = f"{-v.difference_mean:+.2f} [{-v.difference_high:+.2f}, {-v.difference_low:+.2f}]"
        excluded = f"a gain above {max(0.0, -v.difference_low):.2f}"
    return {
        "label": v.label,
        "reads": f"{unrelated}: no test of a memory" if unrelated else "the text before",
        "gain": gain,
        "excluded": excluded,
        "control": str(controls.passed(known, v.first) or "none passed"),
        "causal": v.causal,
    }
