"""The training rows as a basis sees them, in blocks that are kept where there is room."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gp_response.heads.basis import Basis
from gp_response.linalg.blocks import block_size
from gp_response.linalg.memory import free_bytes
from gp_response.linalg.transforms import inside_transform

BLOCK = 4096  # rows evaluated at a time
SHARE = 0.15  # of the free memory goes into kept features


class Rows:
    """Features φ(x_i) of n training rows.

    Args:
        x: (n, d).
        keep: bytes of features that may stay in memory; None takes a seventh of what is free.
    """

    def __init__(self, basis: Basis, x: Tensor, *, keep: int | None = None):
        self.basis, self.x = basis, x
        free = free_bytes(x.device)
        room = int(SHARE * (2**32 if free is None else free)) if keep is None else keep
        self._keeps = inside_transform() or 8 * len(x) * len(basis) <= room
        self._kept: list[tuple[slice, Tensor]] | None = None
        self._norms: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Every block of rows with its features (m, b)."""
        if self._kept is not None:
            yield from self._kept
            return
        made = []
        for at in self._slices():
            features = self.basis.at(self.x[at])
            if self._keeps:
                made.append((at, features))
            yield at, features
        if self._keeps:
            self._kept = made

    def at(self, rows: Tensor) -> Tensor:
        """Features of some rows, (m, k)."""
        return self.basis.at(self.x[rows])

    def weighted(self, weights: Tensor) -> Tensor:
        """`Φ diag(weights) Φᵀ`, (m, m)."""
        total = self.x.new_zeros(len(self.basis), len(self.basis), dtype=torch.float64)
        for at, features in self.blocks():
            total = total + (features * weights[at]) @ features.T
        return total

    def gather(self, values: Tensor) -> Tensor:
        """`Φ v` for v (n,) or (n, t)."""
        return torch.stack([features @ values[at] for at, features in self.blocks()]).sum(dim=0)

    def spread(self, coefficients: Tensor) -> Tensor:
        """`Φᵀ c` for c (m,) or (m, t), (n, …)."""
        return torch.cat([features.T @ coefficients for _, features in self.blocks()])

    def squares(self, lower: Tensor) -> Tensor:
        """`‖L⁻¹φ_i‖²` of every row for a lower triangular L (m, m), (n,)."""
        parts = [
            torch.linalg.solve_triangular(lower, features, upper=False).square().sum(dim=0)
            for _, features in self.blocks()
        ]
        return torch.cat(parts)

    def norms(self) -> Tensor:
        """`‖φ_i‖²`, (n,)."""
        # Every probe asks for them; features that are not kept would be evaluated again each time.
        if self._norms is None:
            self._norms = torch.cat([features.square().sum(dim=0) for _, features in self.blocks()])
        return self._norms

    def _slices(self) -> Iterator[slice]:
        step = block_size(24 * len(self.basis), 2**29, most=BLOCK)
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))


__all__ = ["Rows"]
