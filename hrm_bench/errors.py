"""Errors that a user can cause. Each is one line: the key, the value, what is allowed, what to type."""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """A request that cannot be met; its text has one line per fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


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


def no_such_key(key: str, siblings: Iterable[str]) -> str:
    """Return the line for a key that its group does not have: the keys that it has, and the one that is nearest."""
    group, _, name = key.rpartition(".")
    known = [*siblings]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {'.'.join(filter(None, (group, near[0])))}?" if near else ""
    return f"{key}: no such key; {group or 'the config'} has {allowed(known)}{meant}"
