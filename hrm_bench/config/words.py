"""The words of a command, before Hydra composes them: which are understood, and which cannot be meant."""

import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser  # private: only this parser knows which words are overrides
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from hrm_bench.config.schema import Schema
from hrm_bench.errors import UsageError, choices

NOT_UNDERSTOOD = (
    "not understood; write key=value, and put a value with spaces or signs in quotes, inside those of the shell: "
    """'key="value"'"""
)
FIXED = {  # settings of Hydra that a sweep cannot do without: what to type instead
    "hydra.sweep.subdir": "a cell's folder is named after its identity; choose the sweep's with hydra.sweep.dir=FOLDER",
    "hydra.job.chdir": "cells run in the folder of the command; choose theirs with hydra.run.dir or hydra.sweep.dir",
    "hydra/sweeper": "the sweeper checks all cells before the first one is trained; leave it out",
    "hydra.sweeper._target_": "the sweeper checks all cells before the first one is trained; leave it out",
    "hydra.mode": "type -m for a sweep",
    "hydra.sweeper.params": "type lists as key=a,b,c and -m",
}
BASELINE = "experiment.baseline"
SIGNS = frozenset("'\"[]{}(),")  # of lists, dicts and quotes, which a value in quotes would hide


def conf_folder() -> Path:
    """Return conf/: inside the installed package, or next to the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def groups() -> dict[str, list[str]]:
    """Return the choices of each config group."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in folders}


def quoted(text: str) -> str:
    """Return a text in quotes, as an override's value that Hydra and OmegaConf read literally."""
    for sign in ('"', r"\$\{"):
        text = re.sub(rf"(\\*)({sign})", r"\1\1\\\2", text)  # backslashes before a sign are doubled, and one is added
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'


def understood(words: Sequence[str]) -> list[str]:
    """Return words with quotes around values that Hydra's grammar refuses only for their signs: ``path=~/a b.txt``.

    A baseline takes any key, which Hydra writes ``++``.
    """
    parser, result = OverridesParser.create(), []
    for word in words:
        key, equals, value = word.partition("=")
        try:
            parser.parse_override(word)
        except HydraException:  # of the grammar, or of its alphabet
            if equals and value and not SIGNS & set(value):
                word = f"{key}={quoted(value)}"
        result.append(f"++{word}" if word.startswith(BASELINE) else word)
    return result


def check_command(arguments: Sequence[str]) -> None:
    """Raise UsageError for a command line, or a folder to run it in, that Hydra would refuse in many lines."""
    if "${" in (here := str(Path.cwd())):
        raise UsageError(f"{here}: Hydra takes ${{ in a folder's name for one of its settings; rename the folder")
    known = get_args_parser().parse_args(list(arguments))
    if known.multirun and (known.cfg or known.info):
        option = "--cfg" if known.cfg else "--info"
        raise UsageError(f"{option}: shows the config of one cell; leave out -m")
    check_words(known.overrides, is_sweep=known.multirun)


def check_words(words: Sequence[str], *, is_sweep: bool = False) -> None:
    """Raise UsageError for overrides that Hydra refuses with an error that does not name them."""
    parser, overrides, faults = OverridesParser.create(), [], []
    for word in words:
        try:
            overrides.append(parser.parse_override(word))
        except HydraException:
            faults.append(f"{word}: {NOT_UNDERSTOOD}")
    for override in overrides:
        group = override.key_or_group
        fixed = next((key for key in FIXED if f"{group}.".startswith(f"{key}.")), None)
        if not group:
            faults.append(f"{override.input_line}: {NOT_UNDERSTOOD}")
        elif fixed is not None:
            faults.append(f"{override.input_line}: {fixed} cannot be changed: {FIXED[fixed]}")
        elif override.is_delete() and group in Schema.model_fields:
            faults.append(f"{override.input_line}: every cell has {group}; choose another with {group}=VALUE")
        elif override.is_sweep_override():
            if not is_sweep:
                hint = "several values are a sweep, which takes -m: python -m hrm_bench -m ..."
                faults.append(f"{override.input_line}: {hint}")
        elif override.is_delete() or isinstance(override.value(), str):
            continue
        elif "/" in group or group in groups():
            faults.append(choices(str(override.input_line), str(override.value()), groups().get(group, [])))
    if faults:
        raise UsageError(*faults)
