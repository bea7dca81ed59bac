"""Whether the records of an archive can be true: what of them can be computed again, without training and by training.

A record is checked alone: its schema, identity, text, model, scores, history, audits and n-gram baselines. What a
record says of training itself can only be trained again; a few cells drawn at random show how likely it is that the
others were not made up. Nothing of an archive is imported that is not of this package, unless it is trusted.
"""

import math
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from hrm_bench.cells import reopen
from hrm_bench.cells.provenance import PACKAGE, code_version
from hrm_bench.cells.run import run_cell
from hrm_bench.charlm import CharLM
from hrm_bench.config.compose import check, completed
from hrm_bench.config.identity import identity, memory_mode
from hrm_bench.data.corpora import Corpus, Library
from hrm_bench.data.windows import Windows
from hrm_bench.errors import UsageError
from hrm_bench.evidence import floors, probes
from hrm_bench.evidence.causality import is_causal
from hrm_bench.records import archive, store
from hrm_bench.records.check import fault
from hrm_bench.records.facts import SPLITS
from hrm_bench.records.schema import Record, score
from hrm_bench.training.build import build, load_windows

CLOSE = 1e-6  # relative: of figures that are computed again on any machine
HISTORY = 1e-3  # relative: of a loss in training, where batches are averaged in single precision, and scored again
ROUNDED = 1e-3  # nats: of a sum of windows, each rounded to a ten-thousandth
NAMING = ("._target_", ".data.source", ".recipe.optimizer", ".logger.tracker")  # keys that may name a class
WHEN, AUDITS = ("before_training", "best"), ("perturbation", "gradient")  # the keys of leaks
STAMP = re.compile(r"[0-9a-f]{12}")
FORGED = 0.1  # the fraction of forged cells for which the odds of missing them are told

Faults = Iterator[str]


class Checked(NamedTuple):
    """The result of checking an archive."""

    faults: list[str]  # one line each
    cells: int
    stamps: Counter[str]  # how many cells were made by the code of today, and by other code
    unread: int  # cells whose text is not at hand


def check_archive(file: Path, *, trust: bool = False) -> Checked:
    """Check every record of an archive. Raises UsageError if the file is none."""
    library, faults, stamps, unread = Library(), list[str](), Counter[str](), 0
    unreadable = set[str]()
    named = archive.contents(file)
    identities = Counter(content.get("identity") for _, content in named if isinstance(content, dict))
    for name, content in named:
        try:
            found = [*_record_faults(name, content, trust=trust)]
            if not found:
                record = store.upgrade(content)
                cfg, corpus = config_of(record, library, unreadable)
                stamps["today" if record["code"] == code_version(cfg) else "other"] += 1
                unread += corpus is None
                found = [*_config_faults(record, cfg, corpus, library)]
        except UsageError as error:
            found = [*error.faults]
        except Exception as error:  # whatever a config that nobody has checked may lead to
            found = [f"config: cannot be used ({type(error).__name__}: {' '.join(str(error).split())})"]
        if isinstance(content, dict) and identities[content.get("identity")] > 1:
            found.append(f"identity={content.get('identity')}: the file has this cell more than once")
        faults += [f"{name}: {line}" for line in found]
    return Checked(faults, len(named), stamps, unread)


def config_of(record: Record, library: Library, unreadable: set[str]) -> tuple[DictConfig, Corpus | None]:
    """Return the config of a record as cells have it today, and its text, or None if this is not at hand.

    An archive has no path of a text: that of WikiText is HRM_BENCH_WIKITEXT, or the hub's cache. ``unreadable`` keeps
    which texts were asked for in vain.
    """
    cfg = completed(record["config"])
    reopen.find_wikitext(cfg)
    key = str(cfg.data)
    if key not in unreadable:
        try:
            return cfg, library.load(cfg.data)
        except UsageError:
            unreadable.add(key)
    return cfg, None


def odds_of_missing(cells: int, trained: int) -> float:
    """Return the probability that none of the cells that are trained again is among the forged tenth."""
    forged = max(1, round(FORGED * cells))
    return math.comb(cells - forged, trained) / math.comb(cells, trained) if trained <= cells - forged else 0.0


