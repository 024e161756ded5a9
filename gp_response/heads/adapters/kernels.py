"""gpytorch's kernels written with ours where one of ours is the same function, and wrapped where none is."""

import copy
from typing import Any

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels import (
    RBF,
    Constant,
    Foreign,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    Sum,
)

stock = gpytorch.kernels
MATERN: dict[float, Any] = {0.5: Matern12, 1.5: Matern32, 2.5: Matern52}
AGREEMENT = 1e-6  # of the largest entry; gpytorch loses about this much where it expands squares


def translate_kernel(kernel: gpytorch.kernels.Kernel, x: Tensor, *, scale: float | None = None) -> Kernel:
    """`scale * kernel` in float64, agreeing at the points x (k, d) or else evaluated by its own code.

    Args:
        kernel: is copied.
        x: points as the kernel is given them.
        scale: None for no factor.

    Raises:
        InputError: a batch of kernels.
    """
    theirs = own_copy(kernel)
    for module in theirs.modules():
        if isinstance(module, stock.Kernel) and len(module.batch_shape):
            raise InputError(
                f"{type(module).__name__} has batch shape {tuple(module.batch_shape)}; give a model of one output"
            )
    factor = None if scale is None else torch.tensor(scale, dtype=torch.float64)
    wrapped = _wrapped(theirs, factor)
    ours = _translated(theirs, factor, theirs.active_dims) or wrapped
    with torch.no_grad():
        truth, got = wrapped.matrix(x.double()), ours.matrix(x.double())
    return ours if float((truth - got).abs().max()) <= AGREEMENT * float(truth.abs().max()) else wrapped


def own_copy(module: nn.Module) -> Any:
    """A copy in float64 and evaluation mode, of which nothing leads back to the original."""
    return copy.deepcopy(module).double().eval()


def _translated(k: Any, scale: Tensor | None, dims: Tensor | None) -> Kernel | None:
    """`scale * k` on the columns `dims`, None where it has no translation. The scale ends in a hyperparameter."""
    if isinstance(k, Kernel):
        return k if scale is None else Scale(k, outputscale=scale)
    options: dict[str, Any] = {"active_dims": None if dims is None else dims.tolist()}
    if type(k) is stock.ScaleKernel:
        # gpytorch selects columns once, at the ScaleKernel, which has taken over those of its base.
        factor = k.outputscale.detach() if scale is None else scale * k.outputscale.detach()
        return _translated(k.base_kernel, factor, dims)
    if type(k) in (stock.AdditiveKernel, stock.ProductKernel):
        parts = [_translated(part, None, part.active_dims) or _wrapped(part, None) for part in k.kernels]
        return (Sum if type(k) is stock.AdditiveKernel else Product)(*parts, outputscale=scale, **options)
    make = _leaf(k)
    return None if make is None else make(outputscale=scale, **options)


def _leaf(k: Any) -> Any:
    """A function of outputscale and active_dims, None for a kernel that is not known."""
    if type(k) is stock.RBFKernel:
        return lambda **options: RBF(**_lengthscale(k), **options)
    if type(k) is stock.MaternKernel:
        return lambda **options: MATERN[k.nu](**_lengthscale(k), **options)
    if type(k) is stock.RQKernel:
        alpha = k.alpha.detach().squeeze()
        return lambda **options: RationalQuadratic(alpha=alpha, **_lengthscale(k), **options)
    if type(k) is stock.PeriodicKernel:
        # Theirs divides by the lengthscale, ours by its square.
        own, period = _lengthscale(k), _per_dimension(k.period_length, k.ard_num_dims)
        return lambda **options: Periodic(period=period, lengthscale=own["lengthscale"].sqrt(), **options)
    if type(k) is stock.LinearKernel:
        width = _per_dimension(k.variance, k.ard_num_dims).rsqrt()
        return lambda **options: Linear(lengthscale=width, **options)
    if type(k) is stock.PolynomialKernel:
        offset = k.offset.detach().squeeze()
        return lambda **options: Polynomial(degree=k.power, offset=offset, lengthscale=None, **options)
    if type(k) is stock.ConstantKernel:
        return lambda outputscale, **options: Constant(
            outputscale=k.constant.detach().squeeze() * (1.0 if outputscale is None else outputscale), **options
        )
    return None


def _lengthscale(k: Any) -> dict[str, Any]:
    return {"lengthscale": _per_dimension(k.lengthscale, k.ard_num_dims)}


def _per_dimension(value: Tensor, ard: int | None) -> Tensor:
    """(d,) where there is one a dimension, 0-dim where there is one for all."""
    return value.detach().reshape(-1) if ard is not None else value.detach().squeeze()


def _wrapped(k: gpytorch.kernels.Kernel, scale: Tensor | None) -> Kernel:
    ours = k if isinstance(k, Kernel) else Foreign(k)
    return ours if scale is None else Scale(ours, outputscale=scale)


__all__ = ["own_copy", "translate_kernel"]
