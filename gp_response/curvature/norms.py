"""Normalisation as plain arithmetic: under vmap the fused kernels are differentiated a second time wrongly."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from gp_response.curvature.plain import Plain


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    found = _standardised(input, tuple(range(-len(normalized_shape), 0)), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
    bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not use_input_stats:  # then it is linear
        return functional.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    found = _standardised(input, tuple(range(2, input.ndim)), eps)
    each = (-1, *(1,) * (input.ndim - 2))  # a number for each channel
    found = found if weight is None else found * weight.reshape(each)
    return found if bias is None else found + bias.reshape(each)


def _standardised(input: Tensor, over: tuple[int, ...], eps: float) -> Tensor:
    centred = input - input.mean(dim=over, keepdim=True)
    return centred * (centred.square().mean(dim=over, keepdim=True) + eps).rsqrt()


class PlainNorms(Plain):
    """Inside, `layer_norm` and `instance_norm` are sums and products. Their own second derivatives, of weighted norms under vmap,
    are off by ten percent and more (torch 2.13), which no error says."""

    instead: ClassVar[dict[Callable, Callable]] = {
        functional.layer_norm: _layer_norm,
        functional.instance_norm: _instance_norm,
    }


__all__ = ["PlainNorms"]
