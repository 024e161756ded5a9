"""Blocks of a kernel matrix, evaluated fast and without gradients: what products of matrices are made of."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gp_response.kernels import compiled
from gp_response.kernels.augmented import ENTRY_ERROR, Distances, ready
from gp_response.kernels.buffers import Buffer
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.kernels.compiled import Pairs
from gp_response.kernels.points import Coordinates, each, leaves, length, take
from gp_response.kernels.tiles import Tile, Tiling, cut, multiply, tiles

SIDE = 512  # of a block on a CPU: with its work it stays in the cache of a core
CUDA_SIDE = 4096
COMPILED_DIM = 256  # coordinates beyond which matrix products are the faster way to distances
FAR = 16.0  # coordinates beyond are not rounded before the kernel has taken their differences


InPlace: TypeAlias = Callable[[Tensor, Buffer], Any]

InPlaceSlope: TypeAlias = Callable[[Tensor, Buffer, Buffer], Tensor]


class Blocks:
    """Any kernel's blocks between coordinates, by its own `block` in the dtype asked for.

    Coordinates whose rounding to that dtype would be felt keep their own until the block is there.

    factor: the blocks are to be multiplied with it; taken out where that saves a pass.
    """

    factor: float = 1.0
    mode = "own"
    pairs: Pairs | None = None  # the whole matrix without the factor, where it is multiplied in one call

    def __init__(self, kernel: Any, cx: Coordinates, cy: Coordinates, dtype: torch.dtype) -> None:
        self.kernel, self.dtype, self.cx, self.cy = kernel, dtype, cx, cy
        self.wide = any(t.dtype != dtype and t.numel() and float(t.abs().max()) > FAR for t in leaves((cx, cy)))
        if not self.wide:
            self.cx, self.cy = _cast(cx, dtype), _cast(cy, dtype)

    def __call__(self, tile: Tile) -> Tensor:
        """The blocks (depth, n, w) without the factor; the next call may overwrite them, and so may the caller."""
        x, y = take(self.cx, tile.rows), take(self.cy, tile.columns)
        block = call_in_dtype_of(leaves(x)[0], self.kernel, _block, x, y) if self.wide else self.kernel.block(x, y)
        return (
            block.to(self.dtype)
            .unflatten(1, (tile.depth, -1))
            .transpose(0, 1)
            .clone(memory_format=torch.contiguous_format)
        )

    def given(self, tile: Tile) -> Any:
        """What `kernel.block_given` need not compute again where gradients are asked for."""
        return None


class DistanceBlocks(Blocks):
    """Blocks of a profile of the squared distance."""

    def __init__(self, kernel: Any, x: Tensor, y: Tensor, dtype: torch.dtype, exact: bool = False) -> None:
        self.factor = _factor(kernel)
        self.profile = kernel.profile
        self.multiple: float = 1.0
        self.in_place: InPlace | None = None
        if follows(kernel, "in_place", "profile"):
            self.multiple, self.in_place = kernel.in_place()
        self._in_place_slope = (
            kernel.in_place_slope() if follows(kernel, "in_place_slope", "in_place", "profile") else None
        )
        self.pairs = self._compiled(kernel, x, y, dtype, exact)
        if self.pairs is None:
            self.distances = Distances(x, y, dtype, multiple=self.multiple, profile=self.profile, exact=exact)
        self.mode = "compiled" if self.pairs is not None else self.distances.mode
        self._points, self._work, self._other = (x, y, dtype), Buffer(dtype, x.device), Buffer(dtype, x.device)
        self._for_slopes: Distances | None = None

    def _compiled(self, kernel: Any, x: Tensor, y: Tensor, dtype: torch.dtype, exact: bool) -> Pairs | None:
        known = follows(kernel, "compiled", "in_place", "profile") and kernel.compiled() is not None
        if x.device.type != "cpu" or not known or x.shape[-1] > COMPILED_DIM or compiled.library() is None:
            return None
        points = ready(x, y, dtype, profile=self.profile, exact=exact)
        if points is None:
            return None
        u, w, expanded = points
        return Pairs(u, w, dtype, profile=kernel.compiled(), multiple=self.multiple, expanded=expanded)

    def __call__(self, tile: Tile) -> Tensor:
        if self.pairs is not None:
            return self._evaluated(self.pairs, tile)
        q = self.distances(tile)
        if self.in_place is None:
            return self.profile(q.clamp_min_(0.0))
        self.in_place(q, self._work)
        return q

    def _evaluated(self, pairs: Pairs, tile: Tile) -> Tensor:
        wide = (tile.columns.stop - tile.columns.start) // tile.depth
        out = self._work(tile.depth, tile.rows.stop - tile.rows.start, wide)
        for i, part in enumerate(out):
            start = tile.columns.start + i * wide
            pairs.block(tile.rows, slice(start, start + wide), part)
        return out

    def given(self, tile: Tile) -> Any:
        if self._for_slopes is None:
            self._for_slopes = Distances(*self._points, multiple=self.multiple, profile=self._forces)
        q = self._for_slopes(tile)
        if self._in_place_slope is None:
            return (q.div_(self.multiple).clamp_min_(0.0),)
        return q, self._in_place_slope(q, self._work, self._other)

    def _forces(self, r2: Tensor) -> Tensor:
        """The derivative of the profile by the distance, where the slope alone feels that r2 is rounded."""
        with torch.enable_grad():
            at = r2.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.profile(at).sum(), at)
        return r2[:1].sqrt() * slope


class DotBlocks(Blocks):
    """Blocks of a profile of the inner product."""

    def __init__(self, kernel: Any, x: Tensor, y: Tensor, dtype: torch.dtype) -> None:
        self.factor, self.profile = _factor(kernel), kernel.profile
        self.x, self.y = x.to(dtype), y.to(dtype).mT.contiguous()
        self._out = Buffer(dtype, x.device)

    def __call__(self, tile: Tile) -> Tensor:
        x, y = self.x[tile.rows], cut(self.y, tile)
        return self.profile(multiply(x, y, self._out(len(y), len(x), y.shape[2])))


class JoinedBlocks(Blocks):
    """Blocks made of the blocks of parts."""

    def __init__(
        self, kernel: Any, parts: list[Blocks], join: Callable[[list[Tensor], list[float]], tuple[Tensor, float]]
    ) -> None:
        self.parts, self.join = parts, join
        self.mode = parts[0].mode if len(parts) == 1 else "mixed"
        self.scale = self.factor = _factor(kernel)
        if len(parts) == 1 and join == getattr(kernel, "join_blocks", None):
            self.pairs, self.factor = parts[0].pairs, self.scale * parts[0].factor

    def __call__(self, tile: Tile) -> Tensor:
        block, factor = self.join([part(tile) for part in self.parts], [part.factor for part in self.parts])
        self.factor = self.scale * factor
        return block

    def given(self, tile: Tile) -> Any:
        return [part.given(tile) for part in self.parts]


def _block(kernel: Any, x: Coordinates, y: Coordinates) -> Tensor:
    return kernel.block(x, y)


def _cast(points: Coordinates, dtype: torch.dtype) -> Coordinates:
    return each(lambda t: t.to(dtype), points)


def _factor(kernel: Any) -> float:
    return 1.0 if kernel.outputscale is None else float(kernel.outputscale)


def follows(kernel: Any, method: str, *sources: str) -> bool:
    """Whether a method still says what those it was written for say: no subclass has redefined them alone."""
    first = [next(i for i, c in enumerate(type(kernel).__mro__) if name in vars(c)) for name in (method, *sources)]
    return first[0] <= min(first[1:])


def blocks_of(kernel: Any, cx: Coordinates, cy: Coordinates, dtype: torch.dtype, *, exact: bool = False) -> Blocks:
    """The fastest blocks of a kernel without batches between coordinates (y is x when they are the same object).

    Entries are right to ENTRY_ERROR of the dtype, relative to the largest entry; with `exact`, to what the rounding of
    the coordinates leaves. Make them and call them where the kernel's tensors are in that
    dtype.
    """
    quick = dtype in ENTRY_ERROR and follows(kernel, "fast_blocks", "block", "scaled")
    if quick and not (exact and dtype != torch.float64):
        return kernel.fast_blocks(cx, cy, dtype, exact)
    return Blocks(kernel, cx, cy, dtype)


def side(kernel: Any, points: Coordinates) -> int:
    """Rows of a block; fewer where a formula needs many numbers for a pair."""
    most = CUDA_SIDE if leaves(points)[0].is_cuda else SIDE
    return max(16, math.isqrt(most * most // max(1, kernel.width(points))))


def tiles_of(kernel: Any, cx: Coordinates, cy: Coordinates, block: int | None = None) -> Tiling:
    """The tiles of K(x, y), of a size and number for this machine."""
    depth = 1 if leaves(cx)[0].is_cuda else torch.get_num_threads()
    return tiles(length(cx), length(cy), block or side(kernel, cx), depth, symmetric=cy is cx)


__all__ = ["Blocks", "DistanceBlocks", "DotBlocks", "JoinedBlocks", "blocks_of", "follows", "side", "tiles_of"]
