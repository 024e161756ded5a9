"""Both sides of `S = (A + 1)⁻¹` for a positive semi-definite A that is known on a Krylov basis, converged or not.

With `A Kᵀ = QᵀH + E`, `T = K A Kᵀ` and `W = Q Qᵀ` as in `Recurrence`, for every x and g

    gᵀ S g >= 2 gᵀKᵀc - cᵀ(T + W)c                   (S is the maximum over all vectors, these are those of K's span)
    xᵀ A x >= 2 cᵀ(K A)x - cᵀT c >= 2 cᵀHᵀQ x - cᵀ(T + D)c - ν xᵀx      (|2cᵀEᵀx| <= cᵀDc + ν xᵀx if D >= EᵀE/ν)

whatever c is. The best c give `L = Kᵀ(T + W)⁻¹K <= S` (Galerkin: the truncated inverse) and `A >= Qᵀ M Q - ν` with
`M = H(T + D)⁻¹Hᵀ` (the Nyström approximation, Halko, Martinsson & Tropp 2011), so `S <= U = (1 - ν + QᵀMQ)⁻¹` (the completed
inverse). Neither needs orthonormal rows or a recurrence that holds. Into E go what storage rounded away, which was measured,
and the rounding of products, which is bounded; T may be off by τ, and c is chosen with T + τ.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError, SolverError
from gp_response.linalg.deflation import Deflation
from gp_response.linalg.krylov import KrylovBasis
from gp_response.linalg.recurrence import Recurrence

EPS = torch.finfo(torch.float64).eps
NORM = 1.25  # ‖A‖ beside the largest image or Ritz value seen
MOST = 0.25  # of the shift that storage may take
SMALL_MATRICES = 8.0  # rounding of an m x m eigenproblem, in units of m eps


class Coordinates(NamedTuple):
    """What a bracket reads of vectors v (n, t): `low = Q v` (m, t) and `square = ‖v‖²` (t,), both float64."""

    low: Tensor
    square: Tensor


class Bracket:
    """`lower <= (A + 1)⁻¹ <= upper`, as operators, on their diagonal and between any two vectors.

    Args:
        basis: of A.
        floor: `A + floor` is positive semi-definite, `0 <= floor < 1`: nothing about an indefinite A can be bounded without.

    Attributes:
        inner: (k, k) with `lower = Kᵀ inner K`.
        outer: (m, m) with `upper = 1/shift - Qᵀ outer Q`.
        shift: what is left of 1 beside floor and rounding, `1 - floor - ν`.
        values: Ritz values of A, the largest first. norm: an estimate of `‖A‖` from above.
        slack: τ. preconditioner: `M = upper⁻¹`, known to be below A + 1.

    Raises:
        InputError: the floor is not in [0, 1).
        SolverError: A has been seen to have an eigenvalue below -floor, or is too large for float64 beside 1.
    """

    def __init__(self, basis: KrylovBasis, *, floor: float = 0.0):
        if not 0.0 <= floor < 1.0:
            raise InputError(f"floor={floor!r}; expected a number from 0 to below 1, such that A + floor >= 0")
        if basis.k == 0:
            raise InputError("the basis is empty; call build() first")
        self.basis, self.floor, small = basis, floor, basis.small
        k = small.k
        self.values = small.ritz().values
        self.norm = NORM * max(small.scale, float(self.values.abs().max()))
        self.slack = _slack(small, self.norm)
        self._require_floor()
        shifted = small.matrix + small.gram[:k, :k] + self.slack * torch.eye(k).to(small.gram)
        self.inner = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
        core, lost = _nystrom(small, floor, self.slack, self.norm)
        self.shift = 1.0 - floor - lost
        self.preconditioner = Deflation(basis.rows, small.gram, core, self.shift, below=True)
        if not float(self.preconditioner.spectrum[0]) > -0.5 * self.shift:
            raise SolverError(
                f"an eigenvalue of {float(self.values[0]):.1e} beside 1 is more than float64 resolves; raise the prior precision"
            )
        self.outer = -self.preconditioner.core(torch.reciprocal)

    def coordinates(self, v: Tensor) -> Coordinates:
        """What is needed of vectors (n, t)."""
        rows = self.basis.rows
        square = sum((v[at].double().square().sum(dim=0) for at in rows.slices(v.shape[1])), rows.zeros(v.shape[1]))
        return Coordinates(self.basis.project(v), square)

    def lower(self, v: Tensor) -> Tensor:
        """The truncated inverse times v (n, t), float64."""
        k = self.basis.k
        return self.basis.lift(self.inner @ self.basis.rows.project(v, k))

    def upper(self, v: Tensor) -> Tensor:
        """The completed inverse times v (n, t), in the precision of v."""
        return self.preconditioner.solve(v)

    def diagonal(self, v: Coordinates) -> tuple[Tensor, Tensor]:
        """Bounds of `vᵀ S v`, two of (t,)."""
        low, high = self._quadratic(v)
        room = self._room(v)
        return (low - room).clamp_min(0.0), torch.maximum(high, low) + room

    def width(self, v: Coordinates) -> Tensor:
        """`vᵀ (upper - lower) v`, (t,)."""
        low, high = self.diagonal(v)
        return high - low

    def between(self, a: Coordinates, b: Coordinates, inner: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`aᵀ S b` for each pair, (s, t), and how far it may be off.

        `|aᵀ(S - ½(L + U))b| <= ½ (aᵀ(U - L)a)^½ (bᵀ(U - L)b)^½`, as S lies between L and U.

        Args:
            inner: `aᵀ b` (s, t). Without it the value is that of the lower side, and the error twice as large.
        """
        k = self.basis.k
        error = (self.width(a)[:, None] * self.width(b)).sqrt()
        low = a.low[:k].T @ (self.inner @ b.low[:k])
        if inner is None:
            return low, error
        high = inner.double() / self.shift - a.low.T @ (self.outer @ b.low)
        return 0.5 * (low + high), 0.5 * error

    def energy(self, left: Tensor) -> Tensor:
        """A bound of `(rᵀ S r)^½` for residuals r (n, t), (t,): `|gᵀ(z - S b)| <= (gᵀSg)^½ (rᵀSr)^½` for `r = b - (A + 1)z`."""
        return self.diagonal(self.coordinates(left))[1].sqrt()

    def logdet(self, trace: float | None = None) -> tuple[float, float]:
        """Bounds of `log det(A + 1)`; the upper one is inf unless the trace of A is given.

        From below by interlacing. From above by `log det B <= log det C + tr(C⁻¹B) - n` (concavity) with C the identity but
        for the Ritz pairs: `Σ (log(1 + θ) - θ) + tr A`.
        """
        theta, k, whole = self.values, self.basis.k, float(self.basis.n)
        stay = 1.0 - self.floor
        least = (theta - self.slack + self.floor).clamp_min(0.0)
        low = float((least / stay).log1p().sum())
        if self.floor:
            low += whole * float(torch.tensor(stay, dtype=torch.float64).log())
        if trace is None:
            return low, float("inf")
        theta = theta.clamp_min(0.0)
        return low, float((theta.log1p() - theta).sum()) + trace + k * self.slack

    def _quadratic(self, v: Coordinates) -> tuple[Tensor, Tensor]:
        inside = v.low[: self.basis.k]
        low = (inside * (self.inner @ inside)).sum(dim=0)
        return low, v.square / self.shift - (v.low * (self.outer @ v.low)).sum(dim=0)

    def _room(self, v: Coordinates) -> Tensor:
        """Rounding of the quadratic forms themselves."""
        return SMALL_MATRICES * self.basis.m * EPS * v.square / self.shift

    def _require_floor(self) -> None:
        least = float(self.values[-1])
        if least + self.floor >= -self.slack:
            return
        raise SolverError(
            f"the operator is indefinite: it has an eigenvalue of {least:.3g} or less, beside a largest of "
            f"{float(self.values[0]):.3g}. "
            + (
                "Adding 1 leaves it indefinite: this is no minimum; raise the prior precision or use curvature='ggn'"
                if least <= -1.0
                else "Give floor=, a number below 1 for which A + floor is positive semi-definite, or use curvature='ggn'"
            )
        )


