"""Memory that is used again for every block, so that it stays in cache."""

import math

import torch
from torch import Tensor


class Buffer:
    """A piece of memory that grows to the largest block asked of it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=dtype, device=device)

    def __call__(self, *shape: int) -> Tensor:
        """An uninitialised tensor, over whatever was given out before."""
        size = math.prod(shape)
        if self._memory.numel() < size:
            self._memory = self._memory.new_empty(size)
        return self._memory[:size].view(shape)


__all__ = ["Buffer"]
