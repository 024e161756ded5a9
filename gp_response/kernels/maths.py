"""Functions for profiles that run on tensors and on KeOps LazyTensors alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def sqrt(r2: Any) -> Any:
    """Square root whose gradient at exactly 0 is 0 rather than infinite.

    A plain `.sqrt()` gives NaN gradients on the diagonal of a kernel matrix, where r2 = 0. KeOps' root is safe there.
    Second derivatives at 0 are lost; a kernel that has them states its slope with `with_slope`.
    """
    return r2.clamp_min(1e-36).sqrt() if isinstance(r2, Tensor) else r2.sqrt()


def with_slope(value: Callable[[Any], Any], slope: Callable[[Any], Any], r2: Any) -> Any:
    """`value(r2)`, differentiated as `slope(r2)`: for functions whose own formula cancels or divides by 0 near 0.

    KeOps LazyTensors take `value` and differentiate it themselves.
    """
    return _WithSlope.apply(r2, value, slope) if isinstance(r2, Tensor) else value(r2)


def with_values(r2: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value`, differentiated once as a function of r2 that has this slope, which is overwritten then."""
    return _WithValues.apply(r2, value, slope)


class _WithValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, r2: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope  # a buffer, not saved: once the gradient has been taken it is free to change
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slope.mul_(grad), None, None


class _WithSlope(torch.autograd.Function):
    """An elementwise function with its derivative, which may be another such function."""

    @staticmethod
    def forward(r2: Tensor, value: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Tensor:
        return value(r2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.slope = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad * ctx.slope(ctx.saved_tensors[0]), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return tangent * ctx.slope(ctx.saved_tensors[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], r2: Tensor, value: Any, slope: Any) -> tuple[Tensor, int]:
        return with_slope(value, slope, r2), in_dims[0]


__all__ = ["sqrt", "with_slope", "with_values"]
