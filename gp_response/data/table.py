"""A DataFrame with columns of any kind into numbers; what was dropped or encoded goes into the notes."""

import difflib

import numpy as np
import pandas as pd

from gp_response.data.check import refuse_duplicates
from gp_response.data.columns import Column, Missing, levels, numbers, read_column
from gp_response.data.source import Table
from gp_response.errors import DataError, InputError


def frame_table(frame: pd.DataFrame, *, target: str | None, missing: Missing = "refuse") -> Table:
    """Every column but `target` as inputs, in their order.

    Booleans are 0 and 1; dates are days since 1970-01-01 UTC; text with at most 32 levels becomes one column
    `name=level` a level; columns with one value only are dropped and noted. missing="drop" leaves out rows with a
    missing or unreadable cell. Raises DataError naming column and row (from 0) for anything else.
    """
    if missing not in ("refuse", "drop"):
        raise InputError(f"missing={missing!r}; expected 'refuse' or 'drop'")
    frame = frame.set_axis([str(c) for c in frame.columns], axis=1)
    refuse_duplicates(list(frame.columns))
    target = _target_name(frame, target)
    notes: list[str] = []
    read = [read_column(frame[name], name, missing=missing) for name in frame.columns if name != target]
    goal = _target(read_column(frame[target], target, missing=missing))
    rows = _complete([goal, *read], missing, notes)
    if len(rows) < 2:
        raise DataError(f"{len(rows)} of {len(frame)} rows can be used; expected at least two")
    goal, *read = (Column(c.name, c.values.iloc[rows].reset_index(drop=True), c.kind) for c in (goal, *read))
    y = goal.values.to_numpy(np.float64)
    if bool((y == y[0]).all()):
        raise DataError(f"target {target!r} is {y[0]:g} in every row; there is nothing to learn, choose another target")
    features = _features(read, notes)
    return Table(features.to_numpy(np.float64), y, tuple(features.columns), target, rows, tuple(notes))


def _target_name(frame: pd.DataFrame, target: str | None) -> str:
    names = list(frame.columns)
    if target is None:
        raise InputError(f"target=... is needed, the column to predict; columns: {', '.join(names[:12])}")
    if str(target) not in names:
        near = difflib.get_close_matches(str(target), names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"columns: {', '.join(names[:12])}"
        raise DataError(f"no column {target!r} to predict; {hint}")
    return str(target)


def _target(column: Column) -> Column:
    if column.kind == "number":
        return column
    present = column.values.dropna()
    got = f"{str(present.iloc[0])[:40]!r} in row {present.index[0]}" if len(present) else "nothing but missing values"
    kind = "dates" if column.kind == "date" else "text"
    raise DataError(
        f"target {column.name!r} holds {kind} ({got}); expected numbers, encode it or choose another target"
    )


def _complete(columns: list[Column], missing: Missing, notes: list[str]) -> np.ndarray:
    """Row numbers without a missing cell."""
    gaps = {c.name: c.values.isna().to_numpy(bool) for c in columns if c.values.isna().any()}
    complete = ~np.logical_or.reduce([np.zeros(len(columns[0].values), bool), *gaps.values()])
    if gaps and missing == "refuse":
        name, mask = next(iter(gaps.items()))
        where = f"column {name!r}, row {int(mask.argmax())} is missing ({int(mask.sum())} in this column"
        advice = "fill them, or pass missing='drop' to leave those rows out"
        raise DataError(f"{where}, {int((~complete).sum())} rows in all); {advice}")
    if gaps:
        which = ", ".join(f"{name!r} {int(mask.sum())}" for name, mask in gaps.items())
        notes.append(f"{int((~complete).sum())} of {len(complete)} rows dropped: missing or unreadable in {which}")
    return complete.nonzero()[0]


def _features(columns: list[Column], notes: list[str]) -> pd.DataFrame:
    """Numbers for every input; columns with one value only say nothing and are left out."""
    parts = []
    for column in columns:
        if column.values.nunique() < 2:
            notes.append(f"column {column.name!r} dropped: the same value in every row")
            continue
        found = levels(column)
        parts.append(numbers(column, levels=found))
        if column.kind == "category":
            notes.append(f"column {column.name!r} encoded: one column for each of its {len(found)} levels")
        if column.kind == "date":
            notes.append(f"column {column.name!r} read as days (a date: since 1970-01-01 UTC)")
    if not parts:
        raise DataError("no input column is left beside the target; expected at least one that varies")
    features = pd.concat(parts, axis=1)
    refuse_duplicates(list(features.columns))
    return features
