"""Random words of a command end in a valid config or in one line per fault, never in another error."""

import os

from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.cells.cell import Cell
from hrm_bench.config.words import check_command, groups, understood
from hrm_bench.data.corpora import Library
from hrm_bench.errors import UsageError

EXAMPLES = int(os.environ.get("HRM_BENCH_EXAMPLES", "120"))  # 20,000 were tried once
LIBRARY = Library()  # so that the bundled text is read once


def dotted(values, prefix=""):
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


def every_key():
    words = ["data=sample", "model=infini_hrm"]
    config = OmegaConf.to_container(hrm_bench.compose(*words), resolve=True)
    return sorted({*dotted(config), "hydra.run.dir", "hydra.sweep.dir", "hydra.job.name", "hydra.verbose", "nothing"})


ODD = (
    "",
    "null",
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e400",
    "10" * 30,
    "1.5",
    "true",
    "[]",
    "{}",
    "[1,2]",
    "{a:1}",
    "${seed}",
)
ODD += (
    "${nothing}",
    "${oc.env:HOME}",
    "'",
    '"',
    "\\",
    "a,b",
    "a=b",
    "~",
    "+",
    "é",
    "日本",
    "\n",
    "\t",
    " ",
    "(",
    "a" * 300,
)
ODD += (
    "os.path.join",
    "hrm_bench.models.hrm.HRM",
    "../..",
    "/dev/null",
    "$x",
    "<b>",
    "%s",
    "#",
    "@",
    ":",
    "range(1,3)",
)
TEXT = st.sampled_from(ODD) | st.text(max_size=12).filter(lambda text: "\0" not in text)
VALUES = TEXT | st.integers().map(str) | st.floats().map(str) | TEXT.map(lambda text: f'"{text}"')
KEYS = st.sampled_from(every_key()) | TEXT
CHOICES = st.sampled_from([f"{group}={name}" for group, names in groups().items() for name in names])
WORDS = st.builds("{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES)
WORDS |= CHOICES | st.builds("~{}".format, KEYS) | st.builds("{}={}".format, st.sampled_from(sorted(groups())), VALUES)


@settings(max_examples=EXAMPLES, deadline=None, derandomize="HRM_BENCH_EXAMPLES" not in os.environ, database=None)
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_any_words_end_in_a_config_or_in_one_line_per_fault(tmp_path_factory, words):
    faults = None
    try:
        check_command([word for word in understood(words) if not word.startswith("-")])
        config = hrm_bench.compose("data=sample", *words)
        Cell.of(config, tmp_path_factory.getbasetemp(), words, LIBRARY)
    except UsageError as error:
        faults = error.faults
    assert faults is None or (faults and all(len(fault.splitlines()) == 1 for fault in faults)), faults
