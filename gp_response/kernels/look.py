"""What is read of a field at points: its value, its slope or bend along a direction, or those of a component of an additive field.

All are linear in the field. Components are independent before the data: `Cov(f_c, f_d) = δ_cd k_c` and `Cov(f_c, f) = k_c`.

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
        component: (p,) long, the term of the sum of kernels each reading is of; None: the field.
        order: of the derivative along the direction: 1, the slope, or 2, the bend. A kernel that gives slopes gives covariances of
            bends with values and slopes, if not their variances: Matern32.
    """

    points: Tensor
    direction: Tensor | None = None
    component: Tensor | None = None
    order: int = 1

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, where: Any) -> "Look":
        direction = None if self.direction is None else self.direction[where]
        component = None if self.component is None else self.component[where]
        return replace(self, points=self.points[where], direction=direction, component=component)

    def double(self) -> "Look":
        direction = None if self.direction is None else self.direction.double()
        return replace(self, points=self.points.double(), direction=direction)

    def split(self, step: int) -> "list[Look]":
        return [self[start : start + step] for start in range(0, len(self), step)]

    def of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The reading of a function from points (p, d) to (..., p) or (p, ...), each entry of which reads one point."""
        along = self.direction
        if along is None:
            return function(self.points)
        if self.order == 1:
            return slope(function, self.points, along)
        return slope(lambda z: slope(function, z, along), self.points, along)

    def through(self, holder: Any, function: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """The reading of `function(holder, points)`, (..., p); `holder.part(c)`, a kernel or a basis, is that of component c."""
        if self.component is None:
            return self.of(lambda z: function(holder, z))
        found = [look.of(_bound(function, holder.part(c))) for c, look in self.groups()]
        return torch.cat(found, dim=-1)[..., self._back()]

    def start(self, mean: Callable[[Tensor], Tensor]) -> Tensor:
        """The reading of the prior mean, (p,), which belongs to no component."""
        if self.component is None:
            return self.of(mean)
        return torch.zeros(len(self), dtype=self.points.dtype, device=self.points.device)

    def groups(self) -> "list[tuple[int | None, Look]]":
        """The readings of each component, as readings of the field."""
        if self.component is None:
            return [(None, self)]
        whole = replace(self, component=None)
        return [(c, whole[torch.nonzero(self.component == c).flatten()]) for c in sorted(set(self.component.tolist()))]

    def _back(self) -> Tensor:
        """Where each reading is in the groups put one after the other."""
        if self.component is None:
            return torch.arange(len(self), device=self.points.device)
        return torch.argsort(torch.argsort(self.component, stable=True))


def slope(function: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    """The derivative along a direction by two pullbacks, the second of which is linear.

    Forward mode would be shorter. Nested in itself it silently returns zeros through autograd.Functions with a jvp rule, as
    distances have; slopes are nested here, and refits differentiate them in forward mode.
    """
    value, pull = vjp(function, x)[:2]
    return vjp(lambda u: pull(u)[0], torch.zeros_like(value))[1](direction)[0]


def between(holder: Any, matrix: Callable[..., Tensor], one: Look, other: Look | None) -> Tensor:
    """Prior covariances of two sets of readings, (p, q), from `matrix(holder, x, y)`; other = None means the same set."""
    far = one if other is None else other
    if one.component is None and far.component is None:
        return _between(holder, matrix, one, other)
    blocks = [[_block(holder, matrix, a, b) for b in far.groups()] for a in one.groups()]
    found = torch.cat([torch.cat(row, dim=1) for row in blocks])
    return found[one._back()][:, far._back()]


def _block(holder: Any, matrix: Callable[..., Tensor], one: tuple[Any, Look], other: tuple[Any, Look]) -> Tensor:
    (c, a), (d, b) = one, other
    if c is not None and d is not None and c != d:
        return torch.zeros(len(a), len(b), dtype=a.points.dtype, device=a.points.device)
    return _between(holder.part(d if c is None else c), matrix, a, b)


def _between(holder: Any, matrix: Callable[..., Tensor], one: Look, other: Look | None) -> Tensor:
    if one.direction is None and (other is None or other.direction is None):
        return matrix(holder, one.points, None if other is None else other.points)
    far = one if other is None else other
    return one.of(lambda a: far.of(lambda b: matrix(holder, a, b)))


def matrix_of(kernel: Any, x: Tensor, y: Tensor | None) -> Tensor:
    return kernel.matrix(x, y)


def _bound(function: Callable[[Any, Tensor], Tensor], holder: Any) -> Callable[[Tensor], Tensor]:
    return lambda z: function(holder, z)


def own(kernel: Any, look: Look, z: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Prior variances of readings, (p,); z maps points to what the kernel reads.

    Raises:
        InputError: slopes of a field that has none.
    """
    if look.component is not None:
        return torch.cat([own(kernel.part(c), part, z) for c, part in look.groups()])[look._back()]
    if look.direction is None:
        return kernel.diagonal(z(look.points))
    found = look.of(lambda a: look.of(lambda b: pairs(kernel, z(a), z(b))))
    if torch._C._functorch.maybe_current_level() is None:
        _refuse_rough(kernel, look, z, found)
    return found


def prior_deviation(kernel: Any, look: Look) -> Tensor:
    """Of readings, (p,); a bend may have none, where its covariance with values exists all the same."""
    if look.order > 1:
        return torch.full((len(look),), torch.finfo(torch.float64).max, dtype=torch.float64, device=look.points.device)
    return own(kernel, look).sqrt()


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


__all__ = ["Look", "between", "own", "pairs", "prior_deviation", "slope"]
