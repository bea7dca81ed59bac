"""The published claims (claims.yaml), each with the verdict that one rule gives it from the records alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hrm_bench import statistics
from hrm_bench.config.identity import OFF
from hrm_bench.records.schema import Record
from hrm_bench.report import rerun
from hrm_bench.report.settings import recipe_name
from hrm_bench.report.variants import PUBLISHED_TEXT, Variant, by_experiment, left_plateau, perplexity, variants

DATA: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Claim:
    """An entry of claims.yaml, which says what its fields are."""

    claim: str
    report: int
    published: str
    quantity: statistics.Kind
    cells: list[dict[str, Any]]
    experiments: dict[str, str]  # name → command
    figure: float | None = None
    direction: bool = False
    leak: bool = False

    @property
    def measure(self) -> str:
        """What is measured, in short words."""
        form = {"level": "{}", "difference": "{} to {}", "share": "({} - {}) / ({} - {})"}[self.quantity]
        return form.format(*map(_label, self.cells))


CLAIMS = [Claim(**entry) for entry in DATA["claims"]]
PUBLISHED = "published"  # the recipe of the reports


@dataclass(frozen=True)
class Finding:
    """What the cells of one experiment say about one claim."""

    claim: str
    report: int
    published: str
    experiment: str
    recipe: str
    command: str  # that runs the cells
    quantity: str
    measure: str
    unit: str  # of the estimate, its intervals and the range: "%", or empty for a perplexity
    seeds: tuple[int, ...]  # those that all the cells have
    estimate: float
    sd: float | None  # over seeds; None for one seed, and for a share of what may be no gap
    low: float | None
    high: float | None
    range_low: float
    range_high: float | None  # None: open
    p: float | None
    p_holm: float | None
    causal: bool  # whether all the cells are
    decides: bool  # whether the verdict is on the claim, and not only on the experiment as it was run
    verdict: statistics.Verdict
    departure: str  # how a contradicted quantity departs from its range
    seeds_needed: int | None  # of an undecided one; None beyond MOST_SEEDS, and where nothing can be said
    on_plateau: tuple[tuple[str, tuple[int, ...]], ...]  # cells, and their seeds that sit there
    left_pairs: int  # seeds whose cells have all left it
    left_estimate: float | None  # over those, where they are some and not all
    left_low: float | None
    left_high: float | None


class Missing(NamedTuple):
    """A claim that the records do not measure in one of its experiments."""

    claim: str
    experiment: str
    command: str
    reason: str


def findings(records: Sequence[Record]) -> list[Finding]:
    """A finding for each claim, recipe and experiment of which the (finished) records have all the cells.

    Those of the reports' recipe come first; p is adjusted among the findings of a recipe.
    """
    made = []
    others = dict.fromkeys(recipe_name(record) for record in records)
    for recipe in dict.fromkeys([PUBLISHED, *others]):
        searched = _searched(records, recipe)
        alone = [_finding(claim, *place, sides) for claim, place, sides in searched if not isinstance(sides, str)]
        adjusted = statistics.holm([finding.p for finding in alone])
        made += [replace(finding, p_holm=p) for finding, p in zip(alone, adjusted, strict=True)]
    return made


def missing(records: Sequence[Record]) -> list[Missing]:
    """The others, why they are not measured, and the command that would change it."""
    return [
        Missing(claim.claim, place.experiment, place.command, reason)
        for claim, place, reason in _searched(records, PUBLISHED)
        if isinstance(reason, str) and place.experiment not in DATA["everywhere"]
    ]


class Place(NamedTuple):
    """Where a claim is measured."""

    experiment: str
    recipe: str
    command: str


def _searched(
    records: Sequence[Record], recipe: str
) -> Iterator[tuple[Claim, Place, list[Mapping[int, Record]] | str]]:
    """Each claim in each of its experiments, with its cells by seed or the reason why there are none."""
    ours = [record for record in records if recipe_name(record) == recipe and _is_as_published(record)]
    found = {name: variants(its) for name, its in by_experiment(ours).items()}
    for claim in CLAIMS:
        if recipe == PUBLISHED or claim.quantity != "level":
            for name, command in (claim.experiments | DATA["everywhere"]).items():
                yield claim, Place(name, recipe, command), _sides(claim, found.get(name, []))


def _is_as_published(record: Record) -> bool:
    """Whether text and settings are the reports'; of another recipe's training, whether it is that recipe's own."""
    config = record["config"]
    text = all(config["data"].get(key, 0) == value for key, value in PUBLISHED_TEXT.items())
    recipe = recipe_name(record)
    protocol = {key: v for key, v in DATA["protocol"].items() if recipe == PUBLISHED or not key.startswith("recipe.")}
    settings = all(_value(config, key, value) == value for key, value in protocol.items())
    if recipe == PUBLISHED:
        trained = all(config.get("recipe", {}).get(key, off) == off for key, off in OFF.items())
    else:
        trained = config["recipe"] == rerun.recipe(record["model"], recipe)
    sizes = rerun.sizes(record["model"])
    whole = config.get("scale", 1) == 1 and all(config["model"].get(key, size) == size for key, size in sizes.items())
    return text and settings and trained and whole


