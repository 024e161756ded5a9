"""Layer normalisation as plain arithmetic: under vmap the fused kernel is differentiated a second time wrongly."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainNorms(TorchFunctionMode):
    """Inside, `layer_norm` is sums and products. Its own second derivative, of a weighted norm under vmap, is off by some percent
    (torch 2.13), which no error says."""

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = _layer_norm if func is torch.nn.functional.layer_norm else func
        return inner(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    over = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(dim=over, keepdim=True)
    found = centred * (centred.square().mean(dim=over, keepdim=True) + eps).rsqrt()
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


__all__ = ["PlainNorms"]
