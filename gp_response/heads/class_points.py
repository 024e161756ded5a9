"""Points that carry a class."""

import torch
from torch import Tensor


def with_classes(x: Tensor, classes: int) -> Tensor:
    """Points x (n, d) once for each class, (n C, d + 1), the class last."""
    every = torch.arange(classes, dtype=x.dtype, device=x.device).repeat(len(x))
    return torch.cat([x.repeat_interleave(classes, dim=0), every[:, None]], dim=1)


__all__ = ["with_classes"]
