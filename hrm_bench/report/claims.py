"""The verdicts on the claims of papers, from records alone: one finding per claim, recipe and experiment."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas

from hrm_bench import crossed, intervals, statistics
from hrm_bench.records import controls
from hrm_bench.records.facts import (
    PLATEAU,
    PUBLISHED,
    article_nats,
    article_titles,
    is_on_plateau,
    recipe_name,
    unigram,
    value_of,
)
from hrm_bench.records.grouping import Variant, grouped
from hrm_bench.records.metrics import metric
from hrm_bench.records.papers import PAPERS, Claim, Paper, cell_label, settings_of
from hrm_bench.records.schema import Record

FINDING = (  # columns of verdicts.csv
    *("claim", "report", "published", "experiment", "recipe", "command", "quantity", "measure"),
    *("unit", "seeds", "estimate", "sd", "low", "high", "range_low", "range_high"),
    *("single_low", "single_high"),  # 95 % prediction interval for single runs, as the published ones are
    "figure",  # the published value of the quantity
    "causal",  # whether all the cells are
    "decides",  # whether the verdict is on the claim, and not only on the experiment as it was run
    *("verdict", "departure", "seeds_needed", "out_of_reach", "on_plateau"),
    "rates",  # of each variant: the runs that ended as the published one did, on the plateau or off it
    "all_estimate",  # over all runs, if some ended in another way
    "metric",  # what of a record is compared
    *("population", "articles"),  # whether the verdict is on one text or on articles in general, and their number
    "short",  # of what there is too little to decide, whatever the number of seeds: articles, control, or empty
    "control",  # of a claim about a memory: where this kind of memory has helped; empty if nowhere
    *("paper", "source", "where", "scope"),  # who made the claim, where in it, and what the cells do not show
)
Sides = list[dict[int, Record]]  # per variant of a claim: its records by seed


class Outcome(NamedTuple):
    """How the runs of a variant ended, compared with the published one."""

    label: str
    stays: bool | None  # whether the published run stayed on the plateau; None if the metric knows no plateau
    rate: intervals.Rate  # of our runs that ended in the same way


class Judged(NamedTuple):
    """The findings about the claims."""

    findings: pandas.DataFrame  # one row per finding: the columns of FINDING
    missing: list[dict[str, str]]  # claims that the records do not measure under the paper's recipe, and why
    note: str = ""  # how these findings came about, if not from all the records


def judge(cells: pandas.DataFrame, papers: Sequence[Paper] | None = None) -> Judged:
    """Judge every claim, by default of all our papers; findings under the paper's own recipe come first."""
    findings, missing = [], []
    known = [*controls.shipped(), *controls.measured(cells.record if len(cells) else [])]
    for paper in PAPERS if papers is None else papers:
        others = map(recipe_name, cells.record if len(cells) else [])
        for recipe in dict.fromkeys([PUBLISHED, *others]):
            for claim, place, sides in _searched(paper, cells, recipe):
                if not isinstance(sides, str):
                    findings.append(_finding(paper, claim, place, sides, known))
                elif recipe == PUBLISHED and place["experiment"] not in paper.everywhere:
                    row = {"claim": claim.claim, "where": paper.place(claim), **place, "reason": sides}
                    missing.append(row | {"out_of_reach": out_of_reach(paper, claim)})
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
        if claim.quantity != "property" and (reason := _unmeasured(claim, name, matching[0].records.values())):
            return reason
    if claim.population == "articles":
        titles, *other_titles = (article_titles(record) for side in sides for record in side.values())
        if any(other != titles for other in other_titles):
            return "the cells have read other held-out articles"
    recipe, *others = (paper.shared_recipe(record) for side in sides for record in side.values())
    return sides if all(other == recipe for other in others) else "the cells do not share one recipe"


def _unmeasured(claim: Claim, name: str, records: Collection[Record]) -> str:
    """Say why the metric of a claim cannot be measured on the records of a cell; empty if it can."""
    if claim.population == "articles":
        return "" if article_nats(records) else f"cells of {name} have no held-out articles"
    wanted = metric(claim.metric)
    values = [value for record in records if (value := wanted.of(record)) is not None]
    if len(values) < len(records):
        return f"cells of {name} have no {wanted.noun}"
    if claim.quantity == "difference" and sum(values) <= 0:
        return f"the {wanted.noun} of {name} is not above 0, so that no percentage of it can be taken"
    return ""


def _is(variant: Variant, cell: Mapping[str, Any]) -> bool:
    """Whether a claim's cell means a variant."""
    config = variant.first["config"]
    has_settings = all(value_of(config, key) == value for key, value in settings_of(cell).items())
    return has_settings and (variant.model, variant.memory) == (cell["model"], cell.get("memory", "none"))


