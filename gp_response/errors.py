"""Errors a user can act on: one line that says what was got, what was expected and what to do.

The command line prints these without a traceback; everything else is a bug of ours.
"""

import difflib
from collections.abc import Iterable


class GPResponseError(Exception):
    """Base of every error raised on purpose by gp_response."""


class InputError(GPResponseError, ValueError):
    """An argument cannot be used as it stands."""


class DataError(InputError):
    """A row or column of the data cannot be used as it stands."""


class SolverError(GPResponseError, RuntimeError):
    """A linear system could not be solved to the accuracy asked for."""


class MissingDependency(GPResponseError, ImportError):
    """An optional library is needed; the message names the extra that installs it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest ones that do."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(known)}"
    return InputError(f"unknown {kind} {name!r}; {hint}")


def brief(what: object, length: int) -> str:
    """A text in one line, its middle left out where it is longer than `length`."""
    text = " ".join(str(what).split())
    return text if len(text) <= length else f"{text[: length - length // 3 - 1]}…{text[-(length // 3) :]}"


__all__ = ["DataError", "GPResponseError", "InputError", "MissingDependency", "SolverError", "brief", "unknown_name"]
