"""The mean of the field before the data: a number, or a module of the points. Neither is trained."""

import copy
from typing import Any

from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels.casting import call_in_dtype_of


def as_prior_mean(mean: Any) -> float | nn.Module:
    """A float, or a copy of a module that asks for no gradients."""
    if isinstance(mean, nn.Module):
        return copy.deepcopy(mean).requires_grad_(False)
    return float(mean)


def prior_mean_at(mean: float | nn.Module, x: Tensor) -> Tensor:
    """The prior mean at x (p, d), (p,), in the dtype of x."""
    if not isinstance(mean, nn.Module):
        return x.new_full(x.shape[:1], mean)
    value = call_in_dtype_of(x, mean, lambda module, points: module(points), x)
    if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{type(mean).__name__} maps points {tuple(x.shape)} to {got}; a mean must be ({len(x)},)")
    return value


__all__ = ["as_prior_mean", "prior_mean_at"]
