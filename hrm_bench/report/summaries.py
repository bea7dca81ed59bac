"""Tables of findings, of several sweeps, and of what lies beside a sweep's records."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from hrm_bench.intervals import MIN_SEEDS, Difference, paired_difference
from hrm_bench.records import store
from hrm_bench.records.extras import chosen_on, perplexity_of
from hrm_bench.records.facts import PUBLISHED, is_on_plateau
from hrm_bench.records.grouping import differing, matched
from hrm_bench.records.metrics import metric
from hrm_bench.records.papers import PAPERS
from hrm_bench.records.schema import Record, exp
from hrm_bench.report.claims import Judged
from hrm_bench.report.frame import Sweep
from hrm_bench.report.tables import table
from hrm_bench.statistics import FEWEST_SEEDS, MOST_SEEDS, holm, verdict_on_rate
from hrm_bench.table import Table, count, mean_sd

SIGNS = {"reproduced": "✓", "contradicted": "✗", "equivalent": "=", "undecided": "?"}


def verdicts(judged: Judged) -> Table | None:
    """Show one row per claim and experiment, with one column per recipe."""
    findings, rows = judged.findings, []
    for (_, claim, experiment), group in findings.groupby(["paper", "claim", "experiment"], sort=False):
        some = next(group.itertuples())
        ends = [end for end in (some.range_low, some.range_high) if end is not None and math.isfinite(end)]
        bounds = [_bound(some, end) for end in ends]
        more = {"Scope": some.scope, "Control": some.control}
        row = {"claim": "\n".join([claim, *(f"{name}: {text}" for name, text in more.items() if text)])}
        row["published"] = "\n".join(filter(None, [some.published, some.where]))
        row |= {"experiment": experiment, "measured": some.measure}
        row["accepted range"] = f"{' to '.join(bounds)} {some.unit}".rstrip()
        if some.quantity == "property":
            row["accepted range"] = "every run"
        elif some.range_high is None:
            row["accepted range"] = f"at least {row['accepted range']}"
        elif some.range_low == -math.inf:
            row["accepted range"] = f"at most {row['accepted range']}"
        row["accepted range"] += f"\n{some.out_of_reach}" if some.out_of_reach else ""
        for finding in group.itertuples():
            lines = [f"{SIGNS[finding.verdict]} {verdict_text(finding)}", _estimate(finding), _single_run(finding)]
            heading = "verdict" if set(findings.recipe) == {PUBLISHED} else f"recipe={finding.recipe}"
            row[heading] = "\n".join(filter(None, [*lines, *_plateau(finding)]))
        rows.append(row | {"causal": some.causal})
    if len({row["experiment"] for row in rows}) == 1:
        rows = [{key: value for key, value in row.items() if key != "experiment"} for row in rows]
    sources = "; ".join(filter(None, dict.fromkeys(findings.source)))
    return table("verdicts", rows, sources=f" Sources: {sources}." if sources else "", note=judged.note)


def rounds(questions: Sequence[Mapping[str, Any]], seeds: int) -> Table | None:
    """Show how far each claim is when seeds come in rounds: its interval, its bounds and what its next look takes."""
    rows = []
    for question in questions:
        look, finding = question["look"], getattr(question["look"], "finding", None)
        row = {"claim": question["claim"], "experiment": question["experiment"]}
        if finding is not None:
            after, needed = question.get("next"), finding.seeds_needed
            bounds = [_bound(finding, bound) for bound in (finding.range_low, finding.range_high) if bound is not None]
            row |= {"seeds": str(look.seeds), "verdict": f"{SIGNS[finding.verdict]} {finding.verdict}"}
            row |= {"estimate": _estimate(finding), "accepted range": f"{' to '.join(bounds)} {finding.unit}".rstrip()}
            row["next look"] = "" if after is None else f"{after} seeds, {question['seconds'] / 60:.0f} min"
            row["seeds expected"] = "" if needed is None or look.is_decided else f"about {needed:,}"
        elif look is not None:
            row |= {"seeds": str(look.seeds), "verdict": look.reason or "not measured"}
        rows.append(row)
    return table("rounds", rows, seeds=seeds)


def verdict_text(finding: Any) -> str:
    """Return the verdict, how it departs or what would decide it, and whether it is on the claim at all."""
    more, runs = finding.departure, min(outcome.rate.runs for outcome in finding.rates)
    stuck = [o.label for o in finding.rates if not o.stays and verdict_on_rate(o.rate) == "contradicted"]
    if finding.verdict == "contradicted" and stuck:
        more = "; ".join(filter(None, [more, *(f"{label} stays on the plateau" for label in stuck)]))
    elif finding.short == "control":
        more = "no control passed"
    elif finding.verdict == "undecided" and finding.population == "articles" and runs >= MIN_SEEDS:
        more = "needs more articles, whatever the number of seeds" if finding.short else "needs more seeds"
    elif finding.verdict == "undecided" and finding.sd is None and runs >= MIN_SEEDS:
        more = "there may be no gap" if finding.quantity == "share" else "too few runs ended as the published one did"
    elif finding.verdict == "undecided" and finding.sd is None:
        of_plateau = any(outcome.stays is not None for outcome in finding.rates)
        more = f"needs at least {FEWEST_SEEDS if of_plateau else MIN_SEEDS} seeds"
    elif finding.verdict == "undecided":
        needed = f"more than {MOST_SEEDS:,}" if finding.seeds_needed is None else f"about {finding.seeds_needed:,}"
        more = f"needs {needed} seeds"
    causal = ""
    if not finding.causal and finding.quantity != "property":
        causal = "not causal, as claimed" if finding.decides else "as run, not causal"
    return "; ".join(filter(None, (finding.verdict + (more and f": {more}"), causal)))


def _form(finding: Any) -> str:
    forms = {"difference": "+z.1f", "share": "z.1f", "property": ".0f"}
    return forms.get(finding.quantity) or metric(finding.metric).form


def _bound(finding: Any, bound: float) -> str:
    forms = {"difference": "+.2f", "share": ".2f"}
    return f"{bound:{forms.get(finding.quantity) or metric(finding.metric).form}}"


def _estimate(finding: Any) -> str:
    """Return the estimate, its interval, and how many runs of each variant it is of."""
    form, (low, high) = _form(finding), (finding.low, finding.high)
    has_interval = low is not None and high is not None and finding.quantity != "property"
    interval = f" [{low:{form}}, {high:{form}}]" if has_interval else ""
    runs = [outcome.rate.number or outcome.rate.runs for outcome in finding.rates]
    number = count(runs[0], "seed") if len({*runs}) == 1 else f"{' and '.join(map(str, runs))} runs"
    if finding.population == "articles":
        number += f", {finding.articles} articles"
    return f"{finding.estimate:{form}}{interval} {finding.unit}".rstrip() + f" ({number})"


def _single_run(finding: Any) -> str:
    """Say whether the published figure, which is of single runs, is one that our single runs could give."""
    if finding.single_low is None or finding.figure is None or finding.recipe != PUBLISHED:
        return ""
    form, (low, high) = _form(finding), (finding.single_low, finding.single_high)
    where = "in" if low <= finding.figure <= high else "outside"
    unit = f" {finding.unit}" if finding.unit else ""
    return f"single runs: [{low:{form}}, {high:{form}}]{unit}; {finding.figure:{form}} lies {where}"


def _plateau(finding: Any) -> list[str]:
    lines = []
    for label, stays, rate in finding.rates:
        stuck = dict(finding.on_plateau).get(label, ())
        if rate.number < rate.runs:
            ended = "stayed on" if stays else "left"
            seeds = f"; on it: {', '.join(map(str, stuck))}" if 0 < len(stuck) < rate.runs else ""
            interval = f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}] %"
            lines.append(f"{label}: {rate.number} of {rate.runs} {ended} the plateau {interval}{seeds}")
    if finding.all_estimate is not None:
        lines.append(f"over all runs: {finding.all_estimate:{_form(finding)}} {finding.unit}".rstrip())
    return lines


def compare(first: Sweep, second: Sweep) -> tuple[Table | None, pandas.DataFrame]:
    """Match two sweeps cell by cell: the table, and the figures as comparison.csv has them."""
    rows: list[dict[str, Any]] = []
    pairs = []
    for sides in matched(*(sweep.whole.cells.record.tolist() for sweep in (first, second))):
        memory = "" if sides[0].memory == "none" else sides[0].memory
        variant = " ".join(filter(None, (sides[0].model, memory, sides[0].settings_text)))
        one, other = ({s: r["validation"]["perplexity"] for s, r in side.records.items()} for side in sides)
        common = [seed for seed in one if seed in other]
        pairs += [(sides[0].records[seed], sides[1].records[seed]) for seed in common]
        left = [seed for seed in common if not any(is_on_plateau(side.records[seed]) for side in sides)] or common
        difference = paired_difference([other[seed] for seed in left], [one[seed] for seed in left])
        causal = [all(record["causal"] for record in side.records.values()) for side in sides]
        leaky = [sweep.name for sweep, is_causal in zip((first, second), causal, strict=True) if not is_causal]
        row = {"first": first.name, "second": second.name, "variant": variant, "pairs": len(common)}
        row |= {"first_alone": len(one) - len(common), "second_alone": len(other) - len(common)}
        row |= {
            f"{n}_mean": statistics.fmean(v.values()) if v else None for n, v in (("first", one), ("second", other))
        }
        row |= {"p_holm": None, "not_causal": " ".join(leaky)}
        figures = difference._asdict() if difference else dict.fromkeys(Difference._fields)
        rows.append(row | {f"difference_{name}": value for name, value in figures.items()})
    for row, p in zip(rows, holm([row["difference_p"] for row in rows]), strict=True):
        row["p_holm"] = p
    different = "; ".join(differing(pairs)) or "nothing that is recorded, apart from names and places"
    paired_first = sorted(rows, key=lambda row: not row["pairs"])
    shown = table("comparison", map(_compared, paired_first), first=first.name, second=second.name, differing=different)
    return shown, pandas.DataFrame(rows, dtype=object)


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    difference = Difference(*(row[f"difference_{name}"] for name in Difference._fields))
    low, high = difference.percent_low, difference.percent_high
    interval = "" if low is None else f" [{low:+.2f}, {high:+.2f}]"
    mark = f" (not causal in {row['not_causal'].replace(' ', ' and ')})" if row["not_causal"] else ""
    return {
        "variant": row["variant"] + mark,
        **{row[side]: mean_sd([row[f"{side}_mean"]] if row[f"{side}_mean"] else []) for side in ("first", "second")},
        "difference": f"{difference.percent:+.2f} %{interval}" if row["pairs"] else "",
        "p": "" if row["p_holm"] is None else f"{row['p_holm']:.3f}",
        "pairs": str(row["pairs"]),
        **{f"only in {row[side]}": str(row[f"{side}_alone"] or "") for side in ("first", "second")},
        "causal": not mark,
    }


def words(sweeps: Sequence[Sweep]) -> Table | None:
    """Show the word perplexities that papers quote beside those of our best causal variants on one text, converted."""
    variants = [v for sweep in sweeps for study in sweep.studies for v in study.variants.itertuples()]
    variants = [v for v in variants if v.first["config"]["data"]["source"] == "wikitext2"]
    texts = [{name: v.first["validation"][name] for name in ("characters", "words")} for v in variants]
    if not texts or not texts[0]["words"]:
        return None
    ratio = texts[0]["characters"] / texts[0]["words"]
    quoted = [reference for paper in PAPERS for reference in paper.references]
    rows = [quote | {"about": "≈ ", "nll": math.log(quote["perplexity"]) / ratio} for quote in quoted]
    best: dict[str, Any] = {}
    for v, text in sorted(zip(variants, texts, strict=True), key=lambda pair: pair[0].validation_mean):
        if v.causal and text == texts[0]:
            nll = statistics.fmean(record["validation"]["nll"] for record in v.records.values())
            text_name = f"{text['characters']:,} characters of WikiText-2"
            best.setdefault(v.model, {"model": v.label, "text": text_name, "nll": nll})
    rows += best.values()
    for row in rows:
        row["bits"] = row["nll"] / math.log(2)
        row |= {name: exp(row["nll"] * power) for name, power in (("word", ratio), ("perplexity", 1.0))}
    return table("words", rows, ratio=ratio, **texts[0])


def failures(records: Sequence[Record]) -> Table | None:
    """Show the cells that are not finished, and why."""
    rows = []
    for r in records:
        if not store.is_finished(r):
            known = [str(r.get(key, "")) for key in ("model", "memory", "seed")]  # an older record may lack one
            name = " ".join(word for word in (known[0], known[1].replace("none", ""), f"seed {known[2]}") if word)
            status = "finished by another version of hrm_bench" if r["status"] == "finished" else r["status"]
            reason = ": ".join(filter(None, (status, r.get("reason"))))
            rows.append({"cell": f"{name} {r['identity']}", "reason": reason})
    return table("failures", rows)


def missing(judged: Judged) -> Table | None:
    """Show the claims that the records do not measure, and the command that would."""
    return table("missing", judged.missing)


def rescoring(sweep: Sweep) -> list[Table | None]:
    """Show other scores of the best weights, the curve over segments, and the curve of halting."""

    def texts(row: Any) -> dict[str, Any]:
        return {
            name: mean_sd(value) if isinstance(value, list) and name != "halting" else value
            for name, value in row.items()
        }

    segments, halting = [], []
    for scores in sweep.rescoring:
        head = {"variant": scores["variant"], "split": scores["split"]}
        names = {f"{number} segment{'s' * (number != '1')}": values for number, values in scores["segments"].items()}
        segments += [head | texts(names)] if names else []
        halting += [head | texts(point) for point in scores["halting"]]
    scored = [texts(scores) | {"num_seeds": len(scores["seeds"])} for scores in sweep.rescoring]
    named = {"rescoring": scored, "segments": segments, "halting": halting}
    return [table(name, rows, sweep=sweep.name) for name, rows in named.items() if rows]


def search(sweep: Sweep) -> Table | None:
    """Show the number of trials, the first, the best and its values: one row per study."""
    if sweep.search is None:
        return None
    rows, places = [], []
    for study in sweep.search["studies"]:
        trials = {"first": study["trials"][0], "best": min(study["trials"], key=perplexity_of)}
        row = {"study": study["study"], "trials": str(len(study["trials"]))}
        for name, trial in trials.items():
            row[f"{name} trial"] = "failed" if trial["perplexity"] is None else f"{trial['perplexity']:.2f}"
        rows.append(row | {key: f"{trials['best']['values'].get(key, '')}" for key in sweep.search["space"]})
        places.append(chosen_on(study))
    return table("search", rows, sweep=sweep.name, chosen_on=" or ".join(dict.fromkeys(places)))
