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
from gp_response.experiment import Experiment, configure, parse, unique

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
RANGE = re.compile(rf"(log:)?({NUMBER})\.\.({NUMBER})")
MOST_VALUES = 1_000_000  # of one parameter; that many are a slip of the pen


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
        """Every combination once, the last axis fastest."""
        values = [self._listed(name, "grid") for name in self.axes]
        return unique(dict(zip(self.axes, row, strict=True)) for row in itertools.product(*values))

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
        return axis


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
        given: by parameter: text as on the command line ("rbf,matern32", "0..4", "1e-4..1", "log:1e-4..1"), a value, a list,
            array or `range` of values, a `Range`, or {"low": …, "high": …, "log": …}. `a..b` is every integer for an integer
            parameter, else a range; "all" is every value of a parameter whose annotation is a Literal of them.

    Raises:
        InputError: unknown parameters, values of the wrong type.
    """
    for name in given:
        if name not in experiment.defaults:
            raise unknown_name(f"configuration key of {experiment.name}", name, experiment.defaults)
    return Space({name: _axis(experiment, name, what) for name, what in given.items()})


def assignments(words: Sequence[str]) -> dict[str, str]:
    """`["kernel=rbf,matern32", "seed=0..4"]` as texts by parameter."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not of the form key=values; write for example kernel=rbf,matern32 seed=0..4")
        if name in found:
            raise InputError(
                f"{name} is given twice, as {found[name]} and as {text}; write {name}={found[name]},{text} for both"
            )
        found[name] = text
    return found


def _axis(experiment: Experiment, name: str, what: Any) -> Axis:
    if isinstance(what, str):
        return _from_text(experiment, name, what)
    if isinstance(what, Range):
        what = {"low": what.low, "high": what.high, "log": what.log}
    if isinstance(what, Mapping) and not _takes_mappings(experiment.hints[name]):
        return _range(experiment, name, what)
    if isinstance(what, list | tuple | range | np.ndarray):
        if not len(what):
            raise InputError(f"{name} has no values; give at least one")
        return tuple(_value(experiment, name, value) for value in what)
    return (_value(experiment, name, what),)


def _value(experiment: Experiment, name: str, value: Any) -> Any:
    """One value of a list or file; YAML takes 1e-4, which has no point, for text."""
    try:
        return configure(experiment, {name: value})[name]
    except InputError:
        if not isinstance(value, str):
            raise
        return parse(experiment, [f"{name}={value}"])[name]


def _takes_mappings(hint: Any) -> bool:
    return hint is dict or any(
        _takes_mappings(part) for part in (typing.get_origin(hint), *typing.get_args(hint)) if part
    )


def _range(experiment: Experiment, name: str, what: Mapping[str, Any]) -> Range:
    if not {"low", "high"} <= what.keys() <= {"low", "high", "log"} or not isinstance(what.get("log", False), bool):
        raise InputError(
            f"{name} is {dict(what)}; expected a value, a list, or {{low: …, high: …}} with log: true or without"
        )
    low, high = (_value(experiment, name, what[end]) for end in ("low", "high"))
    if not (_is_number(low) and _is_number(high)):
        raise InputError(f"{name} is no number, and has no range from {low!r} to {high!r}; list its values")
    return Range(low, high, what.get("log", False), isinstance(low, int))


def _from_text(experiment: Experiment, name: str, text: str) -> Axis:
    if text == "all" and (every := _every(experiment.hints[name])):
        return every
    words = pieces(text)
    if len(words) == 1 and (found := _ends(experiment, name, words[0])):
        low, high, log = found
        if log or not isinstance(low, int):
            return Range(low, high, log, isinstance(low, int))
    values: list[Any] = []
    for piece in words:
        values += _values(experiment, name, piece)
    return tuple(values)


def _ends(experiment: Experiment, name: str, piece: str) -> tuple[Any, Any, bool] | None:
    """The ends of a range of numbers, and whether it is logarithmic; text may well have two points in it."""
    found = RANGE.fullmatch(piece)
    if not found:
        return None
    low, high = (parse(experiment, [f"{name}={end}"])[name] for end in found.group(2, 3))
    return (low, high, bool(found.group(1))) if _is_number(low) and _is_number(high) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _every(hint: Any) -> tuple[Any, ...]:
    """All values of a Literal that has no "all" of its own."""
    values = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return () if "all" in values else values


def _values(experiment: Experiment, name: str, piece: str) -> list[Any]:
    found = _ends(experiment, name, piece)
    if not found:
        return [parse(experiment, [f"{name}={piece}"])[name]]
    low, high, log = found
    if log or not isinstance(low, int):
        raise InputError(f"{name}={piece} is a range among values; give a range alone, or values only")
    if high < low:
        raise InputError(f"{name}={piece} is empty; write the smaller number first")
    if high - low >= MOST_VALUES:
        raise InputError(
            f"{name}={piece} has {high - low + 1} values; list fewer, or search random on {name}=log:{piece}"
        )
    return list(range(low, high + 1))


def pieces(text: str) -> list[str]:
    """The text cut at commas outside of brackets and quotes, so that lists stay whole. Raises InputError for an empty piece."""
    found, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == '"'
        depth += 0 if quoted else (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0 and not quoted:
            found.append("")
        else:
            found[-1] += letter
    found = [piece.strip() for piece in found]
    if len(found) > 1 and "" in found:
        raise InputError(f'{text!r} has an empty value; leave out the comma, or write "" for a text without letters')
    return found


__all__ = ["Range", "Space", "assignments", "pieces", "read_space"]
