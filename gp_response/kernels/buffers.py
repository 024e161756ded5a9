"""Memory that is used again for every block, so that it stays in cache."""

import torch
from torch import Tensor


class Buffer:
    """A piece of memory that grows to the largest block asked of it."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=dtype, device=device)

    def __call__(self, n: int, m: int) -> Tensor:
        """An uninitialised (n, m) matrix, over whatever was given out before."""
        if self._memory.numel() < n * m:
            self._memory = self._memory.new_empty(n * m)
        return self._memory[: n * m].view(n, m)


__all__ = ["Buffer"]
