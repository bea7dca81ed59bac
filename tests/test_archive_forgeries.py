"""Forgeries of an archive that follow from themselves, or leave out what would betray them."""

import copy
import json
import math
from pathlib import Path

import pytest

from hrm_bench.cells import verify
from hrm_bench.records.schema import score

HONEST = Path(__file__).parents[1] / "results" / "tiny_recursive_model.jsonl"  # of the bundled text


def _better_score(record):
    old = record["test"]
    record["test"] = score(old["nll"] - 0.1, characters=old["characters"], words=old["words"])


FORGERIES = {
    "a better score, with all figures that follow": (_better_score, "test.nll="),
    "no audit of the best weights": (lambda record: record["leak"].pop("best"), "leak: "),
    "a negative audit": (lambda record: record["leak"]["best"].update(gradient=-1.0), "leak: "),
    "no parameters": (lambda record: record.pop("parameters"), "parameters=missing"),
    "no operations": (lambda record: record.pop("flops_per_character"), "flops_per_character=missing"),
    "a baseline left out": (
        lambda record: [record["floors"][split].pop("kneser_ney_5") for split in ("validation", "test")],
        "floors.test.kneser_ney_5.full=",
    ),
    "a function for a class": (
        lambda record: record["config"]["model"].update(_target_="hrm_bench.data.sources.read_text"),
        "config: cannot be used",
    ),
    "a value of another kind": (
        lambda record: record["config"]["recipe"].update(batch_size="many"),
        "recipe.batch_size=many: must be a whole number",
    ),
    "replaced text": (lambda record: record["config"]["model"].update(name="${oc.env:A}"), "config.model.name="),
}  # fmt: skip


@pytest.mark.parametrize("name", [None, *FORGERIES])
def test_a_forgery_that_follows_from_itself_is_named(tmp_path, name):
    line = json.loads(HONEST.read_text().splitlines()[0])
    forged, named = copy.deepcopy(line), ""
    if name is not None:
        forge, named = FORGERIES[name]
        forge(forged["content"])
        assert math.isfinite(forged["content"]["test"]["nll"])
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(forged) + "\n")
    faults = verify.check_archive(file).faults
    if name is None:
        assert faults == []
    else:
        assert any(f": {named}" in fault for fault in faults), faults
