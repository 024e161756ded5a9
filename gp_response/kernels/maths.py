"""Functions for profiles that run on tensors and on KeOps LazyTensors alike."""

from typing import Any

from torch import Tensor


def sqrt(r2: Any) -> Any:
    """Square root whose gradient at exactly 0 is 0 rather than infinite.

    A plain `.sqrt()` gives NaN gradients on the diagonal of a kernel matrix, where r2 = 0. KeOps' root is safe there.
    """
    return r2.clamp_min(1e-36).sqrt() if isinstance(r2, Tensor) else r2.sqrt()


__all__ = ["sqrt"]
