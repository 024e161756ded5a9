"""Labelled rows cut into batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs `x` and labels `y` of any shape with rows first, and `weights` ρ (n,)."""

    x: Tensor
    y: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, where: Any) -> "Rows":
        return Rows(self.x[where], self.y[where], self.weights[where])

    def batches(self, size: int) -> "Iterator[Rows]":
        """Consecutive rows, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def weigh(self, u: Tensor) -> Tensor:
        """ρ_i times the i-th row of u (t, n, …)."""
        return u * self.weights.reshape(-1, *(1,) * (u.ndim - 2))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Rows":
        """On a device, numbers that are not integers in this type."""
        return Rows(
            *(t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in (self.x, self.y, self.weights))
        )


Labelled: TypeAlias = Dataset | tuple[Tensor, Tensor] | Rows


def labelled_rows(data: Labelled) -> Rows:
    """The training rows of a Dataset with their weights, or a pair (x, y) with weights one; rows as they are.

    Raises:
        InputError: no data, a pair of different lengths, inputs that are not finite, or a Dataset whose observations have noise
            of their own.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, Dataset):
        if data.train.noise is not None:
            raise InputError(
                "the data's rows have noise of their own; a network takes one likelihood: fold it into weights"
            )
        return Rows(data.train.x, data.train.y, data.train.weights)
    if not (isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(t, Tensor) for t in data)):
        raise InputError(f"got data of type {type(data).__name__}; expected a Dataset or a pair (x, y) of tensors")
    x, y = data
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise InputError(
            f"x has shape {tuple(x.shape)}, y {tuple(y.shape)}; expected the same number of rows, one or more"
        )
    refuse_infinite("x", x)
    return Rows(x, y, torch.ones(len(x), dtype=torch.float64, device=x.device))


def refuse_infinite(name: str, values: Tensor) -> None:
    """Raise InputError for rows of `values` that are not finite."""
    finite = values.isfinite()
    if not bool(finite.all()):
        row = int((~finite).reshape(len(values), -1).any(dim=1).nonzero()[0])
        raise InputError(f"{name}: row {row} is not finite; drop or replace such values")


__all__ = ["Labelled", "Rows", "labelled_rows", "refuse_infinite"]
