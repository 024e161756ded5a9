"""A symmetric positive definite matrix known by what it does: what every solver here is written against."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.extended import residual

# Rounding of the matrix entries themselves, in units of eps: a kernel entry carries a few (scaling, distance, exp).
ROUNDING = 8.0


@runtime_checkable
class Operator(Protocol):
    """What a Lanczos process needs of B: its size and its products."""

    @property
    def n(self) -> int: ...

    def product(self, v: Tensor) -> Tensor:
        """`B v` for v (n, t), in the precision of v."""


@runtime_checkable
class System(Protocol):
    """`B = shift + (a positive semi-definite matrix)`, n x n.

    Attributes:
        n: rows.
        device: where it lives.
        dtype: precision of the data it is made from; a solver's first choice.
        shift: (n,) float64, the diagonal part that is split off; zeros where nothing is known.
        floor: a lower bound of the eigenvalues, None where nobody knows one. It turns residuals into error bounds.
    """

    n: int
    device: torch.device
    dtype: torch.dtype
    shift: Tensor
    floor: float | None

    def product(self, v: Tensor) -> Tensor:
        """`B v` for v (n, t), fast, in the precision of v."""

    def residual(self, rhs: Tensor, v: Tensor, *, extended: bool = False) -> Tensor:
        """`rhs - B v` in float64, from entries exact to float64 rounding; `extended` sums in about twice that."""

    def rounding(self, v: Tensor, *, extended: bool = False) -> Tensor:
        """Bound on the norm of what `residual` may be off by, per column of v (n, t) -> (t,)."""

    def diagonal(self) -> Tensor:
        """The diagonal of B, (n,) float64."""

    def columns(self, index: Tensor) -> Tensor:
        """Columns of `B - shift`, (n, k) float64, the caller's own."""

    def dense(self, dtype: torch.dtype) -> Tensor:
        """B as a fresh (n, n) tensor that the caller may overwrite."""


class DenseSystem:
    """A matrix given by its entries, which are taken as exact but for `off`.

    Args:
        matrix: (n, n) symmetric positive definite, float32 or float64.
        floor: a lower bound of its eigenvalues, if one is known.
        off: bound on the norm of what the entries themselves are off by.

    Raises:
        InputError: not square.
    """

    def __init__(self, matrix: Tensor, *, floor: float | None = None, off: float = 0.0):
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"a matrix of shape {tuple(matrix.shape)}; expected (n, n)")
        self.matrix, self.floor, self.off = matrix, floor, off
        self.n, self.device, self.dtype = len(matrix), matrix.device, matrix.dtype
        self.shift = torch.zeros(self.n, dtype=torch.float64, device=matrix.device)

    def product(self, v: Tensor) -> Tensor:
        return self.matrix.to(v.dtype) @ v

    def residual(self, rhs: Tensor, v: Tensor, *, extended: bool = False) -> Tensor:
        return residual(rhs.double(), self.matrix.double(), v.double())

    def rounding(self, v: Tensor, *, extended: bool = False) -> Tensor:
        # Summed in twice the precision, and rounded once: far below anything a residual in float64 can be.
        summed = torch.finfo(torch.float64).eps ** 2 * self.n * torch.linalg.matrix_norm(self.matrix.double())
        return (summed + self.off) * v.norm(dim=0)

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal().double()

    def columns(self, index: Tensor) -> Tensor:
        return self.matrix[:, index].double()

    def dense(self, dtype: torch.dtype) -> Tensor:
        return self.matrix.to(dtype, copy=True)


__all__ = ["ROUNDING", "DenseSystem", "Operator", "System"]
