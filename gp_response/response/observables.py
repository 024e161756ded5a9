"""The observables: value, loss, variance, contrast, average."""

import math
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.response.observable import Marginals, Observable, as_labels, as_points


class Value(Observable):
    """The field at each point, `f(x_a)`; see `value`."""

    def __init__(self, x: Any):
        self.points = as_points(x, "value")

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return mean

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return field

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        return by_mean


class Loss(Observable):
    """The negative log likelihood of a label at each point; see `loss`."""

    unit = "nat"

    def __init__(self, x: Any, y: Any):
        self.points = as_points(x, "loss")
        self.labels = as_labels(y, self.points, "loss")

    def local_data(self) -> tuple[Tensor, ...]:
        return (self.labels,)

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        (label,) = data
        return 0.5 * ((2.0 * math.pi * noise).log() + ((label - mean) ** 2 + variance) / noise)

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return 0.5 * ((2.0 * math.pi * at.noise).log() + (self.labels - field) ** 2 / at.noise)

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        residual = (self.labels - at.mean)[:, None]
        return (by_mean * (by_mean - 2.0 * residual) + by_variance) / (2.0 * at.noise)


class Variance(Observable):
    """The variance of the field at each point; see `variance`."""

    unit = "y^2"

    def __init__(self, x: Any):
        self.points = as_points(x, "variance")

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return variance

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return (field - at.mean) ** 2

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        return by_variance


class Contrast(Value):
    """Differences of the field, `f(x_a) - f(x'_a)`; see `contrast`."""

    def __init__(self, x: Any, other: Any):
        x, other = as_points(x, "contrast"), as_points(other, "contrast")
        if x.shape != other.shape:
            raise InputError(
                f"contrast got points of shapes {tuple(x.shape)} and {tuple(other.shape)}; expected equal shapes"
            )
        one = torch.eye(len(x), dtype=x.dtype, device=x.device)
        self.points, self.weights = torch.cat([x, other.to(x)]), torch.cat([one, -one], dim=1)


class Average(Value):
    """A weighted mean of the field over points; see `average`."""

    def __init__(self, x: Any, weights: Any = None):
        self.points = as_points(x, "average")
        given = torch.ones(len(self.points)) if weights is None else torch.as_tensor(weights)
        given = given.to(self.points)
        if given.shape != self.points.shape[:1] or not bool(torch.isfinite(given).all()):
            raise InputError(
                f"average got weights of shape {tuple(given.shape)}; expected ({len(self.points)},) finite numbers"
            )
        # Unweighted, the mean over the points; weights are taken as they are, so that an integral keeps its measure.
        self.weights = (given / len(given) if weights is None else given)[None]


def value(x: Any) -> Value:
    """The prediction `f(x_a)`: one observable a point of x (p, d). Unit: that of `data.train.y`."""
    return Value(x)


def loss(x: Any, y: Any) -> Loss:
    """The negative log likelihood `½ log 2πσ² + (y_a - f(x_a))²/2σ²` of labels y (p,) at x (p, d). Unit: nats."""
    return Loss(x, y)


def variance(x: Any) -> Variance:
    """The variance of the field `⟨(f(x_a) - ⟨f(x_a)⟩)²⟩` at x (p, d), noise excluded. Unit: that of y squared."""
    return Variance(x)


def contrast(x: Any, other: Any) -> Contrast:
    """The difference `f(x_a) - f(x'_a)` of the field between x (p, d) and other (p, d), pair by pair."""
    return Contrast(x, other)


def average(x: Any, weights: Any = None) -> Average:
    """`Σ_a w_a f(x_a)`, one observable. weights (p,) are used as given; None takes the mean (w = 1/p)."""
    return Average(x, weights)


__all__ = ["Average", "Contrast", "Loss", "Value", "Variance", "average", "contrast", "loss", "value", "variance"]
