"""The texts: WikiText-2, the bundled sample, or a file of the user's own; each as three strings.

Whatever was asked for and cannot be had is a UsageError; no other text ever takes its place.
"""

import functools
import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from hrm_bench.errors import UsageError

HUB = "https://huggingface.co"
HUB_NAME = "Salesforce/wikitext"
HUB_CONFIG = "wikitext-2-v1"
HUB_PATIENCE = 5.0  # seconds to wait for the hub's first answer
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
    if path is None:
        if not _hub_answers():
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
            raise UsageError(f"data=wikitext2: the hub's {HUB_NAME} cannot be reached; {WAYS_ON}") from error
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


def _hub_answers() -> bool:
    """Whether the hub answers at all within HUB_PATIENCE; the name's look-up, which has no time-out, included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(os.environ.get("HF_ENDPOINT", HUB), timeout=HUB_PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # an answer, too
        except OSError:
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_PATIENCE)
    return answered.is_set()


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
