"""The texts: WikiText-2, the bundled sample, or a file of the user's own; each as three strings.

Whatever was asked for and cannot be had is a UsageError; no other text ever takes its place.
"""

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from hrm_bench import network
from hrm_bench.errors import UsageError

HUB = "https://huggingface.co"
HUB_NAME = "Salesforce/wikitext"
HUB_CONFIG = "wikitext-2-v1"
WAYS_ON = "give a local copy in the hub's layout with data.path=FOLDER (or HRM_BENCH_WIKITEXT), or use data=sample"


class Corpus(NamedTuple):
    """The characters that are used of each split."""

    train: str
    validation: str
    test: str

    @property
    def fingerprint(self) -> str:
        """A hash of all three, so that the same characters are known again wherever they were read from."""
        return hashlib.sha256("\0".join(self).encode()).hexdigest()


def load(data: DictConfig) -> Corpus:
    """The corpus that a data config describes; read once a process."""
    path = None if not data.path else str(Path(data.path).expanduser().absolute())
    limits = (data.train_chars, data.validation_chars, data.test_chars)
    if data.source == "wikitext2":
        return _wikitext2(path, limits)
    if data.source == "sample":
        return _sample(limits)
    return _text_file(path, limits)


Limits = tuple[int | None, int | None, int | None]


@functools.cache
def _wikitext2(path: str | None, limits: Limits) -> Corpus:
    answers = path is not None or network.answers(os.environ.get("HF_ENDPOINT", HUB))
    if path is None:
        if Path(HUB_NAME).exists():  # datasets would take it for the hub's
            raise UsageError(
                f"data=wikitext2: ./{HUB_NAME} would be read in the hub's place; "
                f"give it by name with data.path={HUB_NAME}, or run elsewhere"
            )
        if not answers:
            os.environ["HF_HUB_OFFLINE"] = "1"  # read by datasets at its import: look in this machine's cache only
    elif not Path(path).is_dir():
        raise UsageError(f"data.path={path}: no such folder; {WAYS_ON}")
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        splits = load_dataset(path or HUB_NAME, HUB_CONFIG)
        return Corpus(
            *(
                _take((row["text"] for row in splits[name]), limit)
                for name, limit in zip(Corpus._fields, limits, strict=True)
            )
        )
    except Exception as error:
        reason = str(error).split("\n")[0]
        if path is None:
            fault = f"cannot be loaded ({reason})" if answers else "cannot be reached"
            raise UsageError(f"data=wikitext2: the hub's {HUB_NAME} {fault}; {WAYS_ON}") from error
        raise UsageError(f"data.path={path}: not {HUB_NAME} in the hub's layout ({reason}); {WAYS_ON}") from error


def _take(rows: Iterable[str], limit: int | None) -> str:
    """The first ``limit`` characters of the published text: the hub's rows lose blank lines, which read ' \\n'."""
    parts, total = [], 0
    for row in rows:
        parts.append(row or " \n")
        total += len(parts[-1])
        if limit is not None and total >= limit:
            break
    return "".join(parts)[:limit]


@functools.cache
def _sample(limits: Limits) -> Corpus:
    folder = Path(__file__).parent / "sample"
    return Corpus(
        *(
            (folder / f"{name}.txt").read_text(encoding="utf-8")[:limit]
            for name, limit in zip(Corpus._fields, limits, strict=True)
        )
    )


@functools.cache
def _text_file(path: str | None, limits: Limits) -> Corpus:
    assert path is not None, "config.check asks for it"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"data.path={path}: not UTF-8 at byte {error.start}; convert it, for example with iconv -t UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"data.path={path}: cannot be read ({error.strerror}); give data.path=FILE") from error
    first, second = len(text) * 8 // 10, len(text) * 9 // 10
    pieces = (text[:first], text[first:second], text[second:])
    return Corpus(*(piece[:limit] for piece, limit in zip(pieces, limits, strict=True)))
