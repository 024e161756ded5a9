"""Copies of modules that ask for no gradients."""

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """A copy whose parameters ask for no gradients; made parameter by parameter since torch.func forbids
    `requires_grad_` and refits run inside it."""
    frozen = {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in module.parameters()}
    return copy.deepcopy(module, frozen)


__all__ = ["frozen_copy"]