def train_again(
    file: Path, number: int, *, tolerance: float, draw: random.Random, said: Callable[[str], None] = print
) -> list[str]:
    """Train some cells of an archive again; return a line per cell whose perplexities differ by more than a fraction.

    Another machine rounds differently, and a cell then ends elsewhere in the spread over seeds.
    """
    faults, library = [], Library()
    named = archive.contents(file)
    for name, content in draw.sample(named, min(number, len(named))):
        record = store.upgrade(content)
        cfg, _ = config_of(record, library, set())
        OmegaConf.update(cfg, "logger.mode", "disabled")
        OmegaConf.update(cfg, "logger.tracker", "wandb")
        for key, value in (("force", False), ("fail_fast", False), ("plan", False)):
            OmegaConf.update(cfg, key, value, force_add=True)
        with tempfile.TemporaryDirectory() as folder:
            check(cfg)
            again = run_cell(cfg, Path(folder))
        if again["status"] != "finished":
            faults.append(f"{name}: trained again, it {again['status']}: {again.get('reason', '')}")
            continue
        for split in SPLITS:
            was, now = (some[split]["perplexity"] for some in (record, again))  # type: ignore[literal-required]
            said(f"{name}: {split} perplexity {was:.4f} in the file, {now:.4f} trained again")
            if abs(now / was - 1) > tolerance:
                faults.append(f"{name}: {split}.perplexity={was:.4f}: trained again, it is {now:.4f}")
    return faults


def _record_faults(name: str, content: Any, *, trust: bool) -> Faults:
    """Yield what is wrong with a record by itself: its schema, classes, scores, history, audits and articles."""
    if wrong := fault(content):
        yield wrong
        return
    if not store.is_finished(content):
        yield "its cell is not finished, or of another version of the schema"
        return
    record = store.upgrade(content)
    if foreign := [] if trust else [*_foreign(record["config"], "config")]:
        yield from foreign
        return
    if not STAMP.fullmatch(record["code"]):
        yield f"code={record['code']}: must be twelve hexadecimal digits"
    if not name.endswith(record["identity"]):
        yield f"identity={record['identity']}: its folder is named otherwise"
    for split in SPLITS:
        yield from _score_faults(split, record)
    yield from _history_faults(record)
    leaks: Mapping[str, Any] = record["leak"]
    audits = [leaks.get(when, {}).get(audit, math.nan) for when in WHEN for audit in AUDITS]
    if not all(leak >= 0 for leak in audits):
        yield "leak: an audit is missing, or negative"
    elif record["causal"] != is_causal(*record["leak"].values()):
        yield f"causal={record['causal']}: the leaks that it records say the opposite"
    for split, texts in record.get("articles", {}).items():
        for article in texts:
            if abs(sum(article["windows"]) - article["nats"]) > ROUNDED * len(article["windows"]):
                yield f"articles.{split}: the windows of {article['title']} do not add up to its nats"


