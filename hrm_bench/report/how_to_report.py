"""The paragraph "how to report this": a study in sentences that can be pasted into a paper, with seeds and versions."""

from collections.abc import Sequence
from typing import Any

from hrm_bench import crossed
from hrm_bench.intervals import sd
from hrm_bench.records.facts import SPLITS, article_nats, article_titles, recipe_name, text_name
from hrm_bench.records.schema import Record
from hrm_bench.report.frame import Study, by_text
from hrm_bench.table import count


def paragraphs(study: Study) -> list[str]:
    """Return one paragraph per text of a study."""
    ranked = study.variants.sort_values("rank", na_position="last")
    return [_paragraph(group, study) for group in by_text(ranked.itertuples())]


def _paragraph(group: Sequence[Any], study: Study) -> str:
    records = [record for v in group for record in v.records.values()]
    sentences = [_protocol(records), "Perplexities are per character, at the epoch that is best on validation."]
    sentences += [f"{'; '.join(_variant(v, study) for v in group)}."]
    compared = [v for v in group if v.difference_low is not None]
    if compared:
        stuck = ", of the runs that left the plateau" if any(v.on_plateau for v in group) else ""
        sentences.append(f"Brackets are 95 % intervals over seeds (Welch){stuck}; they say nothing of other texts.")
    sentences += filter(None, [_held_out(compared, study), _causal(group)])
    return " ".join(sentences)


def _protocol(records: Sequence[Record]) -> str:
    """Say what was trained and scored, with which version, recipe and seeds."""
    first = records[0]
    recipes = [*dict.fromkeys(map(recipe_name, records))]
    seeds = sorted({record["seed"] for record in records})
    versions = first.get("versions", {})
    with_versions = ", ".join(
        f"{name} {versions[name]}" for name in ("hrm_bench", "torch", "lightning") if name in versions
    )
    train = first["config"]["data"].get("train_chars")
    length = "all characters" if train is None else f"the first {train:,} characters"
    scored = " and ".join(f"{first[split]['characters']:,} {split}" for split in SPLITS)  # type: ignore[literal-required]
    by = f"by the recipe{'s' if len(recipes) > 1 else ''} {' and '.join(recipes)}, with seeds {_ranges(seeds)}"
    text = f"{length} of {text_name(first['config']['data'])} and scored on {scored} characters"
    return f"Models were trained on {text}, {by} ({with_versions or 'versions not recorded'})."


def _variant(v: Any, study: Study) -> str:
    """Return a variant's figures, and its difference to the baseline."""
    validation, test = ([r[split]["perplexity"] for r in v.records.values()] for split in SPLITS)
    spread = sd(validation)
    more = [f"{count(v.seeds, 'seed')}", *([] if spread is None else [f"sd {spread:.2f}"])]
    stuck = f", {count(len(v.on_plateau), 'run')} on the unigram plateau" if v.on_plateau else ""
    difference = ""
    if v.difference_low is not None:
        low, high = v.difference_percent_low, v.difference_percent_high
        difference = (
            f", {v.difference_percent:+.1f} % [{low:+.1f}, {high:+.1f}] against {study.variants.label[v.baseline]}"
        )
    figures = (
        f"{v.validation_mean:.2f} on validation ({', '.join(more)}{stuck}) and {sum(test) / len(test):.2f} on test"
    )
    return f"{v.label} ({v.parameters:,} parameters) reaches {figures}{difference}"


def _held_out(compared: Sequence[Any], study: Study) -> str:
    """Give the differences on held-out texts, whose intervals are for other seeds and other texts."""
    parts, titles = [], []
    for v in compared:
        sides = [[*some.values()] for some in (v.records, study.variants.records[v.baseline])]
        nats, (titles, *others) = [article_nats(side) for side in sides], [article_titles(side[0]) for side in sides]
        if all(nats) and [titles] == others:
            difference = crossed.percent_difference(*nats)
            if difference.over_both is not None:
                low, high = difference.over_both
                parts.append(f"{v.label} {difference.estimate:+.1f} % [{low:+.1f}, {high:+.1f}]")
    if not parts:
        return ""
    return (
        f"On {len(titles)} held-out texts, with intervals over seeds and texts, the differences are {'; '.join(parts)}."
    )


def _causal(group: Sequence[Any]) -> str:
    not_causal = [v.label.removesuffix(" (not causal)") for v in group if not v.causal]
    if not not_causal:
        return "By perturbation and by gradient, no model sees a later character."
    return f"Not causal, and not to be compared: {', '.join(not_causal)}."


def _ranges(seeds: Sequence[int]) -> str:
    """Return sorted numbers as text: 1, 3 to 5."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
