"""Random records are read, reported and archived, or refused in one line per fault, never with another error."""

import contextlib
import copy
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

import made_up
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import hrm_bench
from hrm_bench import archive, status
from hrm_bench.errors import UsageError
from hrm_bench.report import __main__ as report

EXAMPLES = int(os.environ.get("HRM_BENCH_EXAMPLES", "30"))  # 2,000 were tried once
ODD = (
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "<b>&",
    "$x$ $\\frac",
    "../..",
    "é\n",
    [],
    {},
    [1],
    {"a": 1},
)
WHOLE = [
    made_up.record("experiment=hrm_vs_infini", f"model={name}", seed=seed)
    for name in ("hrm", "infini_hrm")
    for seed in (1, 2)
]


def paths(value, prefix=()):
    """Every path to a value inside a record, the record's own keys first."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*prefix, key)
        yield from paths(item, (*prefix, key))


PATHS = sorted(paths(WHOLE[-1]), key=lambda path: (len(path), str(path)))
CHANGES = st.tuples(
    st.integers(0, len(WHOLE) - 1),
    st.sampled_from(PATHS),
    st.one_of(st.just("removed"), st.sampled_from([("put", value) for value in ODD])),
)
PHASES = [Phase.explicit, Phase.generate] if EXAMPLES >= 100 else [*Phase]  # to make a failure small takes minutes
FOLDERS = st.lists(st.sampled_from(["", "copy of ", "x<b>$"]), min_size=len(WHOLE), max_size=len(WHOLE))


def changed(changes):
    records = copy.deepcopy(WHOLE)
    for number, path, change in changes:
        place = records[number]
        with contextlib.suppress(LookupError, TypeError):
            for key in path[:-1]:
                place = place[key]
            if change == "removed":
                del place[path[-1]]
            else:
                place[path[-1]] = copy.deepcopy(change[1])
    return records


@settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, phases=PHASES)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3), folders=FOLDERS, old=st.booleans())
def test_random_records_are_used_or_refused_in_one_line(changes, folders, old):
    root = Path(tempfile.mkdtemp())
    try:
        sweep = root / "a $sweep"
        for before, record, whole in zip(folders, changed(changes), WHOLE, strict=True):
            cell = sweep / f"{before}{whole['model']}-seed{whole['seed']}-{whole['identity']}"
            cell.mkdir(parents=True, exist_ok=True)
            (cell / "record.json").write_text(json.dumps(record | ({"schema_version": 2} if old and before else {})))
        packed = root / "records.jsonl"
        for command in (
            lambda: report.main([str(sweep)]),
            lambda: status.main([str(sweep)]),
            lambda: archive.main(["pack", str(sweep), str(packed)]),
            lambda: archive.main(["unpack", str(packed), str(root / "again")]),
            lambda: report.main([str(packed)]),
            lambda: hrm_bench.load(sweep),
        ):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                try:
                    command()
                except UsageError as error:
                    lines = error.faults
                else:
                    lines = ["done"]
            assert lines
            assert not any("\n" in line for line in lines)
    finally:
        shutil.rmtree(root)
