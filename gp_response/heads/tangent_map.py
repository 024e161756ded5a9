"""A network as a linear function of its parameters, at points: its outputs, their gradients, and moves along a direction.

Points are rows (n, d) of a data set, and for several outputs rows (n, d + q) with the output's place in the last columns, one for
each axis: the output, or the token and its class. `Inputs` says what the module is given for them: the rows themselves, or images,
or sequences of integers that a row holds flattened.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from gp_response.curvature import Network
from gp_response.curvature.modes import ReverseMode
from gp_response.curvature.norms import PlainNorms
from gp_response.errors import InputError
from gp_response.kernels.look import Look, slope
from gp_response.linalg.transforms import inside_transform


@dataclass(frozen=True)
class Inputs:
    """What a row of d numbers is for the module: its shape, and the integer type where it is no number.

    Attributes:
        shape: of one input, d in all.
        dtype: an integer type for tokens; None: floating, as the points are.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def of(self, x: Tensor) -> Tensor:
        """Rows (n, d) as the module takes them, (n, *shape)."""
        x = x.reshape(len(x), *self.shape)
        return x if self.dtype is None else x.round().to(self.dtype)


@dataclass(frozen=True, eq=False)
class TangentMap:
    """`f(x; θ) ≈ f(x; θ*) + J(x)(θ - θ*)` for chosen parameters.

    Attributes:
        network: in the precision that everything is computed in.
        inputs: what the module takes.
        axes: shape of a row's outputs, whose place points carry in their last columns; () for a single one.
    """

    network: Network
    inputs: Inputs
    axes: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """P."""
        return self.network.count

    @property
    def outputs(self) -> int:
        """C, outputs of a row in all."""
        return prod(self.axes)

    def value(self, x: Tensor) -> Tensor:
        """The output that each point reads, (p,), differentiable in x."""
        return self._at(self.network.origin, x)

    def every(self, x: Tensor) -> Tensor:
        """All outputs at rows x (n, d), (n, C)."""
        return self.network.output(self.inputs.of(x.to(self.network.dtype))).flatten(1)

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of each reading by the parameters, (p, P), differentiable in x."""

        def one(theta: Tensor, point: Tensor) -> Tensor:
            return self._at(theta, point[None])[0]

        x = x.to(self.network.dtype)
        if self.reversed(x):
            return torch.cat([self._pulled(point[None]) for point in x])
        with self._twice(x):
            if self.network.batches(self.inputs.of(self._rows(x))):
                return vmap(grad(one), (None, 0))(self.network.origin, x)
            return torch.stack([grad(one)(self.network.origin, point) for point in x])

    def reversed(self, x: Tensor) -> bool:
        """Whether the network can be differentiated by plain autograd only, and not by torch.func."""
        return not inside_transform() and isinstance(self.network.mode(self.inputs.of(self._rows(x))), ReverseMode)

    def _pulled(self, point: Tensor) -> Tensor:
        """The gradient of one reading, (1, P), without torch.func."""
        return self.pull(self._rows(point), self._which(point)[..., None]).T

    def moved(self, x: Tensor, direction: Tensor) -> Tensor:
        """`J(x) v` of each reading, (p,), for v (P,): differentiable in x and v, also in forward mode."""
        with self._twice(x):
            return slope(
                lambda theta: self._at(theta, x),
                self.network.origin,
                direction.to(self.network.device, self.network.dtype),
            )

    def push(self, x: Tensor, directions: Tensor) -> Tensor:
        """`J v` of all outputs at rows x (n, d) for v (P, t), (n, C, t), by one forward-mode sweep."""
        inner = directions.to(self.network.device, self.network.dtype)
        return self.network.push(self.inputs.of(x.to(self.network.dtype)), inner).flatten(1, -2)

    def pull(self, x: Tensor, forces: Tensor) -> Tensor:
        """`Jᵀ u` for u (n, C, t) on all outputs at rows x (n, d), (P, t), by reverse mode."""
        rows, inner = self.inputs.of(x.to(self.network.dtype)), forces.to(self.network.device, self.network.dtype)
        return self.network.pull(rows, inner.unflatten(1, self.axes) if len(self.axes) > 1 else inner)

    @staticmethod
    def _twice(x: Tensor) -> AbstractContextManager[Any]:
        """Where derivatives by parameters are differentiated by x as well."""
        return PlainNorms() if inside_transform() or x.requires_grad else nullcontext()

    def _at(self, theta: Tensor, x: Tensor) -> Tensor:
        x = x.to(self.network.dtype)
        try:
            outputs = self.network.call(theta, self.inputs.of(self._rows(x))).flatten(1)
        except (RuntimeError, NotImplementedError) as error:
            if not inside_transform() or not isinstance(self.network.known_mode, ReverseMode):
                raise
            raise InputError(
                "torch.func cannot transform this network, so that it is no function of data that are shifted or conditioned on "
                "again; use value, and reweight, delete or finite_response, or train it again"
            ) from error
        return (outputs * self._which(x)).sum(dim=-1) if self.axes else outputs[:, 0]

    def _rows(self, x: Tensor) -> Tensor:
        """Points without the place of the output, (p, d)."""
        return x[:, : x.shape[1] - len(self.axes)]

    def _which(self, x: Tensor) -> Tensor:
        """Ones at the output that each point reads, (p, C)."""
        at = torch.zeros_like(x[:, :1])
        for column, size in zip(range(-len(self.axes), 0), self.axes, strict=True):
            at = at * size + x[:, column, None]
        return (at == torch.arange(self.outputs, dtype=x.dtype, device=x.device)).to(x)


def require_slopes(tangent: TangentMap, look: Look) -> None:
    """Refuse slopes along what is no number."""
    if look.direction is not None and tangent.inputs.dtype is not None:
        raise InputError("tokens do not move by a little, so the network has no slope there; use value or contrast")
    if look.direction is not None and tangent.reversed(look.points[:1]):
        raise InputError(
            "torch.func cannot transform this network, so its slopes are not at hand; use value or contrast"
        )


__all__ = ["Inputs", "TangentMap", "require_slopes"]
