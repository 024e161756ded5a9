"""What every preconditioner offers: `M = L Lᵀ`, to be applied from both sides (split preconditioning, Saad 2003, section 9.2.1)."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class SplitPreconditioner(Protocol):
    """`M = L Lᵀ` near a system B.

    Attributes:
        rank: columns that M was made from.
        below: whether `B >= M` is known, by which M bounds errors.
        pivots: rows of B that stand for the others, (k,).
        root_diagonal: roots of a lower bound of M, (n,).
    """

    below: bool
    pivots: Tensor
    root_diagonal: Tensor

    @property
    def rank(self) -> int: ...

    def whiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻¹ v` for v (n, t)."""

    def whiten_transposed(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻ᵀ v`."""

    def unwhiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L v`."""

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v`."""

    def logdet(self) -> Tensor:
        """`log det M`, 0-dim."""

    def inverse_diagonal(self) -> Tensor:
        """The diagonal of M⁻¹ or a bound on it, (n,)."""


__all__ = ["SplitPreconditioner"]
