"""The verdicts on the claims of papers, from records alone: one finding per claim, recipe and experiment."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas

from hrm_bench import statistics
from hrm_bench.records.facts import PUBLISHED, is_on_plateau, recipe_name, value_of
from hrm_bench.records.grouping import Variant, grouped
from hrm_bench.records.papers import PAPERS, Claim, Paper, cell_label, settings_of
from hrm_bench.records.schema import Record

FINDING = (  # columns of verdicts.csv
    *("claim", "report", "published", "experiment", "recipe", "command", "quantity", "measure"),
    *("unit", "seeds", "estimate", "sd", "low", "high", "range_low", "range_high", "p", "p_holm"),
    "causal",  # whether all the cells are
    "decides",  # whether the verdict is on the claim, and not only on the experiment as it was run
    *("verdict", "departure", "seeds_needed", "on_plateau"),
    *("left_pairs", "left_estimate", "left_low", "left_high"),  # over the seeds whose cells all left the plateau
)
FIGURES = {claim.claim: claim.figure for paper in PAPERS for claim in paper.claims}
Sides = list[dict[int, Record]]  # per variant of a claim: its records by seed


class Judged(NamedTuple):
    """The findings about the claims."""

    findings: pandas.DataFrame  # one row per finding: the columns of FINDING
    missing: list[dict[str, str]]  # claims that the records do not measure under the paper's recipe, and why


def judge(cells: pandas.DataFrame) -> Judged:
    """Judge every claim by finished cells.

    Findings under the paper's own recipe come first. p is adjusted among the findings under one recipe.
    """
    findings, missing = [], []
    for paper in PAPERS:
        others = map(recipe_name, cells.record if len(cells) else [])
        for recipe in dict.fromkeys([PUBLISHED, *others]):
            some = []
            for claim, place, sides in _searched(paper, cells, recipe):
                if not isinstance(sides, str):
                    some.append(_finding(claim, place, sides))
                elif recipe == PUBLISHED and place["experiment"] not in paper.everywhere:
                    missing.append({"claim": claim.claim, **place, "reason": sides})
            adjusted = statistics.holm([finding["p"] for finding in some])
            findings += [finding | {"p_holm": p} for finding, p in zip(some, adjusted, strict=True)]
    return Judged(pandas.DataFrame(findings, columns=[*FINDING], dtype=object), missing)


def _searched(
    paper: Paper, cells: pandas.DataFrame, recipe: str
) -> Iterator[tuple[Claim, dict[str, str], Sides | str]]:
    """Yield each claim in each of its experiments with its records, or with the reason why there are none."""
    if len(cells):
        cells = cells[[recipe_name(record) == recipe and paper.is_about(record) for record in cells.record]]
    groups = cells.groupby("experiment", sort=False).record if len(cells) else {}
    by_experiment = {name: grouped(records.tolist()) for name, records in groups}
    for claim in paper.claims:
        if recipe == PUBLISHED or claim.quantity != "level":
            for experiment, command in (claim.experiments | paper.everywhere).items():
                place = {"experiment": experiment, "recipe": recipe, "command": command}
                yield claim, place, _sides(paper, claim, by_experiment.get(experiment, []))


def _sides(paper: Paper, claim: Claim, variants: Sequence[Variant]) -> Sides | str:
    sides = []
    for cell in claim.cells:
        name, matching = cell_label(cell), [variant for variant in variants if _is(variant, cell)]
        if not matching:
            return f"no cells of {name} with the published text and settings"
        if len(matching) > 1:
            return f"more than one {name}: {'; '.join(variant.settings_text for variant in matching)}"
        sides.append(matching[0].records)
    if not set.intersection(*map(set, sides)):
        return "no seed is common to all the cells"
    recipe, *others = (paper.shared_recipe(record) for side in sides for record in side.values())
    return sides if all(other == recipe for other in others) else "the cells do not share one recipe"


def _is(variant: Variant, cell: Mapping[str, Any]) -> bool:
    """Whether a claim's cell means a variant."""
    config = variant.first["config"]
    has_settings = all(value_of(config, key) == value for key, value in settings_of(cell).items())
    return has_settings and (variant.model, variant.memory) == (cell["model"], cell.get("memory", "none"))


def _measured(claim: Claim, rows: Sequence[Sequence[Record]]) -> statistics.Quantity:
    """Measure a claim's quantity; a row has the records of one seed."""
    sides = [[record["validation"]["perplexity"] for record in side] for side in zip(*rows, strict=True)]
    if claim.quantity == "level":
        return statistics.level(sides[0])
    if claim.quantity == "difference":
        return statistics.percent_difference(sides[0], sides[1])
    part, gap = ([a - b for a, b in zip(*pair, strict=True)] for pair in (sides[:2], sides[2:]))
    return statistics.share(part, gap)


def _finding(claim: Claim, place: Mapping[str, str], sides: Sides) -> dict[str, Any]:
    seeds = sorted(set.intersection(*map(set, sides)))
    rows = [[side[seed] for side in sides] for seed in seeds]
    left = [row for row in rows if not any(map(is_on_plateau, row))]
    of_left = _measured(claim, left) if 0 < len(left) < len(rows) else None
    measured = _measured(claim, rows)
    bounds = statistics.published_range(claim.quantity, claim.figure, direction=claim.direction)
    causal = all(record["causal"] for row in rows for record in row)
    stuck = [tuple(seed for seed in seeds if is_on_plateau(side[seed])) for side in sides]
    named = zip(map(cell_label, claim.cells), stuck, strict=True)
    return {
        **{name: getattr(claim, name) for name in ("claim", "report", "published", "quantity", "measure")},
        **place,
        **measured._asdict(),
        **{"seeds": tuple(seeds), "unit": "" if claim.quantity == "level" else "%"},
        **{"range_low": bounds[0], "range_high": bounds[1], "causal": causal, "decides": causal or claim.leak},
        "verdict": statistics.verdict(measured, *bounds),
        "departure": statistics.departure(measured, *bounds),
        "seeds_needed": statistics.seeds_to_decide(measured, *bounds),
        "on_plateau": tuple((label, on) for label, on in dict(named).items() if on),
        "left_pairs": len(left),
        **{f"left_{name}": of_left and getattr(of_left, name) for name in ("estimate", "low", "high")},
    }


def csv_frame(judged: Judged) -> pandas.DataFrame:
    """Return the findings as verdicts.csv has them."""
    seeds = [" ".join(map(str, seeds)) for seeds in judged.findings.seeds]
    stuck = [
        "; ".join(f"{name}: {' '.join(map(str, on))}" for name, on in pairs) for pairs in judged.findings.on_plateau
    ]
    return judged.findings.assign(seeds=seeds, on_plateau=stuck)
