"""Columns brought to mean 0 and scale 1 by training statistics, and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.shapes import Points, Values


@dataclass(frozen=True, eq=False)
class Standardiser:
    """z = (x - mean) / scale by column, kept in float64 whatever the data's dtype.

    `x_mean`, `x_scale` are (d,), `y_mean`, `y_scale` are scalars, in the units of the source. Scale is the population
    standard deviation (divided by n) of the unweighted training rows; a constant column has scale 1. Both ways return
    the dtype they are given and are differentiable.
    """

    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor

    @classmethod
    def identity(cls, dim: int, *, device: torch.device | None = None) -> "Standardiser":
        zero = torch.zeros(dim, dtype=torch.float64, device=device)
        return cls(zero, torch.ones_like(zero), zero.new_zeros(()), zero.new_ones(()))

    @classmethod
    def of(cls, x: Points, y: Values) -> "Standardiser":
        """From training rows only."""
        x_mean, x_scale = _moments(x.double())
        y_mean, y_scale = _moments(y.double()[:, None])
        return cls(x_mean, x_scale, y_mean[0], y_scale[0])

    def do_x(self, x: Points) -> Points:
        return _affine(x, self.x_mean, self.x_scale)

    def do_y(self, y: Values) -> Values:
        return _affine(y, self.y_mean, self.y_scale)

    def undo_x(self, x: Points) -> Points:
        return (x.double() * self.x_scale.to(x.device) + self.x_mean.to(x.device)).to(x.dtype)

    def undo_y(self, y: Values) -> Values:
        return (y.double() * self.y_scale.to(y.device) + self.y_mean.to(y.device)).to(y.dtype)

    def to(self, device: torch.device | str | None) -> "Standardiser":
        return Standardiser(*(t.to(device=device) for t in (self.x_mean, self.x_scale, self.y_mean, self.y_scale)))


def _affine(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return ((x.double() - mean.to(x.device)) / scale.to(x.device)).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Column means and standard deviations; relative to the largest deviation, so that squares cannot overflow."""
    constant = (x == x[:1]).all(0)
    # The mean of equal numbers can be off by a rounding; the number itself makes the column exactly zero.
    mean = torch.where(constant, x[0], x.mean(0))
    centred = x - mean
    largest = centred.abs().amax(0)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    scale = largest * (centred / largest).square().mean(0).sqrt()
    return mean, torch.where(scale == 0, torch.ones_like(scale), scale)
