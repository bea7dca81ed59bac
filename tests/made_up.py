"""Finished records with made-up figures, for tests of what is made of records."""

import copy
import functools
import json
import math

from omegaconf import OmegaConf

import hrm_bench
from hrm_bench.config.identity import identity
from hrm_bench.records.schema import SCHEMA_VERSION, score

TEXT = "the fingerprint of a text"


def counted(unigram, ngram):
    return {
        "unigram": {"full": unigram, "adaptive": unigram},
        "kneser_ney_3": {"full": ngram, "window": ngram, "adaptive": ngram - 1},
    }


@functools.cache
def composed(*words):
    return OmegaConf.to_container(hrm_bench.compose(*words), resolve=True)


def record(*words, perplexity=12.0, seed=42, memory=None, causal=True):
    """A finished record of a cell that these words compose, with made-up figures."""
    config = copy.deepcopy(composed(*words)) | {"seed": seed}
    remembers = config["model"]["name"] in {"infini_hrm", "hrm_memory"}
    memory = memory or (config["memory"]["mode"] if remembers else "none")
    figures = score(math.log(perplexity), characters=4992, words=997)
    leak = {"perturbation": 0.0 if causal else 0.3, "gradient": 0.0 if causal else 0.01}
    history = [
        {
            "epoch": epoch,
            "train_nll": math.log(perplexity) + 1 / epoch,
            "validation_nll": math.log(perplexity) + 0.8 / min(epoch, 4) + 0.1 * max(0, epoch - 4) - 0.2,
            "validation_perplexity": perplexity * math.exp(0.8 / min(epoch, 4) + 0.1 * max(0, epoch - 4) - 0.2),
            "seconds": 1.0 * epoch,
        }
        | ({"memory_share": 0.5 - 0.02 * epoch, "memory_norm": 10.0 + epoch} if memory != "none" else {})
        for epoch in range(1, 5 + seed % 3)
    ]
    made = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity(OmegaConf.create(config), TEXT),
        "code": "c0de",
        "overrides": [*words, f"seed={seed}"],
        "status": "finished",
        "config": config,
        "model": config["model"]["name"],
        "memory": memory,
        "seed": seed,
        "parameters": 152_064,
        "versions": {"hrm_bench": "0.1.0", "torch": "2.13.0"},
        "history": history,
        "best_epoch": 4,
        "validation": figures,
        "test": figures,
        "gradient_coverage": {"embedding": ["task"], "levels.0": ["OACD"], "q_head": []},
        "leak": {"before_training": leak, "best": leak},
        "causal": causal,
        "bits_by_position": {split: [5.0 - 0.02 * place for place in range(64)] for split in ("validation", "test")},
        "state_size": 1088 if memory != "none" else 0,
        "flops_per_character": 530_000.0,
        "floors": {"validation": counted(23.0, 7.6), "test": counted(28.0, 6.6)},
        "seconds": 20.0,
        "train_seconds": 15.0,
        "characters_per_second": 18_000.0,
        "peak_memory": 1_100_000_000,
        "wandb": "offline",
    }
    if memory != "none":
        use = {"own": perplexity, "zeroed": perplexity * 1.02, "another_lane": perplexity * 1.03}
        made["memory_use"] = {"validation": use, "test": use}
    return made


def sweep(*, experiment="hrm_vs_infini", seeds=range(42, 48), more=0.0, extra=()):
    """HRM, and Infini-HRM in both memory modes; the carried one sits on the plateau in its first seed."""
    made = []
    for number, words in enumerate(
        (("model=hrm",), *(("model=infini_hrm", f"memory={m}") for m in ("reset", "carry")))
    ):
        for seed in seeds:
            perplexity = 11.0 + 0.3 * number + 0.05 * (seed % 5) + 0.01 * number * (seed % 3) + more
            if number == 2 and seed == min(seeds):
                perplexity = 22.9
            made.append(record(f"experiment={experiment}", *words, *extra, perplexity=perplexity, seed=seed))
    return made


def failed(made):
    """The record of a cell that failed, from that of one that did not."""
    kept = ("schema_version", "identity", "config", "model", "memory", "seed", "parameters", "versions")
    return {key: made[key] for key in kept} | {"status": "failed", "reason": "RuntimeError: planted", "log": "log.txt"}


def write(records, folder):
    """The records in a sweep's folder."""
    for each in records:
        cell = folder / f"{each['model']}-{each['memory']}-seed{each['seed']}-{each['identity']}"
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps(each))
    return folder
