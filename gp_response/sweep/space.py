"""The space that a sweep searches: values, or a range, for each parameter of an experiment."""

import itertools
import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gp_response.errors import InputError, unknown_name
from gp_response.experiment import Experiment, configure, parse

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; `log` spreads them evenly in their logarithm, `whole` keeps integers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"range {self.low}..{self.high}: expected two finite numbers, the smaller one first")
        if self.log and self.low <= 0:
            raise InputError(f"range log:{self.low}..{self.high}: a logarithmic range needs positive ends")

    def at(self, share: float) -> float | int:
        """The number at a share of the way, in [0, 1]."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        found = low + share * (high - low)
        found = min(max(math.exp(found) if self.log else found, self.low), self.high)
        return round(found) if self.whole else found

    def share(self, value: float) -> float:
        """Inverse of `at`."""
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (here - low) / (high - low)


Axis = Range | tuple[Any, ...]


@dataclass(frozen=True)
class Space:
    """Axes by the names of parameters; what is not named stays at its default."""

    axes: Mapping[str, Axis]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last axis fastest."""
        values = [self._listed(name, "grid") for name in self.axes]
        return [dict(zip(self.axes, row, strict=True)) for row in itertools.product(*values)]

    def zipped(self) -> list[dict[str, Any]]:
        """The k-th value of every axis together; an axis of one value keeps it."""
        values = {name: self._listed(name, "zip") for name in self.axes}
        lengths = {len(found) for found in values.values() if len(found) > 1} or {1}
        if len(lengths) > 1:
            counts = ", ".join(f"{name} {len(found)}" for name, found in values.items())
            raise InputError(f"zip needs as many values of each parameter (or one), got {counts}")
        count = lengths.pop()
        return [{name: found[k % len(found)] for name, found in values.items()} for k in range(count)]

    def random(self, count: int, seed: int) -> list[dict[str, Any]]:
        """So many points drawn evenly and independently, without repetition; all there are where there are not so many."""
        generator = np.random.default_rng(seed)
        found: list[dict[str, Any]] = []
        for _ in range(50 * count):
            point = self.point(generator.random(len(self.axes)))
            if point not in found:
                found.append(point)
            if len(found) == count:
                break
        return found

    def point(self, shares: Sequence[float] | np.ndarray) -> dict[str, Any]:
        """The configuration at a point of the unit cube, one share an axis."""
        return {name: _at(axis, float(share)) for (name, axis), share in zip(self.axes.items(), shares, strict=True)}

    def encode(self, config: Mapping[str, Any]) -> list[float]:
        """A configuration as numbers in [0, 1]: ranges and ordered values by their place, others one-hot."""
        code: list[float] = []
        for name, axis in self.axes.items():
            code += _encode(axis, config[name])
        return code

    def _listed(self, name: str, search: str) -> tuple[Any, ...]:
        axis = self.axes[name]
        if isinstance(axis, Range):
            raise InputError(
                f"{name} is a range, of which {search} cannot take every value; list values, or search random"
            )
        return _unique(axis) if search == "grid" else axis  # a zip repeats values


def _at(axis: Axis, share: float) -> Any:
    return axis.at(share) if isinstance(axis, Range) else axis[min(int(share * len(axis)), len(axis) - 1)]


def _encode(axis: Axis, value: Any) -> list[float]:
    if isinstance(axis, Range):
        return [axis.share(value)]
    if len(axis) == 1:
        return []
    if all(isinstance(item, int | float) and not isinstance(item, bool) for item in axis):
        return [sorted(axis).index(value) / (len(axis) - 1)]
    return [float(value == item) for item in axis]


def read_space(experiment: Experiment, given: Mapping[str, Any]) -> Space:
    """Axes from what a command line or file says of each parameter.

    Args:
        given: by parameter: text as on the command line ("rbf,matern32", "0..4", "1e-4..1", "log:1e-4..1"), a value, a list of
            values, or {"low": …, "high": …, "log": …}. `a..b` is every integer for an integer parameter, else a range; "all" is
            every value of a parameter whose annotation is a Literal of them.

    Raises:
        InputError: unknown parameters, values of the wrong type.
    """
    for name in given:
        if name not in experiment.defaults:
            raise unknown_name(f"configuration key of {experiment.name}", name, experiment.defaults)
    return Space({name: _axis(experiment, name, what) for name, what in given.items()})


def assignments(words: Sequence[str]) -> dict[str, str]:
    """`["kernel=rbf,matern32", "seed=0..4"]` as texts by parameter."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not of the form key=values; write for example kernel=rbf,matern32 seed=0..4")
        found[name] = text
    return found


def _axis(experiment: Experiment, name: str, what: Any) -> Axis:
    if isinstance(what, str):
        return _from_text(experiment, name, what)
    if isinstance(what, Mapping):
        return _range(experiment, name, **what)
    if isinstance(what, list | tuple):
        if not what:
            raise InputError(f"{name} has no values; give at least one")
        return tuple(configure(experiment, {name: value})[name] for value in what)
    return (configure(experiment, {name: what})[name],)


def _range(experiment: Experiment, name: str, *, low: float, high: float, log: bool = False) -> Range:
    whole = isinstance(configure(experiment, {name: low})[name], int)
    low, high = (configure(experiment, {name: end})[name] for end in (low, high))
    return Range(low, high, log, whole)


def _from_text(experiment: Experiment, name: str, text: str) -> Axis:
    if text == "all" and (every := _every(experiment.hints[name])):
        return every
    pieces = _pieces(text)
    if len(pieces) == 1 and (found := RANGE.fullmatch(pieces[0])):
        low, high = (parse(experiment, [f"{name}={end}"])[name] for end in found.group(2, 3))
        if found.group(1) or not isinstance(low, int):
            return Range(low, high, bool(found.group(1)), isinstance(low, int))
    values: list[Any] = []
    for piece in pieces:
        values += _values(experiment, name, piece)
    return tuple(values)


def _every(hint: Any) -> tuple[Any, ...]:
    """All values of a Literal that has no "all" of its own."""
    values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return () if "all" in values else values


def _values(experiment: Experiment, name: str, piece: str) -> list[Any]:
    found = RANGE.fullmatch(piece)
    if not found:
        return [parse(experiment, [f"{name}={piece}"])[name]]
    low, high = (parse(experiment, [f"{name}={end}"])[name] for end in found.group(2, 3))
    if not isinstance(low, int) or found.group(1):
        raise InputError(f"{name}={piece} is a range among values; give a range alone, or values only")
    if high < low:
        raise InputError(f"{name}={piece} is empty; write the smaller number first")
    return list(range(low, high + 1))


def _pieces(text: str) -> list[str]:
    """The text cut at commas outside of brackets and quotes, so that lists stay whole."""
    return [piece.strip() for piece in re.findall(r'(?:\[[^\]]*\]|"[^"]*"|\([^)]*\)|[^,])+', text)] or [""]


def _unique(values: Sequence[Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return tuple(found)


__all__ = ["Range", "Space", "assignments", "read_space"]
