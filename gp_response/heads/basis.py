"""Inducing features: the field seen through m points, `φ(x) = L⁻¹ k(Z, x)` with `L Lᵀ = k(Z, Z)`.

`φ(x)ᵀφ(y)` is the Nyström approximation Q of k, and `k - Q`, what is left out, is the field's covariance given its values at Z.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.errors import InputError, SolverError
from gp_response.kernels.blocked import fast_matrix
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.linalg.transforms import inside_transform

EPS = torch.finfo(torch.float64).eps
JITTER, MOST_JITTER = 1e-13, 1e-6  # of the largest prior variance; the smallest power of ten at which K_ZZ factors
POWERS = 12  # iterations of each estimate of a norm
ROUNDING = 8.0  # units of eps · cond(L) that a triangular solve is off by, in norm


class Basis:
    """Features of a kernel at inducing points, in float64.

    Args:
        kernel: k, on z-space.
        features: x -> z, or None where z = x.
        points: Z, (m, d'), in z-space.
        jitter: added to the diagonal of k(Z, Z), in units of its largest entry; None takes the least that lets it factor.

    Raises:
        SolverError: k(Z, Z) is not positive definite with the jitter given.
    """

    def __init__(self, kernel: Any, features: nn.Module | None, points: Tensor, jitter: float | None = None):
        self.kernel, self.features, self.points = kernel, features, points.double()
        matrix = self._matrix(self.points, None)
        largest = matrix.diagonal().max().detach()
        self.jitter, self.lower = factor_with_jitter(matrix, largest, jitter)
        self.off = 0.0 if inside_transform() or matrix.requires_grad else ROUNDING * EPS * _condition(self.lower)

    def __len__(self) -> int:
        return len(self.points)

    def at(self, x: Tensor) -> Tensor:
        """φ(x) for x (p, d), (m, p)."""
        return torch.linalg.solve_triangular(self.lower, self._matrix(self.points, self.z(x)), upper=False)

    def with_kernel(self, kernel: Any) -> "Basis":
        """The same features under a kernel with other parameters, at the same jitter; differentiable in them."""
        return Basis(kernel, self.features, self.points, self.jitter)

    def part(self, component: int) -> "Basis":
        """Features of one component of an additive field, `L⁻¹ k_c(Z, x)`: its best prediction from the field at Z."""
        of_it = copy.copy(self)
        of_it.kernel = self.kernel.part(component)
        return of_it

    def without_factor(self) -> "Basis":
        """The same for `z` and `prior` alone, without the matrix it holds."""
        light = copy.copy(self)
        light.lower = self.lower[:0, :0]
        return light

    def z(self, x: Tensor) -> Tensor:
        """x (p, d) in z-space, in float64."""
        if self.features is None:
            return x.double()
        return call_in_dtype_of(x.double(), self.features, lambda f, p: f(p), x.double())

    def diagonal(self, x: Tensor) -> Tensor:
        """Prior variances k(x, x), (p,)."""
        return self.kernel.diagonal(self.z(x))

    def prior(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Prior covariance k(x, y), (p, q)."""
        return self._matrix(self.z(x), None if y is None else self.z(y))

    def _matrix(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is None or inside_transform() or torch.is_grad_enabled() or len(self.kernel.batch_shape) > 0:
            return self.kernel.matrix(x, y)
        return fast_matrix(self.kernel, x, y)


def prior_of(basis: Basis, x: Tensor, y: Tensor | None) -> Tensor:
    return basis.prior(x, y)


def factor_with_jitter(matrix: Tensor, largest: Tensor, jitter: float | None) -> tuple[float, Tensor]:
    """The jitter used and the lower Cholesky factor of `matrix + jitter · largest`."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    if inside_transform():
        used = JITTER if jitter is None else jitter
        return used, torch.linalg.cholesky(matrix + used * largest * eye)
    if jitter is not None and not 0.0 <= float(jitter) < 1.0:
        raise InputError(f"jitter={jitter!r}; expected a number between 0 and 1, or None")
    tried = JITTER if jitter is None else float(jitter)
    while True:
        lower, info = torch.linalg.cholesky_ex(matrix + tried * largest * eye)
        if not bool(info) and bool(torch.isfinite(lower.sum())):
            return tried, lower
        if jitter is not None or tried >= MOST_JITTER:
            raise SolverError(
                f"the {len(matrix)} x {len(matrix)} kernel matrix of the inducing points is not positive definite with jitter "
                f"{tried:g} of its largest entry; take fewer or other inducing points, or raise the jitter"
            )
        tried *= 10.0


def _condition(lower: Tensor) -> float:
    """About ‖L‖ ‖L⁻¹‖, by power iteration on both."""
    start = torch.ones(len(lower), 1, dtype=lower.dtype, device=lower.device)
    up, down = start / len(lower) ** 0.5, start / len(lower) ** 0.5
    for _ in range(POWERS):
        up = lower @ (lower.T @ (up / up.norm()))
        down = torch.cholesky_solve(down / down.norm(), lower)
    return float((up.norm() * down.norm()).sqrt())


__all__ = ["Basis", "factor_with_jitter", "prior_of"]
