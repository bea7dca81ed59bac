"""The table of the findings on the published claims: in the terminal, as CSV and as Markdown."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hrm_bench import statistics
from hrm_bench.report.claims import PUBLISHED, Finding
from hrm_bench.report.tables import markdown_grid, print_grid
from hrm_bench.statistics import MIN_PAIRS, MOST_SEEDS

NUMBERS = {"seeds", "p"}  # headings of figures; all others are of words
NOTHING = "No claim can be measured yet."
RULE = statistics.RULE


def grid(found: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table, without the columns that are empty everywhere."""
    lines = [_line(finding) for finding in found]
    if all(finding.recipe == PUBLISHED for finding in found):
        lines = [line | {"recipe": ""} for line in lines]
    headings = [heading for heading in (lines[0] if lines else []) if any(line[heading] for line in lines)]
    return headings, [[line[heading] for heading in headings] for line in lines]


def _line(finding: Finding) -> dict[str, str]:
    form = "+.2f" if finding.quantity == "difference" else ".2f"
    bounds = [f"{bound:{form}}" for bound in (finding.range_low, finding.range_high) if bound is not None]
    return {
        "claim": finding.claim,
        "published": finding.published,
        "experiment": finding.experiment,
        "recipe": finding.recipe,
        "measured": f"{finding.measure}: {_figure(finding, finding.estimate, finding.low, finding.high)}",
        "holds between": f"{' and '.join(bounds)}{'' if bounds[1:] else ' or more'} {finding.unit}".rstrip(),
        "seeds": str(len(finding.seeds)),
        "p": "" if finding.p_holm is None else f"{finding.p_holm:.3f}",
        "verdict": verdict_text(finding),
        "on the plateau": _plateau(finding),
    }


def verdict_text(finding: Finding) -> str:
    """The verdict, what it is short of, and whether it is on the claim at all."""
    more = _needs(finding) if finding.verdict == "undecided" else finding.departure
    known = "" if finding.causal else "not causal, as claimed" if finding.decides else "as run, not causal"
    return "; ".join(filter(None, (finding.verdict + (more and f": {more}"), known)))


def _needs(finding: Finding) -> str:
    if finding.sd is None:
        return f"needs at least {MIN_PAIRS} seeds" if len(finding.seeds) < MIN_PAIRS else "there may be no gap"
    needed = f"more than {MOST_SEEDS:,}" if finding.seeds_needed is None else f"about {finding.seeds_needed:,}"
    return f"needs {needed} seeds"


def _figure(finding: Finding, estimate: float, low: float | None, high: float | None) -> str:
    form = {"level": ".2f", "difference": "+z.1f", "share": "z.1f"}[finding.quantity]
    interval = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{estimate:{form}}{interval} {finding.unit}".rstrip()


def _plateau(finding: Finding) -> str:
    told = [
        f"{label}: {'all' if len(seeds) == len(finding.seeds) else ', '.join(map(str, seeds))}"
        for label, seeds in finding.on_plateau
    ]
    if finding.left_estimate is not None:
        figure = _figure(finding, finding.left_estimate, finding.left_low, finding.left_high)
        told.append(f"over the {finding.left_pairs} seeds that left it: {figure}")
    return "; ".join(told)


def markdown(found: Sequence[Finding]) -> str:
    """The rule, then the table."""
    headings, lines = grid(found)
    body = markdown_grid(headings, lines, words={*headings} - NUMBERS) if found else NOTHING
    return f"{RULE}\n\n{body}\n"


def show(found: Sequence[Finding]) -> None:
    """Print both."""
    headings, lines = grid(found)
    if found:
        print_grid("Published claims", headings, lines, words={*headings} - NUMBERS, note=RULE, ruled=True)
    else:
        print(f"{NOTHING}\n{RULE}")


def write(found: Sequence[Finding], folder: Path) -> list[Path]:
    """Write verdicts.md and verdicts.csv into a folder; the paths written."""
    (folder / "verdicts.md").write_text(markdown(found), encoding="utf-8")
    with (folder / "verdicts.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(Finding.__dataclass_fields__))
        writer.writeheader()
        for finding in found:
            stuck = "; ".join(f"{label}: {' '.join(map(str, seeds))}" for label, seeds in finding.on_plateau)
            writer.writerow(asdict(finding) | {"seeds": " ".join(map(str, finding.seeds)), "on_plateau": stuck})
    return [folder / "verdicts.md", folder / "verdicts.csv"]
