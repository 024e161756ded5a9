"""Functions of torch that are differentiated wrongly, or one way and not the other, as plain arithmetic."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Plain(TorchFunctionMode):
    """Inside, the functions that a subclass names in `instead` are others."""

    instead: ClassVar[dict[Callable, Callable]]

    def __torch_function__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.instead.get(func, func)(*args, **(kwargs or {}))


def _embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:  # fmt: skip
    found = functional.embedding(input, weight, None, max_norm, norm_type)
    if padding_idx is None:
        return found
    return torch.where((input == padding_idx % len(weight))[..., None], found.detach(), found)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [axis for axis in range(v.ndim) if dim == -1 or axis != dim]
    return v * (g / torch.linalg.vector_norm(v, dim=over, keepdim=True))


class PlainFunctions(Plain):
    """Inside, the vector that an embedding pads with is held, as training holds it: in torch reverse mode does so and forward mode
    does not, and frequencies of words scale gradients in reverse mode alone. Weight norms are sums and products: torch's own
    (2.13) have no forward mode, and second derivatives that are not symmetric."""

    instead: ClassVar[dict[Callable, Callable]] = {functional.embedding: _embedding, torch._weight_norm: _weight_norm}


__all__ = ["Plain", "PlainFunctions"]