def _slack(small: Recurrence, norm: float) -> float:
    """τ: what T may be off by, in the spectral norm."""
    k = small.k
    return NORM * (norm * (small.rounding * k**0.5 + SMALL_MATRICES * k * EPS) + small.skew + small.blur)


def _nystrom(small: Recurrence, floor: float, slack: float, norm: float) -> tuple[Tensor, float]:
    """M (m, m) and ν of the module's docstring, for `A + floor`."""
    k, like = small.k, small.gram
    eye = torch.eye(k).to(like)
    # E = stored + computed: EᵀE <= (1 + b/a) a² + (1 + a/b) b² for their norms a and b.
    stored = small.parts * small.left
    a, b = float(torch.linalg.matrix_norm(stored, 2)) ** 0.5, k**0.5 * small.rounding * norm
    moved = (1.0 + b / a if a else 0.0) * stored + b * (a + b) * eye
    size = a + b
    lost = min(MOST * (1.0 - floor), size)
    coupling = small.coupling.clone()
    coupling[:k] += floor * eye
    inside = small.matrix + floor * like[:k, :k] + slack * eye + (moved / lost if lost else 0.0)
    values, turn = torch.linalg.eigh(0.5 * (inside + inside.T))
    keep = values > EPS * values[-1]  # any choice of directions gives a bound
    half = coupling @ (turn[:, keep] * values[keep].rsqrt())
    core = half @ half.T
    rounding = SMALL_MATRICES * small.m * EPS * float(torch.linalg.matrix_norm(core, 2))
    return core - rounding * torch.cholesky_inverse(torch.linalg.cholesky(like)), lost


__all__ = ["Bracket", "Coordinates"]
