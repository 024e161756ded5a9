"""A Dataset from arrays: checked, standardised with training statistics, cast; what is odd goes into its notes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from gp_response.data import check
from gp_response.data.dataset import Dataset, Split
from gp_response.data.standardise import Standardiser
from gp_response.errors import DataError
from gp_response.shapes import Points

Standardise = bool | Literal["x"]


def dataset(
    x: check.ArrayLike,
    y: check.ArrayLike,
    *,
    test_x: check.ArrayLike | None = None,
    test_y: check.ArrayLike | None = None,
    weights: check.ArrayLike | None = None,
    noise: check.ArrayLike | None = None,
    standardise: Standardise = True,
    names: Sequence[str] | None = None,
    target: str = "y",
) -> Dataset:
    """A Dataset from tensors, arrays, lists or numeric DataFrames.

    x (n, d) or (n,), y (n,) or (n, 1), weights (n,) >= 0 (default 1), noise (n,) > 0: the variance of each training
    observation where it is known, in the units of y squared. A float32 tensor or array x makes a float32 set, all
    else float64; the device is x's. `standardise` uses the statistics of x and y alone, never of test_x; "x" leaves
    targets as they are (for classes). Columns are called `names`, a DataFrame's own names, or x0, x1, ...; rows are
    counted from 0 in x and in test_x. Copies, so later changes of the arrays do not reach the set.

    Raises DataError, naming column and row, for shapes that do not fit, NaN, infinities, text, complex numbers,
    negative or all-zero weights, variances that are not positive, or a single row with standardise=True.
    """
    points, found = check.points(x, "x", names=names)
    targets = check.values(y, "y", rows=len(points), of="x").to(points)
    known = check.known_noise(noise, like=points)
    train = Split(points, targets, check.sample_weights(weights, like=points), _count(points), known)
    if isinstance(x, pd.DataFrame) and isinstance(test_x, pd.DataFrame) and list(x.columns) != list(test_x.columns):
        raise DataError(
            f"test_x has columns {list(test_x.columns)} but x has {list(x.columns)}; give the same, in order"
        )
    test = _test_split(test_x, test_y, points, found)
    return assemble(train, test, names=found, target=target, standardise=standardise, dtype=points.dtype)


def assemble(
    train: Split,
    test: Split,
    *,
    names: tuple[str, ...],
    target: str,
    standardise: Standardise,
    dtype: torch.dtype,
    notes: Sequence[str] = (),
) -> Dataset:
    """Checked rows in source units made into a Dataset: scaled in float64, then cast."""
    if standardise not in (True, False, "x"):
        raise DataError(f"standardise={standardise!r}; expected True, False or 'x' (inputs only)")
    scaler = Standardiser.identity(len(names), device=train.x.device)
    found = [*notes, *_repeats(train, test)]
    if standardise:
        scaler, constant = _fitted(train, names, target)
        found += constant
        if standardise == "x":
            scaler = replace(scaler, y_mean=scaler.y_mean * 0, y_scale=scaler.y_scale * 0 + 1)
    splits = [_scaled(split, scaler, dtype, name, names) for name, split in (("train", train), ("test", test))]
    return Dataset(splits[0], splits[1], names, target, scaler, tuple(found))


def empty_like(train: Split) -> Split:
    """No rows of the same width, dtype and device."""
    return Split(train.x[:0], train.y[:0], train.weights[:0], train.rows[:0])


def _test_split(test_x: check.ArrayLike, test_y: check.ArrayLike, train: Points, names: tuple[str, ...]) -> Split:
    if test_x is None and test_y is None:
        return empty_like(Split(train, train[:, 0], train[:, 0], _count(train)))
    if test_x is None or test_y is None:
        missing, given = ("test_x", "test_y") if test_x is None else ("test_y", "test_x")
        raise DataError(f"{given} came without {missing}; give both (to predict only, call posterior.mean(x))")
    # The training names, where the width allows them, so that an error in a test row names its column.
    shape: tuple[int, ...] = getattr(test_x, "shape", ())
    x, _ = check.points(test_x, "test_x", names=names if shape[1:] == (len(names),) else None)
    if x.shape[1] != train.shape[1]:
        raise DataError(f"test_x has {x.shape[1]} columns but x has {train.shape[1]}; give the same, in order")
    x = x.to(train)
    y = check.values(test_y, "test_y", rows=len(x), of="test_x").to(train)
    return Split(x, y, torch.ones_like(y), _count(x))


def _count(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


def _fitted(train: Split, names: tuple[str, ...], target: str) -> tuple[Standardiser, list[str]]:
    if len(train) < 2:
        raise DataError(f"{len(train)} training row has no spread to standardise by; pass standardise=False")
    scaler = Standardiser.of(train.x, train.y)
    for j in (~torch.isfinite(scaler.x_mean + scaler.x_scale)).nonzero().flatten().tolist():
        raise DataError(f"column {names[j]!r} has values too large to standardise in float64; rescale the column")
    if not bool(torch.isfinite(scaler.y_mean + scaler.y_scale)):
        raise DataError(f"target {target!r} has values too large to standardise in float64; rescale it")
    constant = (train.x == train.x[:1]).all(0).nonzero().flatten().tolist()
    notes = [f"column {names[j]!r} is constant on the training rows: centred, scale 1" for j in constant]
    if bool((train.y == train.y[:1]).all()):
        notes.append(f"target {target!r} is constant on the training rows: centred, scale 1")
    return scaler, notes


def _scaled(split: Split, scaler: Standardiser, dtype: torch.dtype, name: str, names: tuple[str, ...]) -> Split:
    out = replace(split, x=scaler.do_x(split.x).to(dtype), y=scaler.do_y(split.y).to(dtype))
    for j in (~torch.isfinite(out.x)).any(0).nonzero().flatten().tolist():
        row = int((~torch.isfinite(out.x[:, j])).nonzero()[0, 0])
        raise DataError(f"{name} column {names[j]!r}, row {row} overflows {dtype} once standardised; use float64")
    if not bool(torch.isfinite(out.y).all()):
        raise DataError(f"{name} target overflows {dtype} once standardised; use float64")
    return replace(out, weights=split.weights.to(dtype), noise=_scaled_noise(split, scaler, dtype))


def _scaled_noise(split: Split, scaler: Standardiser, dtype: torch.dtype) -> Tensor | None:
    if split.noise is None:
        return None
    noise = (split.noise.double() / scaler.y_scale.to(split.noise.device) ** 2).to(dtype)
    if not bool(((noise > 0) & torch.isfinite(noise)).all()):
        raise DataError(f"noise is not positive and finite in {dtype} once standardised; use float64")
    return noise


def _repeats(train: Split, test: Split) -> Iterator[str]:
    """Repeated inputs are allowed, but make a kernel matrix singular, and across the split they leak."""
    # Hashes of rows; pandas takes -0 and 0 for the same.
    hashes = [pd.util.hash_pandas_object(pd.DataFrame(s.x.cpu().numpy()), index=False) for s in (train, test)]
    repeated = hashes[0].duplicated()
    if repeated.any():
        same = int(pd.DataFrame({"x": hashes[0], "y": train.y.cpu().numpy()}).duplicated().sum())
        yield f"{int(repeated.sum())} training rows repeat the inputs of an earlier one, {same} of them its target too"
    if shared := int(hashes[1].isin(hashes[0]).sum()):
        yield f"{shared} of {len(test)} test rows have the inputs of a training row"
