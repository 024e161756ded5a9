"""The general quadratic energy at points: what a perturbation adds to `Σ ρ_i ℓ_i`, per unit of its amplitude."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Energy:
    """`V_c(f) = Σ_{s in column c} ½ curvature_s (f_s - target_s)² - pull_s f_s + constant_s`, per unit of the amplitude h.

    Under `p ∝ exp(-β (Σ ρ_i ℓ_i + h V))` this is the general quadratic perturbation at points.

    Attributes:
        at: (s,) index of each site, into the training rows or, when `points` is given, into those.
        column: (s,) the column each site belongs to.
        columns: number of columns c.
        curvature, target, pull: (s,).
        points: (k, d) points that are not training rows, or None.
        one_each: every column has exactly one site, in order.
        constant: (s,), which moves nothing but the evidence; None: zero.
        also: sites of the other kind in the same columns, or None.
    """

    at: Tensor
    column: Tensor
    columns: int
    curvature: Tensor
    target: Tensor
    pull: Tensor
    points: Tensor | None = None
    one_each: bool = False
    constant: Tensor | None = None
    also: "Energy | None" = None

    def times(self, h: float) -> "Energy":
        constant = None if self.constant is None else h * self.constant
        also = None if self.also is None else self.also.times(h)
        return replace(self, curvature=h * self.curvature, pull=h * self.pull, constant=constant, also=also)

    @property
    def constants(self) -> Tensor:
        return torch.zeros_like(self.curvature) if self.constant is None else self.constant

    @property
    def parts(self) -> "list[Energy]":
        """Itself and the sites of the other kind, each without the other."""
        return [replace(self, also=None), *([] if self.also is None else self.also.parts)]


__all__ = ["Energy"]
