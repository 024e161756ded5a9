"""What is read of a field at points: its value, or its slope along a direction; linear in the field either way.

A reading acts on covariances as on the field: on each argument of k by itself. Slopes are taken by automatic
differentiation, which suits any kernel and any features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from gp_response.errors import InputError
from gp_response.kernels.casting import call_in_dtype_of

STEP, ROUGH = 1e-4, 4.0


@dataclass(frozen=True)
class Look:
    """A reading of the field at p points.

    Attributes:
        points: (p, d).
        direction: (p, d), the slope is read along it; None: the value.
    """

    points: Tensor
    direction: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, where: Any) -> "Look":
        return Look(self.points[where], None if self.direction is None else self.direction[where])

    def double(self) -> "Look":
        return Look(self.points.double(), None if self.direction is None else self.direction.double())

    def split(self, step: int) -> "list[Look]":
        return [self[start : start + step] for start in range(0, len(self), step)]

    def of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The reading of a function from points (p, d) to (..., p) or (p, ...), each entry of which reads one point."""
        if self.direction is None:
            return function(self.points)
        return _slope(function, self.points, self.direction)

    def values(self) -> "Look":
        """The values at the same points."""
        return replace(self, direction=None)


def _slope(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """The derivative along a direction by two pullbacks, the second of which is linear.

    Forward mode would be shorter. Nested in itself it silently returns zeros through autograd.Functions with a jvp rule, as
    distances have; slopes are nested here, and refits differentiate them in forward mode.
    """
    value, pull = vjp(function, x)[:2]
    return vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](direction)[0]


def between(matrix: Callable[[Tensor, Tensor | None], Tensor], one: Look, other: Look | None) -> Tensor:
    """Covariances of two sets of readings, (p, q), from `matrix(x, y)`, the kernel; other = None means the same set."""
    if one.direction is None and (other is None or other.direction is None):
        return matrix(one.points, None if other is None else other.points)
    far = one if other is None else other
    return one.of(lambda a: far.of(lambda b: matrix(a, b)))


def own(kernel: Any, look: Look, z: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Prior variances of readings, (p,); z maps points to what the kernel reads.

    Raises:
        InputError: slopes of a field that has none.
    """
    if look.direction is None:
        return kernel.diagonal(z(look.points))
    found = look.of(lambda a: look.of(lambda b: pairs(kernel, z(a), z(b))))
    if torch._C._functorch.maybe_current_level() is None:
        _refuse_rough(kernel, look, z, found)
    return found


def pairs(kernel: Any, x: Tensor, y: Tensor) -> Tensor:
    """k(x_i, y_i), (p,)."""
    return call_in_dtype_of(x, kernel, _pairs, kernel.select(x), kernel.select(y))


def _pairs(kernel: Any, x: Tensor, y: Tensor) -> Tensor:
    return kernel.pairs(kernel.coordinates(x), kernel.coordinates(y)).squeeze(-1).expand(len(x))


def _refuse_rough(kernel: Any, look: Look, z: Callable[[Tensor], Tensor], found: Tensor) -> None:
    """Where the field has no slope, differences grow as they get shorter, and automatic differentiation does not notice."""
    assert look.direction is not None
    x, near = z(look.points), z(look.points + STEP * look.direction)
    here = kernel.diagonal(x)
    difference = here + kernel.diagonal(near) - 2.0 * pairs(kernel, x, near)
    if bool((difference / STEP**2 > ROUGH * found.abs() + 1e-5 * here).any()):
        raise InputError(
            f"a field with covariance {kernel!r} has no slope (differences over {STEP:g} vary far more than a slope would); "
            "use a smoother kernel, such as Matern32 or RBF, or contrast(x, x')"
        )


__all__ = ["Look", "between", "own", "pairs"]