def bounds_of(paper: Paper, claim: Claim) -> statistics.Bounds:
    """Return what decides about a claim's quantity."""
    if claim.range is not None:
        low, high = claim.range
        margin = paper.margin if claim.quantity == "difference" else None
        return statistics.Bounds(-math.inf if low is None else low, high, margin)
    return statistics.published_range(claim.quantity, claim.figure, direction=claim.direction, margin=paper.margin)


def out_of_reach(paper: Paper, claim: Claim) -> str:
    """Say, before any run, if the claim needs too many seeds even if its figure is exactly true; else empty.

    A paper's ``spread`` is of perplexities, so that nothing is said about other metrics.
    """
    if not metric(claim.metric).is_perplexity:
        return ""
    needed = statistics.seeds_to_reproduce(claim.quantity, claim.figure, bounds_of(paper, claim), paper.spread)
    if needed is not None and needed <= paper.most_seeds:
        return ""
    seeds = f"more than {statistics.MOST_SEEDS:,}" if needed is None else f"about {needed:,}"
    return f"out of reach of {paper.most_seeds} seeds: {seeds}, were the figure exactly true"


def _measured(claim: Claim, sides: Sequence[Sequence[Record]]) -> intervals.Quantity:
    """Measure a claim's quantity on some runs of each variant."""
    if claim.quantity == "property":
        runs = len(sides[0])
        rate = 100 * (runs - _exceptions(claim, sides[0])) / runs
        return intervals.Quantity(runs, rate, None, rate, rate)
    if claim.population == "articles":
        return _on_articles(claim, sides, "over_both")
    wanted = metric(claim.metric)
    figures = [[value for record in side if (value := wanted.of(record)) is not None] for side in sides]
    if claim.quantity == "level":
        return intervals.level(*figures)
    return intervals.share(*figures) if claim.quantity == "share" else intervals.percent_difference(*figures)


def _on_articles(claim: Claim, sides: Sequence[Sequence[Record]], population: str) -> intervals.Quantity:
    """Measure a claim's quantity on held-out articles, with the interval for one of the populations of ``crossed``."""
    quantity = crossed.level if claim.quantity == "level" else crossed.percent_difference
    found = quantity(*map(article_nats, sides))
    low, high = getattr(found, population) or (None, None)
    return intervals.Quantity(found.seeds, found.estimate, None, low, high)


def _short(claim: Claim, sides: Sequence[Sequence[Record]], bounds: statistics.Bounds, verdict: str) -> str:
    """Return "articles" if a claim stays undecided even for these runs alone, so that no number of seeds decides it."""
    if claim.population != "articles" or verdict != "undecided":
        return ""
    alone = _on_articles(claim, sides, "over_articles")
    return "articles" if alone.low is not None and statistics.verdict(alone, bounds) == "undecided" else ""


def _exceptions(claim: Claim, records: Iterable[Record]) -> int:
    """Return how many runs lack the property of a claim."""
    return sum(record["causal"] != claim.causal for record in records)


def _unit(claim: Claim) -> str:
    if claim.quantity == "property":
        return "% of runs"
    return metric(claim.metric).unit if claim.quantity == "level" else "%"


def _control(claim: Claim, sides: Sides, known: Sequence[controls.Control]) -> str | None:
    """Say where the memory has helped that a claim compares with none; empty if nowhere, None if it compares others."""
    firsts = [next(iter(side.values())) for side in sides]
    having = [record for record in firsts if record["memory"] != "none"]
    if claim.quantity != "difference" or len(having) != 1:
        return None
    return str(controls.passed(known, having[0]) or "")


def _says_no_gain(measured: intervals.Quantity, bounds: statistics.Bounds, verdict: str) -> bool:
    """Whether a verdict says that a memory does not help: it is level, or it lacks a claimed gain and has no other."""
    if verdict == "equivalent":
        return True
    if measured.low is None or measured.high is None or measured.low > 0 or measured.high < 0:
        return False  # nothing is measured, or a harm or a gain is decided
    claims_gain = bounds.high is not None and bounds.high <= 0
    return verdict == "contradicted" if claims_gain else verdict == "reproduced"


