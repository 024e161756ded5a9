"""Scaling to the unit box."""

import torch
from torch import Tensor, nn

from gp_response.errors import InputError


class UnitBox(nn.Module):
    """x -> (x - low) / (high - low), column by column; constant columns go to 0.

    low, high: (d,) bounds, kept in float64 as buffers, so that they are saved with the model and never trained.
    Raises InputError for bounds of different shapes, not finite, or with low > high.
    """

    low: Tensor
    span: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        low, high = (torch.as_tensor(t, dtype=torch.float64).detach().clone() for t in (low, high))
        if low.dim() != 1 or low.shape != high.shape:
            raise InputError(
                f"box bounds have shapes {tuple(low.shape)} and {tuple(high.shape)}; give two of shape (d,)"
            )
        if not bool((low.isfinite() & high.isfinite() & (low <= high)).all()):
            raise InputError(f"box bounds {low.tolist()} to {high.tolist()} must be finite with low <= high")
        self.register_buffer("low", low)
        self.register_buffer("span", torch.where(high > low, high - low, torch.ones_like(low)))

    @classmethod
    def of(cls, x: Tensor) -> "UnitBox":
        """The box that just contains the points x (n, d)."""
        if x.dim() != 2 or not len(x):
            raise InputError(f"points have shape {tuple(x.shape)}; give at least one, (n, d)")
        return cls(x.amin(0), x.amax(0))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.low):
            raise InputError(f"points have {x.shape[-1]} columns; this box has {len(self.low)}")
        return (x - self.low.to(x)) / self.span.to(x)


__all__ = ["UnitBox"]
