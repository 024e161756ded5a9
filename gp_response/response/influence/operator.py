"""The influence matrix `W_ij = Cov(ℓ_i, ℓ_j)` of all training losses as a LinearOperator that is never stored."""

from functools import cached_property
from typing import Any

import torch
from linear_operator import to_linear_operator
from linear_operator.operators import LinearOperator
from torch import Tensor

from gp_response.arguments import as_places, as_tensor, shown
from gp_response.errors import InputError
from gp_response.posterior import Certified, rounded
from gp_response.response.influence.components import Components, components
from gp_response.response.influence.covariance import RowCovariance
from gp_response.response.influence.eigenmodes import Eigenmodes, eigenmodes
from gp_response.response.influence.entries import loss_covariance
from gp_response.response.influence.representatives import Representatives, representatives
from gp_response.response.influence.squares import ROUNDING, Estimated, Squares

STEP = 128  # rows of S at a time where the whole matrix is asked for


class Influence(LinearOperator):
    """`W = diag(a) S diag(a) + ½ diag(p) (S∘S) diag(p)`, symmetric positive semi-definite, with `a = r/σ²` and `p = 1/σ²`.

    Made by `influence`. `W @ v` is a product in the precision of v; `product` gives its error, too. The method changes the
    second term of products alone: `rows`, `to_dense` and indexing are solved for.

    Attributes:
        method: "exact", "low-rank" or "sampled", as asked or chosen; `reason` says why. rank: of the low-rank part, or None.
    """

    def __init__(
        self, force: Tensor, precision: Tensor, *, slack: Tensor, covariance: RowCovariance, squares: Squares,
        method: str, reason: str,
    ):  # fmt: skip
        super().__init__(
            force, precision, slack=slack, covariance=covariance, squares=squares, method=method, reason=reason
        )
        self.force, self.precision, self.slack = force, precision, slack
        self.covariance, self.squares, self.method, self.reason = covariance, squares, method, reason

    @property
    def rank(self) -> int | None:
        return self.squares.rank

    @cached_property
    def _norm(self) -> float:
        return self.covariance.norm(self.squares.own)

    @property
    def posterior(self) -> Any:
        return self.covariance.posterior

    @property
    def dtype(self) -> torch.dtype:
        return self.posterior.data.train.x.dtype

    def product(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        """`W v` for v (n,) or (n, t), with a bound on each entry's error and, sampled, the standard error beside it.

        One solve with as many right-hand sides (sampled: one more with twice the signs), and the product with S∘S.

        Args:
            bounded: False saves the bound, which is then infinite, and the solve where S is kept.
        """
        v = as_tensor(v, "influence's product", f"({self.n},) or ({self.n}, t) numbers", device=self.force.device)
        if v.ndim not in (1, 2) or len(v) != self.n:
            raise InputError(f"influence's product got {shown(v)}; expected ({self.n},) or ({self.n}, t)")
        v = v if v.is_floating_point() else v.to(self.dtype)
        value, error, spread = self._product(v.double()[:, None] if v.ndim == 1 else v.double(), bounded)
        found = Estimated(*rounded(Certified(value, error), v.dtype), spread.to(v.dtype))
        return found if v.ndim == 2 else Estimated(*(part[:, 0] for part in found))

    def _product(self, wide: Tensor, bounded: bool) -> Estimated:
        """`W v` for v (n, t) float64."""
        a, p = self.force[:, None], self.precision[:, None]
        kept = None if bounded else self.squares.linear(a * wide)
        seen, off = self.covariance.times(a * wide) if kept is None else Certified(kept, torch.zeros_like(kept))
        square = self.squares.times(p * wide, bounded=bounded)
        value = a * seen + 0.5 * p * square.value
        error = 0.5 * p * square.error + ROUNDING * ((a * seen).abs() + p * square.value.abs())
        if bounded:
            error = error + a.abs() * off + self._force_error(wide.abs(), seen.abs() + off)
        return Estimated(value, error, 0.5 * p * square.standard_error)

    def _force_error(self, size: Tensor, seen: Tensor) -> Tensor:
        """What errors of the residuals move `a ∘ S(a ∘ v)` by: `|S u|_i <= S_ii^½ (uᵀS u)^½`, by entries or by the norm of S."""
        most, slack = (self.squares.own.value + self.squares.own.error).sqrt()[:, None], self.slack[:, None]
        moved = slack * size
        inside = most * torch.minimum(most.T @ moved, self._norm**0.5 * moved.norm(dim=0))
        return slack * (seen + inside) + self.force.abs()[:, None] * inside

    def rows(self, at: Any) -> Certified:
        """Rows of W (k, n) with bounds, whatever the method: where S is not kept, by one solve each."""
        at = as_tensor(at, "influence's rows", f"row numbers from 0 to {self.n - 1}", device=self.force.device)
        at = as_places(at.reshape(-1, 1), "influence's rows", 1, self.n, "rows")[:, 0]
        found = [self._rows(some) for some in at.split(self.step)]
        return rounded(Certified(*(torch.cat(part) for part in zip(*found, strict=True))), self.dtype)

    def _rows(self, at: Tensor) -> Certified:
        return self._entries(self.squares.entries(at) or self.covariance.rows(at), at[:, None], slice(None))

    def _entries(self, seen: Certified, one: Tensor, other: Tensor | slice) -> Certified:
        return loss_covariance(seen, Certified(self.force, self.slack), self.precision, one, other)

    def variances(self) -> Certified:
        """`Var ℓ_i = W_ii`, (n,), as sharp as the method knows the variances of the field."""
        return rounded(self._variances(), self.dtype)

    def _variances(self) -> Certified:
        (own, off), a, p = self.squares.own, self.force, self.precision
        value = a.square() * own + 0.5 * (p * own).square()
        error = a.square() * off + 0.5 * p.square() * off * (2.0 * own + off)
        loose = self.slack * (2.0 * a.abs() + self.slack) * (own + off)
        return Certified(value, error + loose + ROUNDING * value)

    def eigenmodes(self, k: int = 8, *, tolerance: float = 1e-6, most: int = 400, seed: int = 0) -> Eigenmodes:
        """The k leading eigenpairs; see `eigenmodes`."""
        return eigenmodes(self, k, tolerance=tolerance, most=most, seed=seed)

    def components(self, k: int = 2, *, tolerance: float = 1e-6, most: int = 400, seed: int = 0) -> Components:
        """Kernel principal components of the samples; see `components`."""
        return components(self, k, tolerance=tolerance, most=most, seed=seed)

    def representatives(self, k: int) -> Representatives:
        """k samples that stand for all; see `representatives`."""
        return representatives(self, k)

    def to_dense(self) -> Tensor:
        return self.rows(torch.arange(self.n, device=self.force.device)).value

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.force)

    @property
    def step(self) -> int:
        """Rows at a time where many are asked for."""
        return STEP

    def _size(self) -> torch.Size:
        return torch.Size([self.n, self.n])

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self.product(rhs, bounded=False).value

    def _transpose_nonbatch(self) -> "Influence":
        return self

    def _diagonal(self) -> Tensor:
        return self.variances().value

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        every = torch.arange(self.n, device=self.force.device)
        return to_linear_operator(self.rows(every[row_index]).value[:, col_index])

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        row, column = torch.broadcast_tensors(row_index, col_index)
        needed, where = row.unique(return_inverse=True)
        return self.rows(needed).value[where, column]

    def __repr__(self) -> str:
        rank = "" if self.rank is None else f" of rank {self.rank}"
        return f"Influence({self.n} x {self.n}, {self.method}{rank}: {self.reason})"


__all__ = ["Influence"]
