"""What a kernel's formula reads: a tensor of points, or for composite kernels a tuple of such, nested like them."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from gp_response.errors import InputError

Coordinates: TypeAlias = Any  # Tensor (..., n, d) | tuple[Coordinates, ...]; KeOps puts LazyTensors in place of tensors


def each(function: Callable[[Any], Any], points: Coordinates) -> Coordinates:
    """The same nest with `function` applied to every leaf."""
    return tuple(each(function, p) for p in points) if isinstance(points, tuple) else function(points)


def leaves(points: Coordinates) -> list[Any]:
    """The tensors of a nest, left to right."""
    return [leaf for p in points for leaf in leaves(p)] if isinstance(points, tuple) else [points]


def take(points: Coordinates, rows: slice) -> Coordinates:
    """Some rows of every leaf."""
    return each(lambda t: t[..., rows, :], points)


def length(points: Coordinates) -> int:
    """Number of points."""
    return leaves(points)[0].shape[-2]


def row_tiles(kernel: Any, cx: Coordinates, cy: Coordinates, elements: int) -> list[slice]:
    """Slices of rows whose blocks take about `elements` numbers each, temporaries of the formula included."""
    n, per_row = length(cx), batch_shape(kernel, cx, cy).numel() * length(cy) * kernel.width(cx)
    step = max(1, elements // max(1, per_row))
    return [slice(i, min(i + step, n)) for i in range(0, n, step)] or [slice(0, 0)]


def check_points(x: Tensor, y: Tensor | None) -> None:
    """Refuse what no kernel can read: wrong type, wrong rank, integers, two sets that do not match."""
    for name, t in (("x", x), ("y", y)):
        if t is None and name == "y":
            continue
        if not isinstance(t, Tensor) or not t.is_floating_point():
            got = f"{t.dtype} tensor" if isinstance(t, Tensor) else type(t).__name__
            raise InputError(f"kernel points {name} are a {got}; give a floating-point torch tensor of shape (n, d)")
        if t.dim() < 2:
            raise InputError(
                f"kernel points {name} have shape {tuple(t.shape)}; give (n, d), e.g. {name}[:, None] for d = 1"
            )
    if y is not None and (x.shape[-1], x.dtype, x.device) != (y.shape[-1], y.dtype, y.device):
        raise InputError(
            f"kernel points differ: x is {tuple(x.shape)} {x.dtype} on {x.device}, y is {tuple(y.shape)} {y.dtype} on "
            f"{y.device}; both need the same d, dtype and device"
        )


def batch_shape(kernel: Any, *points: Coordinates) -> torch.Size:
    """The batch shape of the matrix between the points under the kernel."""
    shapes = [leaf.shape[:-2] for p in points for leaf in leaves(p)]
    return torch.broadcast_shapes(kernel.batch_shape, *shapes)


__all__ = ["Coordinates", "batch_shape", "check_points", "each", "leaves", "length", "row_tiles", "take"]
