"""The arc-cosine kernels of infinitely wide networks."""

import math
from functools import partial
from typing import Any

import torch
from gpytorch.constraints import Interval
from gpytorch.priors import Prior
from torch import Tensor

from gp_response.errors import InputError
from gp_response.kernels.base import Kernel
from gp_response.kernels.distance import squared_distance
from gp_response.kernels.maths import sqrt, with_slope
from gp_response.kernels.parameters import Value
from gp_response.kernels.points import Coordinates


class ArcCosine(Kernel):
    """|u|^p |v|^p J_p(θ) / π with u = (x / ℓ, √bias) and θ the angle between u and v; Cho & Saul (2009) (3)-(6).

    order: p = 0 (steps), 1 (rectified linear units) or 2 (their squares).
    bias: variance of the first layer's bias, positive. Other arguments as for Kernel.
    Raises InputError for another order.
    """

    settings = ("order",)

    def __init__(
        self,
        *,
        order: int = 1,
        bias: Value = 1.0,
        bias_prior: Prior | None = None,
        bias_constraint: Interval | None = None,
        **options: Any,
    ) -> None:
        if order not in (0, 1, 2):
            raise InputError(f"order = {order!r}; an ArcCosine kernel has order 0, 1 or 2")
        super().__init__(**options)
        self.order = order
        self.register_positive("bias", bias, per_dimension=True, prior=bias_prior, constraint=bias_constraint)

    def coordinates(self, x: Tensor) -> Coordinates:
        """Unit vectors (..., n, d + 1) and their lengths (..., n, 1)."""
        x = super().coordinates(x)
        root = self.bias.sqrt()
        batch = torch.broadcast_shapes(x.shape[:-1], root.shape[:-1])
        u = torch.cat([x.expand(*batch, x.shape[-1]), root.expand(*batch, 1)], dim=-1)
        norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        return u / norm, norm

    def formula(self, x: Any, y: Any) -> Any:
        (u, p), (v, q) = x, y
        return self._value(((u - v) ** 2).sum(-1), (p * q).sum(-1))

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        (u, p), (v, q) = x, y
        return self.scaled(self._value(squared_distance(u, v), p @ q.mT))

    def width(self, x: Coordinates) -> int:
        return 1

    def _value(self, apart: Any, lengths: Any) -> Any:
        """From |u - v|² of the unit vectors and the product of the lengths."""
        return (1.0 / math.pi) * _angular(self.order, apart) * (lengths**self.order if self.order else 1.0)


def _angular(order: int, apart: Any) -> Any:
    """J_p(θ), with the slopes dJ_p/dcosθ = J_0 and 4 J_1 for p = 1 and 2, which also hold where points coincide."""
    return with_slope(partial(_value, order), partial(_slope, order), apart) if order else _value(0, apart)


def _value(order: int, apart: Any) -> Any:
    # arccos(u·v) would lose half the digits for nearly parallel points; the half angle from both sides is Kahan's.
    theta = 2.0 * sqrt(apart).atan2(sqrt((4.0 - apart).relu()))
    rest = math.pi - theta
    if order == 0:
        return rest
    if order == 1:
        return theta.sin() + rest * theta.cos()
    return 3.0 * theta.sin() * theta.cos() + rest * (1.0 + 2.0 * theta.cos() ** 2)


def _slope(order: int, apart: Any) -> Any:
    # cosθ = 1 - apart / 2
    return (-0.5 if order == 1 else -2.0) * _angular(order - 1, apart)


__all__ = ["ArcCosine"]
