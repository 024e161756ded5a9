"""The one place where float64 hyperparameters meet data of another dtype or device."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class _Call(nn.Module):
    """Lets `functional_call` run any function of a module, not only its forward."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.module, *args)


def call_with(module: nn.Module, tensors: dict[str, Tensor], function: Callable[..., Any], *args: Any) -> Any:
    """`function(module, *args)` with the named parameters and buffers replaced; the module is left as it was."""
    return functional_call(_Call(module), {f"module.{k}": v for k, v in tensors.items()}, (function, *args))


def state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, as they are now (also inside somebody else's `functional_call`)."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def call_in_dtype_of(x: Tensor, module: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
    """`function(module, *args)` with floating parameters and buffers in x's dtype and all of them on x's device.

    Without the cast a float64 hyperparameter of shape (1,) would promote float32 data to float64. Gradients reach the
    uncast parameters.
    """
    tensors = state(module)
    if all(_fits(t, x) for t in tensors.values()):
        return function(module, *args)
    cast = {k: t.to(x.device, x.dtype if t.is_floating_point() else t.dtype) for k, t in tensors.items()}
    return call_with(module, cast, function, *args)


def _fits(t: Tensor, x: Tensor) -> bool:
    # Bounds of gpytorch constraints are 0-dimensional float32 buffers, which promote nothing.
    return t.device == x.device and (not t.is_floating_point() or t.dtype == x.dtype or t.dim() == 0)


__all__ = ["call_in_dtype_of", "call_with", "state"]
