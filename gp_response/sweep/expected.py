"""What a sweep is expected to show, said in numbers, and whether its results do.

An expectation is a mapping with `every: NAME` (each run's number) or `mean: NAME` (over the runs), optionally
`where: {parameter: value}`, and one of

* `below`, `above`, `at_most`, `at_least`: a number, or the mean of the same name elsewhere, `{where: {…}, times: 1.0}`;
* `is: number` and `within: number`: no further from it than that;
* `falls_along` or `rises_along: parameter`: from each value of the parameter to the next greater one, but for a share `slack`.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from gp_response.errors import InputError, unknown_name
from gp_response.sweep.compare import means
from gp_response.sweep.frame import column, matching

COMPARED: dict[str, Callable[[float, float], bool]] = {
    "below": operator.lt, "above": operator.gt, "at_most": operator.le, "at_least": operator.ge,
}  # fmt: skip
ORDERED = {"falls_along": 1.0, "rises_along": -1.0}
TESTS = (*COMPARED, "is", *ORDERED)
KNOWN = ("every", "mean", "where", "within", "slack", *TESTS)


@dataclass(frozen=True)
class Verdict:
    """Whether an expectation holds, the expectation in words, and the numbers found."""

    holds: bool
    claim: str
    found: str


def check(expectation: Mapping[str, Any], table: pd.DataFrame) -> Verdict:
    """One expectation against a table of runs, see `frame`. Numbers that are not finite meet none.

    Raises InputError for an expectation that cannot be read, or that no run is about.
    """
    test = _test_of(expectation)
    name, rows = _name(expectation), selected(table, expectation.get("where", {}))
    if test in ORDERED:
        holds, found = _ordered(rows, name, expectation[test], ORDERED[test], _number(expectation.get("slack", 0.0)))
    else:
        numbers = pd.to_numeric(column(rows, name), errors="coerce").astype(float).tolist()
        numbers = numbers if "every" in expectation else [sum(numbers) / len(numbers)]
        limit = _limit(table, name, expectation[test])
        holds = all(math.isfinite(number) and _meets(test, number, limit, expectation) for number in numbers)
        low, high = min(numbers), max(numbers)
        found = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
        found += f" (limit {limit:.4g})" if isinstance(expectation[test], Mapping) else ""
    return Verdict(holds, _words(expectation), found)


def mean_of(quantity: Mapping[str, Any], table: pd.DataFrame) -> float:
    """The mean of `{mean: NAME, where: {…}}` over its runs, or `{largest: NAME}`, `{least: NAME}`."""
    [how] = [key for key in ("mean", "largest", "least") if key in quantity]
    numbers = column(selected(table, quantity.get("where", {})), quantity[how]).astype(float)
    return float({"mean": numbers.mean, "largest": numbers.max, "least": numbers.min}[how]())


def selected(table: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The runs at these values of the parameters; an error where there is none."""
    found = table
    for key, value in where.items():
        if key not in table.attrs["parameters"]:
            raise unknown_name("parameter", key, table.attrs["parameters"])
        found = found[matching(found[key], str(value))]
    if not len(found):
        raise InputError(f"no run is where {', '.join(f'{key}={value}' for key, value in where.items())}")
    found.attrs = table.attrs
    return found


def _test_of(expectation: Mapping[str, Any]) -> str:
    for key in expectation:
        if key not in KNOWN:
            raise unknown_name("part of an expectation", key, KNOWN)
    tests = [key for key in expectation if key in TESTS]
    if len(tests) != 1 or ("within" in expectation) != (tests == ["is"]):
        raise InputError(f"expectation {dict(expectation)}: expected one of {', '.join(TESTS)}, and within beside is")
    return tests[0]


def _name(expectation: Mapping[str, Any]) -> str:
    if ("every" in expectation) == ("mean" in expectation):
        raise InputError(f"expectation {dict(expectation)}: expected the name of a number, as every: … or as mean: …")
    return str(expectation.get("every", expectation.get("mean")))


def _limit(table: pd.DataFrame, name: str, given: Any) -> float:
    if not isinstance(given, Mapping):
        return _number(given)
    return _number(given.get("times", 1.0)) * mean_of({"mean": name, "where": given.get("where", {})}, table)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InputError(f"{given!r} is no number; YAML wants a point in one: 1.0e-6")
    return float(given)


def _meets(test: str, number: float, limit: float, expectation: Mapping[str, Any]) -> bool:
    if test == "is":
        return abs(number - limit) <= _number(expectation["within"])
    return COMPARED[test](number, limit)


def _ordered(rows: pd.DataFrame, name: str, along: str, sign: float, slack: float) -> tuple[bool, str]:
    summary = means(rows, [name], by=[along])
    found = list(zip(summary[along], summary["mean"], strict=True))
    if len(found) < 2:
        raise InputError(f"{name} along {along}: there is one value of {along} only")
    holds = all(sign * (after - before) <= slack * abs(before) for (_, before), (_, after) in pairwise(found))
    return holds and all(math.isfinite(mean) for _, mean in found), ", ".join(f"{mean:.4g}" for _, mean in found)


def _words(expectation: Mapping[str, Any]) -> str:
    def place(where: Mapping[str, Any]) -> str:
        return "".join(f" at {key}={value}" for key, value in where.items())

    test = _test_of(expectation)
    subject = (
        f"{'every' if 'every' in expectation else 'mean'} {_name(expectation)}{place(expectation.get('where', {}))}"
    )
    given = expectation[test]
    if isinstance(given, Mapping):
        times = f"{given['times']:g} times " if "times" in given else ""
        return f"{subject} {test.replace('_', ' ')} {times}that{place(given.get('where', {}))}"
    extra = "".join(f" {key} {expectation[key]:g}" for key in ("within", "slack") if key in expectation)
    return f"{subject} {test.replace('_', ' ')} {f'{given:g}' if isinstance(given, float) else given}{extra}"


__all__ = ["Verdict", "check", "mean_of", "selected"]
