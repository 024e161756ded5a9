"""The symmetric system behind an exact posterior, scaled so that nothing is lost on the way.

With site variances `D_i = σ_i²/(β ρ_i)` every solve is one with `A = K + D`. It is done in the form `B = p A p`, where p_i is
a power of two just above `D_i^-½`: the scaling is free of rounding, the diagonal `c = p D p` lies between one and four
so that `‖B⁻¹‖ <= 1` turns a measured residual into an error bound at no cost, and a row of weight zero has p = 0, c = 1: it is
simply not seen. (Rasmussen & Williams, eq. 3.26, have `D^-½` itself in the place of p.)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.linalg.transforms import inside_transform


class Whitening(NamedTuple):
    """Per training row, (n,): `scale` p, `shift` c, and `back` pD, which returns a solution with B to covariances."""

    scale: Tensor
    shift: Tensor
    back: Tensor

    def system(self, matrix: Tensor) -> Tensor:
        """`B = c + p K p`, (n, n); takes the memory of K where nobody differentiates."""
        differentiated = inside_transform() or matrix.requires_grad or self.shift.requires_grad
        system = self.scale[:, None] * matrix if differentiated else matrix.mul_(self.scale[:, None])
        system.mul_(self.scale)
        system.diagonal().add_(self.shift)
        return system

    def log_normaliser(self, data: Dataset, noise: Tensor, beta: float) -> Tensor:
        """What `-½ yᵀB⁻¹y - ½ log det B` lacks of `log ∫ p₀ exp(-β Σ ρ_i ℓ_i)`, 0-dim."""
        gibbs = beta * (data.train.weights.double() * (2.0 * torch.pi * noise).log()).sum()
        return 0.5 * (self.shift.log().sum() - gibbs)

    def to(self, like: Tensor) -> "Whitening":
        """In the precision of another tensor; powers of two stay what they are."""
        return Whitening(*(part.to(like) for part in self))

    def unseen(self) -> Tensor:
        """Rows of weight zero."""
        return torch.nonzero(self.scale == 0).flatten()


def whiten(data: Dataset, noise: Tensor, beta: float) -> Whitening:
    """The scaling for a set at noise σ² (0-dim, or (n,) by `row_noise`) and inverse temperature β; differentiable if ρ > 0."""
    weights = data.train.weights.double()
    seen = weights > 0
    variance = noise.double() / (beta * torch.where(seen, weights, torch.ones_like(weights)))
    root = variance.detach().rsqrt()
    scale = root / torch.frexp(root).mantissa  # exactly the power of two above
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    back = scale * variance
    return Whitening(
        torch.where(seen, scale, zero), torch.where(seen, scale * back, one), torch.where(seen, back, zero)
    )


__all__ = ["Whitening", "whiten"]
