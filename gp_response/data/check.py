"""Arrays, tensors and frames made into clean tensors, or refused in one line that names the column and the row.

Rows are counted from 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from gp_response.errors import DataError

ArrayLike = Any  # torch.Tensor, numpy.ndarray, pandas.DataFrame or Series, nested lists
FLOATS = (torch.float32, torch.float64)
ADVICE = "drop or replace such values, or read the table with gp_response.load(..., missing='drop')"


def points(value: ArrayLike, what: str, *, names: Sequence[str] | None = None) -> tuple[Tensor, tuple[str, ...]]:
    """Inputs as a finite (n, d) tensor of their own, and the d column names; (n,) is read as (n, 1)."""
    if isinstance(value, pd.DataFrame):
        names = [str(c) for c in value.columns] if names is None else names
    x = _real(value, what)
    x = x[:, None] if x.dim() == 1 else x
    if x.dim() != 2:
        raise DataError(f"{what} has shape {tuple(x.shape)}; expected (rows, columns)")
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise DataError(f"{what} is empty (shape {tuple(x.shape)}); expected at least one row and one column")
    found = column_names(names, x.shape[1], what)
    _finite(x, what, found)
    return x, found


def values(value: ArrayLike, what: str, *, rows: int, of: str) -> Tensor:
    """One finite number a row as an (n,) tensor of its own; (n, 1) is flattened."""
    y = _real(value, what)
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
    if y.dim() != 1:
        raise DataError(f"{what} has shape {tuple(y.shape)}; expected one number a row, shape ({rows},)")
    if len(y) != rows:
        raise DataError(f"{what} has {len(y)} rows but {of} has {rows}; give one value for every row")
    _finite(y[:, None], what, None)
    return y


def arrays(value: ArrayLike, what: str, *, rows: int, of: str) -> Tensor:
    """An array of finite numbers a row as an (n, ...) tensor of its own."""
    y = _real(value, what)
    if y.dim() < 1 or len(y) != rows or y.numel() == 0:
        raise DataError(f"{what} has shape {tuple(y.shape)} but {of} has {rows} rows; give labels for every row")
    _finite(y.reshape(len(y), -1), what, None)
    return y


def sample_weights(value: ArrayLike | None, *, like: Tensor) -> Tensor:
    """Non-negative training weights, not all zero; ones where none are given."""
    if value is None:
        return torch.ones(len(like), dtype=like.dtype, device=like.device)
    weights = values(value, "weights", rows=len(like), of="x").to(like)
    negative = (weights < 0).nonzero()
    if len(negative):
        row = int(negative[0, 0])
        raise DataError(f"weights: row {row} is {float(weights[row]):g}, a weight must be >= 0 (0 leaves a row out)")
    if not bool((weights > 0).any()):
        raise DataError("weights are all zero, so there is nothing to learn from; at least one must be positive")
    return weights


def known_noise(value: ArrayLike | None, *, like: Tensor) -> Tensor | None:
    """Positive variances of the training observations; None where none are given."""
    if value is None:
        return None
    noise = values(value, "noise", rows=len(like), of="x").to(like)
    wrong = (noise <= 0).nonzero()
    if len(wrong):
        row = int(wrong[0, 0])
        raise DataError(
            f"noise: row {row} is {float(noise[row]):g}, a variance must be > 0 (weight 0 leaves a row out)"
        )
    return noise


def column_names(names: Sequence[str] | None, width: int, what: str) -> tuple[str, ...]:
    """The names given, checked against the width; x0, x1, ... where there are none."""
    if names is None:
        return tuple(f"x{j}" for j in range(width))
    found = tuple(str(name) for name in names)
    if len(found) != width:
        raise DataError(f"{len(found)} names for the {width} columns of {what}; give one name a column")
    refuse_duplicates(found)
    return found


def refuse_duplicates(names: Sequence[str]) -> None:
    """Two columns of one name could not be told apart in any answer."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"column name {name!r} occurs more than once; rename the columns so that each is unique")
        seen.add(name)


def not_finite(value: float) -> str:
    """The name of a value that is not a finite number, as messages print it."""
    return "missing (nan)" if np.isnan(value) else "infinite"


def _finite(x: Tensor, what: str, names: Sequence[str] | None) -> None:
    bad = ~torch.isfinite(x)
    if not bool(bad.any()):
        return
    # Of the first bad column, because one broken column is the usual cause.
    column = int(bad.any(0).nonzero()[0, 0])
    row = int(bad[:, column].nonzero()[0, 0])
    where = f"row {row}" if names is None else f"column {names[column]!r}, row {row}"
    raise DataError(f"{what}: {where} is {not_finite(float(x[row, column]))} ({int(bad.sum())} in all); {ADVICE}")


def _real(value: ArrayLike, what: str) -> Tensor:
    """A dense float32 (only for a float32 tensor) or float64 tensor that shares no memory with the caller's."""
    if isinstance(value, Tensor):
        if value.is_complex():
            raise DataError(f"{what} is complex ({value.dtype}); give real and imaginary parts as separate columns")
        if value.layout is not torch.strided:
            raise DataError(f"{what} is a sparse tensor; give {what}.to_dense()")
        return value.detach().to(value.dtype if value.dtype in FLOATS else torch.float64, copy=True)
    if isinstance(value, pd.DataFrame):
        columns = [_column(value.iloc[:, j], f"{what}: column {str(c)!r}") for j, c in enumerate(value.columns)]
        return torch.from_numpy(np.stack(columns, axis=1) if columns else np.empty((len(value), 0)))
    if isinstance(value, pd.Series):
        return torch.from_numpy(_column(value, what))
    return torch.from_numpy(_array(value, what))


def _array(value: ArrayLike, what: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise DataError(f"{what} has rows of different lengths; expected a rectangular array") from None
    if array.dtype.kind == "c":
        raise DataError(f"{what} is complex ({array.dtype}); give real and imaginary parts as separate columns")
    if array.dtype.kind in "biuf":
        return array.astype(np.float32 if array.dtype == np.float32 else np.float64)
    if array.dtype.kind in "mM":
        raise DataError(f"{what} holds dates ({array.dtype}); convert them to numbers, or use gp_response.load(frame)")
    if array.ndim not in (1, 2):
        raise DataError(f"{what} is a {type(value).__name__}; expected an array, tensor or frame of numbers")
    rows = array.reshape(len(array), -1)
    columns = [_column(pd.Series(rows[:, j]), f"{what}: column {j}") for j in range(rows.shape[1])]
    return np.stack(columns, axis=1).reshape(array.shape) if columns else np.empty(array.shape)


def _column(series: pd.Series, where: str) -> np.ndarray:
    """One column as float64; the first cell that is not a real number is named."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "cmM":
        raise DataError(f"{where} has type {series.dtype}; expected real numbers (gp_response.load(frame) reads dates)")
    out = np.empty(len(series))
    for row, cell in enumerate(series) if series.dtype.kind not in "biuf" else ():
        try:
            out[row] = np.nan if cell is pd.NA or cell is None else float(cell)
        except (TypeError, ValueError):
            advice = "encode it as numbers, or let gp_response.load(frame, target=...) do so"
            raise DataError(f"{where}, row {row}: {str(cell)[:40]!r} is not a number; {advice}") from None
    return out if series.dtype.kind not in "biuf" else series.to_numpy(np.float64, na_value=np.nan, copy=True)
