"""K(x, x) as a matrix to multiply with many times, in as much memory as one gives."""

from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.kernels import blocked
from gp_response.kernels.blocks import Blocks, blocks_of, tiles_of
from gp_response.kernels.casting import call_in_dtype_of, call_with, state
from gp_response.kernels.points import Coordinates, check_points
from gp_response.kernels.tiles import RunningProduct, Tile


class SymmetricBlocks:
    """K(x, x) by the blocks on and above its diagonal, with the hyperparameters it has now; no gradients.

    x: (n, d); features and coordinates are evaluated once, in its dtype or `dtype`, whichever is finer.
    dtype: of entries and products, float32 or float64.
    block: rows of a block, at most.
    keep_bytes: memory for blocks, filled by the first product; those it has no room for are evaluated each time, and so
        are those that are evaluated as fast as they are read.
    exact: take every entry as `Kernel.matrix` does, by differences; otherwise entries are right to 32 eps (float32) or
        1024 eps (float64) of the largest.

    Attributes: n, dtype, device; kept, the bytes in use for blocks.
    Raises InputError for batches, and for points that no kernel can read.
    """

    def __init__(
        self,
        kernel: Any,
        x: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
        block: int | None = None,
        keep_bytes: int = 0,
        exact: bool = False,
    ) -> None:
        check_points(x, None)
        if x.dim() > 2 or len(kernel.batch_shape):
            raise InputError(
                f"points of shape {tuple(x.shape)} and a kernel of batch shape {tuple(kernel.batch_shape)}; "
                "give points (n, d) and a kernel without batches"
            )
        if block is not None and block < 1:
            raise InputError(f"block = {block}; a block needs at least one row")
        self.n, self.dtype, self.device, self._kept, self._keep = len(x), dtype, x.device, 0, keep_bytes
        self._kernel = kernel
        self._store: list[Tensor] = []
        with torch.no_grad():
            x = x.to(torch.promote_types(x.dtype, dtype))
            points = call_in_dtype_of(x, kernel, _coordinates, x)
            self._state = {k: _as(t, x.device, dtype) for k, t in state(kernel).items()}
            self._blocks: Blocks = call_with(kernel, self._state, _blocks, points, dtype, exact)
        self._tiles = tiles_of(kernel, points, points, block)
        if self._blocks.pairs is not None:
            self._blocks.pairs.keep(keep_bytes)

    @property
    def mode(self) -> str:
        """How distances are had, see `Distances`; "mixed" for kernels of parts, "own" for those with other blocks."""
        return self._blocks.mode

    @property
    def kept(self) -> int:
        return self._kept if self._blocks.pairs is None else self._blocks.pairs.kept

    def product(self, v: Tensor) -> Tensor:
        """K @ v for v (n, t), in `dtype`."""
        if v.dim() != 2 or len(v) != self.n:
            raise InputError(f"product with a tensor of shape {tuple(v.shape)}; expected ({self.n}, t)")
        with torch.no_grad():
            return call_with(self._kernel, self._state, self._product, v.to(self.dtype))

    def _product(self, _: Any, v: Tensor) -> Tensor:
        if self._blocks.pairs is not None:
            return self._blocks.pairs.product(v).mul_(self._blocks.factor)
        total = RunningProduct(self._tiles, v)
        for i, tile in enumerate(self._tiles):
            k = self._store[i] if i < len(self._store) else self._evaluated(i, tile)
            total.add(k, tile)
        return total.total(self._blocks.factor)

    def _evaluated(self, i: int, tile: Tile) -> Tensor:
        """Blocks, kept where there is room; the kept ones are the first."""
        k = self._blocks(tile)
        size = k.numel() * k.element_size()
        if i == len(self._store) and self._kept + size <= self._keep:
            self._store.append(k.clone())
            self._kept += size
        return k


def _blocks(kernel: Any, points: Coordinates, dtype: torch.dtype, exact: bool) -> Blocks:
    return blocks_of(kernel, points, points, dtype, exact=exact)


def _coordinates(kernel: Any, x: Tensor) -> Coordinates:
    return kernel.coordinates(kernel.select(x))


def _as(t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    return t.detach().to(device, dtype if t.is_floating_point() else t.dtype, copy=True)


def symmetric_bilinear(kernel: Any, x: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """Σ_t u_tᵀ K(x, x) w_t for u and w (n, t), 0-dimensional, in the dtype of x; memory O(n (d + t)) and a block.

    Differentiable in the kernel's parameters, features included, in x, u and w. The gradient evaluates half the blocks
    once more; see `blocked.product`.
    """
    return (u.to(x.dtype) * symmetric_product(kernel, x, w.to(x.dtype))).sum()


def symmetric_product(kernel: Any, x: Tensor, v: Tensor) -> Tensor:
    """K(x, x) v for v (n, t) in the dtype of x, with the memory and the gradients of `symmetric_bilinear`."""
    check_points(x, None)
    return call_in_dtype_of(x, kernel, _symmetric_product, x, v)


def _symmetric_product(kernel: Any, x: Tensor, v: Tensor) -> Tensor:
    points = _coordinates(kernel, x)
    return blocked.product(kernel, points, points, v)


__all__ = ["SymmetricBlocks", "symmetric_bilinear", "symmetric_product"]
