"""Errors that a user can cause. Each is one line: the key, the value, what is allowed, what to type."""

import difflib
from collections.abc import Iterable, Sequence


class UsageError(Exception):
    """A request that cannot be met; its text has one line per fault."""

    def __init__(self, *faults: str) -> None:
        self.faults = tuple("\\n".join(fault.splitlines()) or "\\n" for fault in faults)
        super().__init__("\n".join(self.faults))


class ConfigFault(ValueError):
    """A value that the config of a model refuses.

    ``key`` is its key without "model."; ``message`` is the whole line: key and value, what is allowed, what to try.
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


def allowed(values: Iterable[object]) -> str:
    """Return a list of choices in prose."""
    return ", ".join(str(value) for value in values)


def no_such_key(key: str, siblings: Iterable[str], elsewhere: Iterable[str] = (), *, owner: str = "") -> str:
    """Return the line for a key that its group does not have: the keys that it has, and the one that is nearest.

    ``elsewhere`` are the whole keys of other groups, of which one that ends in the same name may be meant. ``owner`` is
    what lacks the key, if it is not the group.
    """
    group, _, name = key.rpartition(".")
    known = [*siblings]
    moved = [other for other in elsewhere if other.rpartition(".")[2] == name and other != key]
    near = [".".join(filter(None, (group, word))) for word in difflib.get_close_matches(name, known, n=1)]
    return f"{key}: no such key; {owner or group or 'the config'} has {allowed(known)}{meant([*moved, *near])}"


def meant(near: Sequence[str]) -> str:
    """Return the question whether the first of these words was meant; nothing if there is none."""
    return f"; did you mean {near[0]}?" if near else ""


def choices(word: str, wanted: str, names: Iterable[str]) -> str:
    """Return the line for a word that names none of these choices, with the one that is nearest to ``wanted``."""
    known = [*names]
    near = meant(difflib.get_close_matches(wanted, known, n=1))
    return f"{word}: no such choice" + (f"; allowed are {allowed(known)}{near}" if known else "")
