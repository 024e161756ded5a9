"""Heavy-tailed observation noise, for targets with outliers."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels.parameters import positive
from gp_response.likelihoods.base import Likelihood, Slopes

MIXTURE = 512  # points of the trapezoidal rule over the mixture's log precision


class StudentT(Likelihood):
    """`y = f + s·t_ν` (Rasmussen & Williams 2006, section 3.7; Vanhatalo, Jylänki & Vehtari 2009).

    Not log-concave: an observation far from the field takes precision away, so the mode need not be the only one.

    Args:
        scale: s², the square of the scale, in the units of y squared; trained.
        degrees: ν > 0, not trained.
    """

    concave = False

    def __init__(self, scale: float = 0.1, degrees: float = 4.0):
        super().__init__()
        for name, value in (("scale", scale), ("degrees", degrees)):
            if not 0.0 < float(value) < float("inf"):
                raise InputError(f"StudentT({name}={value!r}): expected a positive finite number")
        self.degrees = float(degrees)
        self.scale_constraint: Any = positive()
        start = torch.tensor(float(scale), dtype=torch.float64)
        self.raw_scale = nn.Parameter(self.scale_constraint.inverse_transform(start))

    @property
    def scale(self) -> Tensor:
        """s², 0-dim."""
        return self.scale_constraint.transform(self.raw_scale)

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        nu, s2 = self.degrees, self.scale.to(f)
        start = math.lgamma(0.5 * (nu + 1.0)) - math.lgamma(0.5 * nu) - 0.5 * (math.pi * nu * s2).log()
        return start - 0.5 * (nu + 1.0) * ((y - f) ** 2 / (nu * s2)).log1p()

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        nu = self.degrees
        spread = self.scale.to(f) * nu / (nu - 2.0) if nu > 2.0 else torch.full((), float("inf")).to(f)
        return f, spread.expand_as(f)

    def log_density(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        """A mixture of N(y; mean, variance + s²/λ) over gamma distributed λ, which is smooth in log λ."""
        half = 0.5 * self.degrees
        low, high = -80.0 / (self.degrees + 1.0), math.log(45.0 / half + 10.0)  # e⁻⁴⁰ of the peak, or less
        u = torch.linspace(low, high, MIXTURE, dtype=mean.dtype, device=mean.device)
        density = half * math.log(half) - math.lgamma(half) + half * (u - u.exp()) + (u[1] - u[0]).log()
        total = variance.clamp_min(0.0)[..., None] + self.scale.to(mean) * (-u).exp()
        normal = -0.5 * ((2.0 * math.pi * total).log() + ((y - mean) ** 2)[..., None] / total)
        return torch.logsumexp(normal + density, dim=-1)

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        r, a = y - f, self.degrees * self.scale.to(f)
        c, u = self.degrees + 1.0, a + (y - f) ** 2
        return Slopes(c * r / u, c * (r**2 - a) / u**2, 2.0 * c * r * (r**2 - 3.0 * a) / u**3)

    def information(self, f: Tensor) -> Tensor:
        return ((self.degrees + 1.0) / ((self.degrees + 3.0) * self.scale.to(f))).expand_as(f)

    def safe_curvature(self, f: Tensor, y: Tensor) -> Tensor:
        return (self.degrees + 1.0) / (self.degrees * self.scale.to(f) + (y - f) ** 2)  # that of the Gaussian mixture

    def __repr__(self) -> str:
        return f"StudentT(scale={float(self.scale.detach()):.4g}, degrees={self.degrees!r})"


__all__ = ["StudentT"]
