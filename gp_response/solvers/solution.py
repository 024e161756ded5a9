"""What a solve returns, and what a solver is."""

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from linear_operator import LinearOperator, to_dense
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.system import DenseSystem, System
from gp_response.linalg.transforms import inside_transform


@dataclass(frozen=True)
class Solution:
    """`value` with `A value ≈ B`, and how well, per column.

    Attributes:
        value: the shape of B.
        residual: `‖b - A v‖ / ‖b‖` per column, recomputed from A in float64 (shape B.shape[1:]).
        iterations: refinement steps or iterations spent.
        converged: bool per column, residual at or below the tolerance asked.
        defect: bound on `‖b - A v‖` per column that includes the rounding of measuring it.
        left: `b - A v` itself, the shape of B, in float64.
        error: bound on `|v - A⁻¹b|` of every entry, the shape of B; inf where no lower bound of A is known.
        diagnostics: what was done: precisions, history of residuals, rank of the preconditioner, seconds.
        energy: bound on `√(ρᵀA⁻¹ρ)` for the residual ρ per column, where more is known than `defect` says; else None.
    """

    value: Tensor
    residual: Tensor
    iterations: int
    converged: Tensor
    defect: Tensor
    left: Tensor
    error: Tensor
    diagnostics: dict[str, Any] = field(default_factory=dict)
    energy: Tensor | None = None

    def column(self) -> "Solution":
        """The only column, without its dimension."""
        names = ("residual", "converged", "defect")
        parts = {name: getattr(self, name)[0] for name in names}
        return replace(self, value=self.value[:, 0], left=self.left[:, 0], error=self.error[:, 0], **parts)

    def rounded(self, system: System, rhs: Tensor, tolerance: float) -> "Solution":
        """In the precision of the right-hand side rhs (n, t), measured again there."""
        value = self.value.to(rhs)
        off = (value.double() - self.value).abs()
        left = system.residual(rhs.double(), value.double())
        size = rhs.double().norm(dim=0)
        residual = left.norm(dim=0) / torch.where(size > 0, size, torch.ones_like(size))
        defect = left.norm(dim=0) + system.rounding(value.double())
        return replace(
            self, value=value, residual=residual, converged=residual <= tolerance, defect=defect, left=left,
            error=self.error + off,
        )  # fmt: skip


@runtime_checkable
class Factor(Protocol):
    """A matrix prepared for many solves."""

    def solve(self, rhs: Tensor) -> Solution: ...

    def logdet(self) -> Tensor: ...


@runtime_checkable
class Solver(Protocol):
    """What a head needs of a solver."""

    def factor(self, matrix: Any) -> Factor: ...

    def solve(self, matrix: Any, rhs: Tensor) -> Solution: ...


def as_system(matrix: Any) -> System:
    """A System as it is; a tensor or LinearOperator (n, n) as a dense one."""
    if isinstance(matrix, Tensor | LinearOperator):
        dense = to_dense(matrix)
        return DenseSystem(dense if inside_transform() else dense.detach())
    if isinstance(matrix, System):
        return matrix
    raise InputError(f"a solver got a {type(matrix).__name__}; give an (n, n) tensor, a LinearOperator or a System")


def as_columns(rhs: Tensor, n: int) -> Tensor:
    """rhs (n,) or (n, t) as finite (n, t), or a clear error."""
    if not isinstance(rhs, Tensor) or rhs.ndim not in (1, 2) or rhs.shape[0] != n:
        got = f"of shape {tuple(rhs.shape)}" if isinstance(rhs, Tensor) else f"of type {type(rhs).__name__}"
        raise InputError(f"right-hand side {got}; expected ({n},) or ({n}, t)")
    columns = rhs if rhs.ndim == 2 else rhs[:, None]
    bad = torch.nonzero(~torch.isfinite(columns).all(dim=0)).flatten()
    if len(bad):
        raise InputError(f"right-hand side holds NaN or inf in column {int(bad[0])}; expected finite numbers")
    return columns


def joined(parts: list[Solution]) -> Solution:
    """Solutions of some columns each as one."""
    if len(parts) == 1:
        return parts[0]
    whole = {
        name: torch.cat([getattr(p, name) for p in parts], dim=-1)
        for name in ("value", "residual", "converged", "defect", "left", "error")
    }
    diagnostics = {
        "precision": [name for p in parts for name in p.diagnostics["precision"]],
        "history": [size for p in parts for size in p.diagnostics["history"]],
        "rank": parts[0].diagnostics["rank"],
    }
    known = [p.energy for p in parts if p.energy is not None]
    energy = torch.cat(known) if len(known) == len(parts) else None
    steps = sum(p.iterations for p in parts)
    return Solution(**whole, iterations=steps, diagnostics=diagnostics, energy=energy)


def empty(rhs: Tensor) -> Solution:
    """Of no columns, (n, 0)."""
    none = rhs.new_zeros(0)
    return Solution(rhs.clone(), none, 0, none.bool(), none, rhs.clone(), rhs.clone(), energy=none)


__all__ = ["Factor", "Solution", "Solver", "as_columns", "as_system", "empty", "joined"]