def _finding(
    paper: Paper, claim: Claim, place: Mapping[str, str], sides: Sides, known: Sequence[controls.Control]
) -> dict[str, Any]:
    outcomes, used = [], []
    for cell, side in zip(claim.cells, sides, strict=True):
        published, records = paper.published_run(claim, cell), [side[seed] for seed in sorted(side)]
        if claim.quantity == "property" or not metric(claim.metric).is_of_plateau:
            outcomes.append(Outcome(cell_label(cell), None, intervals.rate(len(records), len(records))))
            used.append(records)
            continue
        stays = published is not None and published >= PLATEAU * unigram(records[0])
        alike = [record for record in records if is_on_plateau(record) == stays]
        outcomes.append(Outcome(cell_label(cell), stays, intervals.rate(len(alike), len(records))))
        used.append(alike or records)
    bounds, measured = bounds_of(paper, claim), _measured(claim, used)
    rates = [outcome.rate for outcome in outcomes if outcome.stays is False]  # a claim holds whoever else leaves
    of_rates = map(statistics.verdict_on_rate, rates)
    mixed = any(len(some) < len(side) for some, side in zip(used, sides, strict=True))
    records = [record for side in sides for record in side.values()]
    causal = all(record["causal"] for record in records)
    stuck = [
        (cell_label(c), tuple(sorted(filter(lambda seed: is_on_plateau(side[seed]), side))))
        for c, side in zip(claim.cells, sides, strict=True)
    ]
    verdict = statistics.combined(statistics.verdict(measured, bounds), of_rates)
    short, control = _short(claim, used, bounds, verdict), _control(claim, sides, known)
    if control == "" and _says_no_gain(measured, bounds, verdict):
        verdict, short = "undecided", "control"
    return {
        **{name: getattr(claim, name) for name in ("claim", "report", "published", "quantity", "measure", "figure")},
        **place,
        **{"paper": paper.title, "source": paper.source.citation, "where": paper.place(claim), "scope": claim.scope},
        **{name: getattr(measured, name) for name in ("estimate", "sd", "low", "high", "single_low", "single_high")},
        **{"seeds": tuple(sorted(set().union(*sides))), "unit": _unit(claim), "metric": claim.metric},
        **{"range_low": bounds.low, "range_high": bounds.high, "causal": causal},
        "decides": causal or claim.leak or claim.quantity == "property",
        "verdict": verdict,
        "population": claim.population,
        "articles": len(article_titles(records[0])) if claim.population == "articles" else None,
        "short": short,
        "control": control or "",
        "departure": _departure(claim, sides, statistics.departure(measured, bounds)),
        "seeds_needed": _seeds_needed(
            measured, bounds, rates, max(len(side) / len(some) for some, side in zip(used, sides, strict=True))
        ),
        "out_of_reach": out_of_reach(paper, claim),
        "on_plateau": tuple((label, on) for label, on in dict(stuck).items() if on),
        "rates": tuple(dict.fromkeys(outcomes)),
        "all_estimate": _measured(claim, [[*side.values()] for side in sides]).estimate if mixed else None,
    }


def _departure(claim: Claim, sides: Sides, departure: str) -> str:
    """Return how a contradicted claim departs; of a property, how many runs lack it."""
    if claim.quantity != "property" or not departure:
        return departure
    found = "not causal" if claim.causal else "causal"
    return f"{_exceptions(claim, sides[0].values())} of {len(sides[0])} runs are {found}"


def _seeds_needed(
    measured: intervals.Quantity, bounds: statistics.Bounds, rates: Sequence[intervals.Rate], factor: float
) -> int | None:
    """Return how many seeds would decide an undecided claim if all stayed the same; None if that cannot be said.

    ``factor`` is the number of seeds per run that counts.
    """
    verdicts = [statistics.verdict(measured, bounds), *map(statistics.verdict_on_rate, rates)]
    if statistics.combined(verdicts[0], verdicts[1:]) != "undecided":
        return None
    of_quantity = statistics.seeds_to_decide(measured, bounds)
    of_quantity = of_quantity and math.ceil(of_quantity * factor)
    is_inside = bounds.low <= measured.estimate <= (math.inf if bounds.high is None else bounds.high)
    contradicting = [] if is_inside else [of_quantity]
    contradicting += [statistics.seeds_for_rates([some]) for some in rates if 2 * some.number < some.runs]
    if known := [number for number in contradicting if number]:
        return min(known)
    if verdicts[0] == "undecided" and of_quantity is None:
        return None
    of_rates = statistics.seeds_for_rates(rates)
    return None if of_rates is None else max(of_quantity or 0, of_rates)


def csv_frame(judged: Judged) -> pandas.DataFrame:
    """Return the findings as verdicts.csv has them."""
    seeds = [" ".join(map(str, seeds)) for seeds in judged.findings.seeds]
    stuck = [
        "; ".join(f"{name}: {' '.join(map(str, on))}" for name, on in pairs) for pairs in judged.findings.on_plateau
    ]
    rates = [
        "; ".join(
            f"{o.label}: {o.rate.number} of {o.rate.runs} {'stayed' if o.stays else 'left'}"
            for o in outcomes
            if o.stays is not None
        )
        for outcomes in judged.findings.rates
    ]
    return judged.findings.assign(seeds=seeds, on_plateau=stuck, rates=rates)
