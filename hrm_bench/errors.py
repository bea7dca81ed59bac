"""What a user can cause, told in one line a fault: the key, the value, what is allowed, what to type."""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import errors

TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "a word"}


class UsageError(Exception):
    """A request that cannot be met; its text is a line a fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def allowed(values: Iterable[object]) -> str:
    """A list of choices in prose."""
    return ", ".join(str(value) for value in values)


def no_such_key(key: str, siblings: Iterable[str]) -> str:
    """A key that its group does not have, with those that it has and the one that was perhaps meant."""
    group, _, name = key.rpartition(".")
    known = [sibling for sibling in siblings if sibling != "hydra"]
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {'.'.join(filter(None, (group, near[0])))}?" if near else ""
    return f"{key}: no such key; {group or 'the config'} has {allowed(known)}{meant}"


def explain(error: Exception) -> str:
    """One line from an error of Hydra's or OmegaConf's, which speak of it in many."""
    message = str(error)
    cause = error.__cause__ if isinstance(error.__cause__, errors.OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options:
        group, _, wanted = str(error.missing_cfg_file).rpartition("/")
        hint = "; others come with pip install 'hrm_bench[launchers]'" if group == "hydra/launcher" else ""
        return f"{group}={wanted}: no such choice; allowed are {allowed(error.options)}{hint}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not understood; write key=value, and put a value with spaces or signs in quotes"
    if message.startswith("Ambiguous value for argument"):
        return f"{message.split(chr(39))[1]}: several values are a sweep, which takes -m: python -m hrm_bench -m ..."
    if isinstance(cause, errors.MissingMandatoryValue):
        return f"{cause.full_key}: must be given; {cause.full_key}=VALUE"
    if isinstance(cause, errors.ConfigAttributeError | errors.ConfigKeyError) and cause.parent_node is not None:
        return no_such_key(str(cause.full_key), cause.parent_node)
    if isinstance(cause, errors.ValidationError):
        setting = message.removeprefix("Error merging override ") if cause is not error else cause.full_key
        kind = next((text for name, text in TYPES.items() if f"converted to {name}" in str(cause.msg)), None)
        if "is not Optional" in str(cause.msg):
            return f"{setting}: must not be null"
        return f"{setting}: must be {kind}" if kind else f"{setting}: {_one_line(str(cause.msg))}"
    return _one_line(message)


def of_disk(error: OSError, hint: str) -> str:
    """One line from what a system says of a file."""
    return f"{error.filename or 'the disk'}: cannot be read or written ({error.strerror or error}); {hint}"


def command(main: Callable[[list[str]], int]) -> NoReturn:
    """Run a command on the words after its name and exit with its status.

    2, and a line a fault, for bad input; 1 where its reader has gone; 130 where it was interrupted.
    """
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(status)
    except UsageError as error:
        stop(error)
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        stop(UsageError(of_disk(error, "give another")))
    except KeyboardInterrupt:
        sys.exit(130)


def end_quietly() -> NoReturn:
    """Exit with status 1: whoever reads us, as in `| head`, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def stop(error: UsageError) -> NoReturn:
    """Tell the faults and exit with status 2."""
    for fault in error.faults:
        print(f"hrm_bench: {fault}", file=sys.stderr)
    sys.exit(2)


def _one_line(text: str) -> str:
    return " ".join(text.split())