def _value(config: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """What a config has under a dotted key."""
    group, _, rest = key.partition(".")
    return _value(config.get(group, {}), rest, default) if rest else config.get(group, default)


def _settings(named: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in named.items() if key not in {"model", "memory"}}


def _label(named: Mapping[str, Any]) -> str:
    """A variant of a claim, as a reader sees it."""
    memory = [named["memory"]] if "memory" in named else []
    return " ".join([named["model"], *memory, *(f"{key}={str(v).lower()}" for key, v in _settings(named).items())])


def _matches(variant: Variant, named: Mapping[str, Any]) -> bool:
    config = next(iter(variant.seeds.values()))["config"]
    settings = all(_value(config, key) == value for key, value in _settings(named).items())
    return settings and (variant.key.model, variant.key.memory) == (named["model"], named.get("memory", "none"))


def _sides(claim: Claim, found: Sequence[Variant]) -> list[Mapping[int, Record]] | str:
    """The records of the claim's variants by seed; or, in words, what is amiss."""
    sides = []
    for named in claim.cells:
        matching = [variant for variant in found if _matches(variant, named)]
        if not matching:
            return f"no cells of {_label(named)} with the published text and settings"
        if len(matching) > 1:
            return f"more than one {_label(named)}: {'; '.join(variant.row.settings for variant in matching)}"
        sides.append(matching[0].seeds)
    return sides if set.intersection(*map(set, sides)) else "no seed is common to all the cells"


def _measured(claim: Claim, rows: Sequence[Sequence[Record]]) -> statistics.Quantity:
    """The claim's quantity; a row has the records of one seed."""
    sides = [[perplexity(record) for record in side] for side in zip(*rows, strict=True)]
    if claim.quantity == "level":
        return statistics.level(sides[0])
    if claim.quantity == "difference":
        return statistics.percent_difference(sides[0], sides[1])
    part, gap = ([a - b for a, b in zip(*pair, strict=True)] for pair in (sides[:2], sides[2:]))
    return statistics.share(part, gap)


def _finding(
    claim: Claim, experiment: str, recipe: str, command: str, sides: Sequence[Mapping[int, Record]]
) -> Finding:
    seeds = sorted(set.intersection(*map(set, sides)))
    rows = [[side[seed] for side in sides] for seed in seeds]
    left = [row for row in rows if all(left_plateau(record) for record in row)]
    of_left = _measured(claim, left) if 0 < len(left) < len(rows) else None
    found = _measured(claim, rows)
    bounds = statistics.published_range(claim.quantity, claim.figure, direction=claim.direction)
    causal = all(record["causal"] for row in rows for record in row)
    stuck = {
        _label(named): tuple(seed for seed in seeds if not left_plateau(side[seed]))
        for named, side in zip(claim.cells, sides, strict=True)
    }
    return Finding(
        **{name: getattr(claim, name) for name in ("claim", "report", "published", "quantity", "measure")},
        **found._asdict() | {"seeds": tuple(seeds)},
        experiment=experiment,
        recipe=recipe,
        command=command,
        unit="" if claim.quantity == "level" else "%",
        range_low=bounds[0],
        range_high=bounds[1],
        p_holm=None,
        causal=causal,
        decides=causal or claim.leak,
        verdict=statistics.verdict(found, *bounds),
        departure=statistics.departure(found, *bounds),
        seeds_needed=statistics.seeds_to_decide(found, *bounds),
        on_plateau=tuple((label, there) for label, there in stuck.items() if there),
        left_pairs=len(left),
        left_estimate=of_left and of_left.estimate,
        left_low=of_left and of_left.low,
        left_high=of_left and of_left.high,
    )