def _foreign(value: Any, key: str) -> Faults:
    """Yield the classes in a config that are not of this package."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _foreign(item, f"{key}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _foreign(item, key)
    elif isinstance(value, str) and "${" in value:
        yield f"{key}={value}: would be replaced by another value when it is read; write the value"
    elif key.endswith(NAMING) and "." in str(value) and not str(value).startswith(f"{PACKAGE}."):
        yield f"{key}={value}: is no class of {PACKAGE}; trust=true imports it"


def _score_faults(split: str, record: Record) -> Faults:
    """Yield figures of a split that do not follow from its nats per character."""
    given: Mapping[str, Any] = record[split]  # type: ignore[literal-required]
    expected: Mapping[str, Any] = score(given["nll"], characters=given["characters"], words=given["words"])
    for key, value in dict(expected).items():
        if not _is_close(given.get(key, math.nan), value):
            yield f"{split}.{key}={given.get(key)}: does not follow from {split}.nll={given['nll']}"
    positions = record.get("bits_by_position", {}).get(split)
    if positions and "answers" not in record:
        bits = sum(positions) / len(positions)
        if not _is_close(bits, given["nll"] / math.log(2), 1e-4):
            yield f"{split}.nll={given['nll']}: bits_by_position.{split} has a mean of {bits:g} bits"
    windows = record.get("windows", {}).get(split)
    if windows is not None and not _is_close(sum(windows), given["nll"] * given["characters"], 1e-4):
        yield f"windows.{split}: do not add up to {split}.nll times its characters"


def _history_faults(record: Record) -> Faults:
    for row in record["history"]:
        if not _is_close(row["validation_perplexity"], math.exp(min(700, row["validation_nll"]))):
            yield f"history: the perplexity of epoch {row['epoch']} does not follow from its loss"
    epochs = [row["epoch"] for row in record["history"]]
    if epochs != [*range(1, len(epochs) + 1)]:
        yield "history: its epochs are not 1, 2, 3 and so on"
    best = record["validation"]["nll"]
    for row in record["history"]:
        if row["epoch"] == record["best_epoch"] and not _is_close(row["validation_nll"], best, HISTORY):
            yield f"best_epoch={record['best_epoch']}: its loss in the history is not validation.nll"
    if not record["config"]["recipe"].get("max_epochs", math.inf) >= len(epochs):
        yield f"history: has more epochs than recipe.max_epochs={record['config']['recipe']['max_epochs']}"


def _config_faults(record: Record, cfg: DictConfig, corpus: Corpus | None, library: Library) -> Faults:
    """Yield what does not follow from the record's config: its names, its model and, with the text, all the rest."""
    for key, value in (("model", cfg.model.name), ("seed", cfg.seed), ("memory", memory_mode(cfg))):
        if record[key] != value:  # type: ignore[literal-required]
            yield f"{key}={record[key]}: the config has {value}"  # type: ignore[literal-required]
    if corpus is None:
        return
    if (own := identity(cfg, corpus.fingerprint)) != record["identity"]:
        yield f"identity={record['identity']}: config and text give {own}"
    if record["text"] and record["text"] != corpus.fingerprint[:12]:
        yield f"text={record['text']}: the text of the config has {corpus.fingerprint[:12]}"
    windows = library.derive(corpus, ("windows", str(cfg.data), str(cfg.recipe)), lambda: load_windows(cfg, corpus))
    model = library.derive(
        corpus, ("model", str(cfg.model), str(cfg.memory), cfg.scale), lambda: build(cfg, len(corpus.vocabulary))
    )
    yield from _model_faults(record, model)
    yield from _text_faults(record, cfg, corpus, windows, library)


def _model_faults(record: Record, model: CharLM) -> Faults:
    computed: dict[str, float] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    if record["memory"] != "none":
        computed["state_size"] = probes.state_size(model)
    computed |= {"flops_per_character": probes.flops_per_character(model)}
    for key, value in computed.items():
        given = record.get(key)
        if not isinstance(given, int | float) or not _is_close(given, value):
            yield f"{key}={'missing' if given is None else given}: the model of the config has {value:g}"


def _text_faults(record: Record, cfg: DictConfig, corpus: Corpus, windows: Windows, library: Library) -> Faults:
    for split in SPLITS:
        samples, given = getattr(windows, split), record[split]  # type: ignore[literal-required]
        for key, value in (("characters", samples.num_decoded), ("words", samples.num_words)):
            if given[key] != value:
                yield f"{split}.{key}={given[key]}: the text has {value}"
    window = cfg.data.window
    computed = library.derive(corpus, ("floors", window), lambda: floors.of_corpus(corpus, window=window))
    for split, models in computed.items():
        for name, ways in models.items():
            for way, value in ways.items():
                was = record["floors"].get(split, {}).get(name, {}).get(way, math.nan)
                if not _is_close(was, value):
                    yield f"floors.{split}.{name}.{way}={was}: the text gives {value}"


def _is_close(one: float, other: float, tolerance: float = CLOSE) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))


def summary(checked: Checked, faults: Sequence[str]) -> str:
    """Return in a line what was checked."""
    stamps = ", ".join(
        f"{number} by {'the code of today' if kind == 'today' else 'other code'}"
        for kind, number in checked.stamps.items()
    )
    text = f"; {checked.unread} without their text, which is not at hand" if checked.unread else ""
    return f"{checked.cells} cells ({stamps or 'none can be read'}{text}): {len(faults) or 'no'} faults"
