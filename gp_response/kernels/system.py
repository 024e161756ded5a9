"""The whitened system `B = c + p K p` of a kernel on points, never stored unless there is room."""

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import unknown_name
from gp_response.kernels.blocked import fast_matrix
from gp_response.kernels.symmetric import SymmetricBlocks
from gp_response.linalg.extended import residual
from gp_response.linalg.memory import free_bytes
from gp_response.linalg.system import ROUNDING
from gp_response.linalg.transforms import inside_transform

BACKENDS = ("auto", "blocked", "dense", "keops")
SHARE = 0.15  # of the free memory goes into kept blocks when nobody says how much
ROWS = 1024  # of K evaluated at a time for residuals in extended precision
PLAIN = 12.0  # rounding of a plain sum over a block of 1,024 entries, in eps, taken as random (Higham & Mary 2019)


class KernelSystem:
    """`B = c + p K(x, x) p`, B >= 1, with fast products in two precisions and residuals from exact float64 entries.

    Args:
        kernel: its hyperparameters are copied.
        x: (n, d) points; `dtype` is theirs, everything else is in float64.
        scale: p, (n,) float64 powers of two (or zero), so that scaling rounds nothing.
        shift: c, (n,) float64, at least 1.
        backend: of the fast products: "auto", "blocked", "dense" or "keops".
        keep: bytes of kernel blocks that may stay in memory; None takes a seventh of what is free.
    """

    def __init__(
        self, kernel: Any, x: Tensor, scale: Tensor, shift: Tensor, *, backend: str = "auto", keep: int | None = None
    ):
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, BACKENDS)
        self.kernel = copy.deepcopy(kernel).double().requires_grad_(False)
        self.x, self.dtype = x.detach().double(), x.dtype
        self.scale, self.shift, self.backend = scale[:, None], shift, backend
        self.n, self.device, self.floor = len(x), x.device, 1.0
        free = free_bytes(x.device)
        self.keep = int(SHARE * (free if free is not None else 2**32)) if keep is None else keep
        self._blocks: dict[str, SymmetricBlocks] = {}
        self._held: Tensor | None = None
        self._diagonal = scale**2 * self.kernel.diagonal(self.x) + shift

    def product(self, v: Tensor) -> Tensor:
        name = str(v.dtype).removeprefix("torch.")
        inner = self.scale.to(v.dtype) * v
        if self.backend in ("dense", "keops"):
            operator = self.kernel.operator(self.x.to(v.dtype), backend=self.backend)
            image = operator.matmul(inner)
        else:
            image = self._kept(name).product(inner)
        return image.mul_(self.scale.to(v.dtype)).addcmul_(self.shift.to(v.dtype)[:, None], v)

    def residual(self, rhs: Tensor, v: Tensor, *, extended: bool = False) -> Tensor:
        held = self._hold() if extended else self._held
        if held is not None:
            return residual(rhs, held, v)
        if extended:
            rows = torch.arange(self.n, device=self.device).split(ROWS)
            return torch.cat([residual(rhs[at], self._rows(at), v) for at in rows])
        # Kept blocks where products have made them; otherwise they pass by, which costs less than keeping them.
        blocks = self._blocks.get("float64") or self._passing
        return rhs - self.shift[:, None] * v - self.scale * blocks.product(self.scale * v)

    def rounding(self, v: Tensor, *, extended: bool = False) -> Tensor:
        # |B_ij| <= (d_i d_j)^½ for a positive definite matrix; the roundings of its entries are taken as random.
        units = ROUNDING if extended or self._held is not None else ROUNDING + PLAIN
        size = self._diagonal.sum().sqrt() * (self._diagonal.sqrt()[:, None] * v).norm(dim=0)
        return units * torch.finfo(torch.float64).eps * size

    def diagonal(self) -> Tensor:
        return self._diagonal

    def columns(self, index: Tensor) -> Tensor:
        # As rows: they go into row-wise factorisations.
        rows = fast_matrix(self.kernel, self.x[index], self.x)
        return rows.mul_(self.scale[index]).mul_(self.scale.T).T

    def dense(self, dtype: torch.dtype) -> Tensor:
        held = self._hold() if dtype == torch.float64 else None
        return self._assembled(dtype) if held is None else held.clone()

    def _assembled(self, dtype: torch.dtype) -> Tensor:
        x, scale = self.x.to(dtype), self.scale.to(dtype)
        if inside_transform() or self.n <= ROWS:
            matrix = self.kernel.matrix(x).mul_(scale).mul_(scale.T)
        else:  # by rows: of the kernel's own intermediate steps, some as large as K, none is whole
            matrix = x.new_empty(self.n, self.n)
            for rows, part, side in zip(matrix.split(ROWS), x.split(ROWS), scale.split(ROWS), strict=True):
                rows.copy_(self.kernel.matrix(part, x)).mul_(side).mul_(scale.T)
        matrix.diagonal().add_(self.shift.to(dtype))
        return matrix

    def _hold(self) -> Tensor | None:
        """Keep B itself where the budget allows: extended sums then need not evaluate the kernel again."""
        if self._held is None and 8 * self.n**2 <= self.keep:
            self._held = self._assembled(torch.float64)
            self._blocks.pop("float64", None)
        return self._held

    def _rows(self, at: Tensor) -> Tensor:
        rows = self.kernel.matrix(self.x[at], self.x).mul_(self.scale[at]).mul_(self.scale.T)
        rows[torch.arange(len(at)), at] += self.shift[at]
        return rows

    @cached_property
    def _passing(self) -> SymmetricBlocks:
        return SymmetricBlocks(self.kernel, self.x, dtype=torch.float64, exact=True)

    def _kept(self, name: str) -> SymmetricBlocks:
        """Blocks by precision. Those in float64 are exact, and serve products and residuals alike."""
        if name not in self._blocks:
            free = max(0, self.keep - sum(blocks.kept for blocks in self._blocks.values()))
            self._blocks[name] = SymmetricBlocks(
                self.kernel, self.x, dtype=getattr(torch, name), keep_bytes=free, exact=name == "float64"
            )
        return self._blocks[name]


__all__ = ["KernelSystem"]
