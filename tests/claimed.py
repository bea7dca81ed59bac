"""Finished records on the published text around given means, and what the report says of the claims by them."""

import math

from hrm_bench.records.papers import PAPERS
from hrm_bench.records.schema import score
from hrm_bench.records.tidy import cells as frame_of
from hrm_bench.report import claims, summaries

SEEDS = range(42, 50)
NOISE = [-0.10, 0.06, -0.04, 0.09, 0.02, -0.07, 0.05, -0.01]  # by seed; its mean is 0
PAPER = next(paper for paper in PAPERS if "experiment reports" in paper.title)
RECIPE = PAPER.published_recipe
TUNED = {"name": "tuned", "budget": 800_000, "batch_size": 4, "learning_rate": 0.006, "distillation": 3.0}
CLASSES = {"infini_hrm": "hrm_bench.models.infini_hrm.InfiniHRM"}  # of which a control has passed
NOTHING = "No claim can be measured yet."


def findings(records):
    """What records say about the claims: one row per finding."""
    return list(claims.judge(frame_of(records)).findings.itertuples(index=False))


def missing(records):
    return claims.judge(frame_of(records)).missing


def shown(records):
    return summaries.verdicts(claims.judge(frame_of(records)))


def told(finding):
    return summaries.verdict_text(finding)


def record(model, perplexity, /, *, seed=42, memory="none", causal=True, experiment="hrm_vs_infini", **settings):
    """A finished record on the published text; settings are of the groups model, data and recipe."""
    figures = score(math.log(perplexity), characters=4992, words=1000)
    return {
        "schema_version": 3,
        "status": "finished",
        "model": model,
        "memory": memory,
        "seed": seed,
        "parameters": 152_064,
        "history": [
            {
                "epoch": 7,
                "train_nll": 2.0,
                "validation_nll": math.log(perplexity),
                "validation_perplexity": perplexity,
                "seconds": 1.0,
            }
        ],
        "leak": {},
        "seconds": 10.0,
        "best_epoch": 7,
        "validation": figures,
        "test": figures,
        "causal": causal,
        "code": "c0de",
        "identity": "1d",
        "floors": {"validation": {"unigram": {"full": 23.25}}, "test": {"unigram": {"full": 28.39}}},
        "config": {
            "experiment": {"name": experiment, "baseline": {"model": "hrm"}},
            "data": {"source": "wikitext2", "train_chars": 20_000, "validation_chars": 5_000}
            | settings.get("data", {}),
            "recipe": RECIPE | settings.get("recipe", {}),
            "model": {"name": model, "causal": True, "_target_": CLASSES.get(model, model)} | settings.get("model", {}),
            "memory": {"mode": "reset" if memory == "none" else memory},
            "seed": seed,
        },
    }


def cells(model, mean, /, *, noise=NOISE, **settings):
    """A variant's records, a seed each, around a mean."""
    return [record(model, mean + more, seed=seed, **settings) for seed, more in zip(SEEDS, noise, strict=False)]


def against_hrm(mean, **settings):
    """HRM at 12.10 and Infini-HRM, of which no claim speaks but that of its improvement by 4.7 %."""
    both = {name: settings[name] for name in ("experiment", "recipe") if name in settings}
    return cells("hrm", 12.10, **both) + cells("infini_hrm", mean, memory="reset", noise=NOISE[::-1], **settings)
