"""The posterior precision of a network's parameters, whitened by the prior: `B = 1 + Λ₀^-½ G Λ₀^-½`."""

from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.system import ROUNDING


class NetworkSystem:
    """B for a curvature G, known by its products; B >= 1 where G is positive semi-definite.

    Args:
        curvature: G, (P, P), with `matmat`, of dtype float64 or float32.
        root: Λ₀^½, 0-dim or (P,) float64.
        size: bound on the trace of `Λ₀^-½ |G| Λ₀^-½`, of which rounding of products is a part.
        floor: a lower bound of the eigenvalues of B.
    """

    def __init__(self, curvature: Any, root: Tensor, *, size: float, floor: float | None = 1.0):
        self.curvature, self.floor = curvature, floor
        self.root = root if root.ndim == 0 else root[:, None]
        self.n, self.device, self.dtype = curvature.shape[0], curvature.device, curvature.dtype
        self.shift = torch.ones(self.n, dtype=torch.float64, device=self.device)
        self.off = ROUNDING * torch.finfo(self.dtype).eps * (1.0 + size)

    def within(self, v: Tensor) -> Tensor:
        """`(B - 1) v` for v (P, t), in the dtype of v."""
        inner = (v / self.root).to(self.dtype)
        return (self.curvature.matmat(inner).to(self.root) / self.root).to(v)

    def product(self, v: Tensor) -> Tensor:
        return v + self.within(v)

    def residual(self, rhs: Tensor, v: Tensor, *, extended: bool = False) -> Tensor:
        return rhs - v - self.within(v)

    def rounding(self, v: Tensor, *, extended: bool = False) -> Tensor:
        return self.off * v.norm(dim=0)

    def diagonal(self) -> Tensor:
        raise InputError("the diagonal of a network's curvature is not kept; use solver=Dense() or CG()")

    def columns(self, index: Tensor) -> Tensor:
        unit = torch.zeros(self.n, len(index), dtype=torch.float64, device=self.device)
        unit[index, torch.arange(len(index), device=self.device)] = 1.0
        return self.within(unit)

    def dense(self, dtype: torch.dtype, *, block: int = 256) -> Tensor:
        """B itself, a block of columns at a time, symmetric to the last digit."""
        every = torch.arange(self.n, device=self.device)
        matrix = torch.cat([self.columns(some) for some in every.split(block)], dim=1)
        matrix = 0.5 * (matrix + matrix.T)
        matrix.diagonal().add_(1.0)
        return matrix.to(dtype)


__all__ = ["NetworkSystem"]
