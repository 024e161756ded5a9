"""Samples with several labels, one row a label: the input, and in the last columns the place of the label among the sample's.

A model of several outputs is then a model of one, that reads the output which a point names, and everything that is said of
rows holds for labels; `Split.sample` says which rows stand or fall together.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.data import check
from gp_response.data.build import assemble, empty_like
from gp_response.data.dataset import Dataset, Split
from gp_response.errors import DataError, InputError


class Samples(NamedTuple):
    """Samples as a network takes them: inputs x (n, d), labels y (n, *shape), weights (n,), and which labels count, as y."""

    x: Tensor
    y: Tensor
    weights: Tensor
    given: Tensor


def with_places(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Points x (n, d) once for each place in an array of this shape, (n Q, d + q), the place in the last columns."""
    every = torch.tensor(list(itertools.product(*map(range, shape))), dtype=x.dtype, device=x.device)
    every = every.reshape(prod(shape), len(shape))
    return torch.cat([x.repeat_interleave(len(every), dim=0), every.repeat(len(x), 1)], dim=1)


def same_labels(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes of a sample's labels are one, but for last axes of length one."""
    return _without_ones(one) == _without_ones(other)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def by_label(
    x: check.ArrayLike, y: check.ArrayLike, *, shape: tuple[int, ...], names: Sequence[str],
    weights: check.ArrayLike | None = None, ignored: float | None = None,
) -> Dataset:  # fmt: skip
    """Samples x (n, d) with labels y (n, *shape) as a Dataset of one row a label, not standardised.

    Args:
        shape: of a sample's labels. names: of the columns that say the place, one for each axis.
        weights: of the samples, (n,).
        ignored: a label that is none: its row has weight 0 and belongs to no sample.

    Raises:
        DataError: as `dataset`, naming the sample; labels of another shape.
    """
    points, columns = check.points(x, "x")
    labels = check.arrays(y, "y", rows=len(points), of="x").to(points)
    if not same_labels(labels.shape[1:], shape):
        raise DataError(f"y has shape {tuple(labels.shape)}; expected {(len(points), *shape)}")
    flat = labels.flatten()
    given = torch.ones_like(flat, dtype=torch.bool) if ignored is None else flat != ignored
    _refuse_none(given.reshape(len(points), -1), "y")
    each = torch.arange(len(points), device=points.device).repeat_interleave(prod(shape))
    own = check.sample_weights(weights, like=points[:, 0])[each]
    train = Split(
        with_places(points, shape), torch.where(given, flat, 0.0), torch.where(given, own, 0.0), each,
        sample=torch.where(given, each, -1),
    )  # fmt: skip
    found = assemble(
        train, empty_like(train), names=(*columns, *names), target="y", standardise=False, dtype=points.dtype
    )
    return replace(found, label_shape=shape)


def _refuse_none(given: Tensor, what: str) -> None:
    empty = torch.nonzero(~given.any(dim=1)).flatten()
    if len(empty):
        raise DataError(f"{what}: sample {int(empty[0])} has no label at all; leave it out")


def samples_of(data: Dataset) -> Samples:
    """The training samples, whatever the number of their labels.

    Raises:
        InputError: samples that lack labels, or whose labels have weights of their own.
    """
    train, shape = data.train, data.label_shape
    if train.sample is None:
        return Samples(train.x, train.y, train.weights, torch.ones_like(train.y, dtype=torch.bool))
    x, n = train.x[:: prod(shape), : data.input_dim], len(train) // prod(shape)
    if not torch.equal(with_places(x, shape), train.x):
        raise InputError(
            f"samples lack some of their labels, of shape {shape}; give all of them, or refit posterior.head"
        )
    given, weights = (part.reshape(n, -1) for part in (train.sample >= 0, train.weights))
    own = weights.amax(dim=1)
    if bool((weights != torch.where(given, own[:, None], 0.0)).any()):
        raise InputError("labels of one sample have different weights; give a sample one weight")
    return Samples(x, train.y.reshape(n, *shape), own, given.reshape(n, *shape))


def rows_by_sample(train: Split) -> list[tuple[Tensor, Tensor]]:
    """Samples (k,) that have q labels each, and their rows (k, q), for every q there is."""
    at, which = train.rows_of(torch.arange(train.samples, device=train.x.device))
    count, found = which.bincount(minlength=train.samples), []
    for q in count.unique().tolist():
        mine = torch.nonzero(count == q).flatten()
        found.append((mine, at[torch.isin(which, mine)].reshape(len(mine), q)))
    return found


def over_samples(train: Split, values: Tensor) -> Tensor:
    """Numbers of rows (..., n) summed over those of each sample, (..., samples)."""
    if train.sample is None:
        return values
    given = train.sample >= 0
    total = values.new_zeros(*values.shape[:-1], train.samples)
    return total.index_add(-1, train.sample[given], values[..., given])


def sample_weights(train: Split) -> Tensor:
    """The weight of every sample, (samples,).

    Raises:
        InputError: labels of one sample have different weights.
    """
    if train.sample is None:
        return train.weights
    given = train.sample >= 0
    sample, each = train.sample[given], train.weights[given]
    own = each.new_zeros(train.samples).scatter_reduce(0, sample, each, "amax")
    if bool((each != own[sample]).any()):
        raise InputError("labels of one sample have different weights; give a sample one weight")
    return own


def require_one_label(data: Dataset, what: str) -> None:
    """Refuse what speaks of rows where a sample has several.

    Raises:
        InputError: samples with several labels.
    """
    if data.label_shape:
        raise InputError(
            f"{what} counts rows, and here a row is one of a sample's {prod(data.label_shape)} labels; use "
            "susceptibility or finite_response with reweight or delete, which take samples whole"
        )


__all__ = [
    "Samples", "by_label", "over_samples", "require_one_label", "rows_by_sample", "same_labels", "sample_weights", "samples_of",
    "with_places",
]  # fmt: skip
