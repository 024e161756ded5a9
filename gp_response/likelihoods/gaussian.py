"""Gaussian observation noise."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels.parameters import positive
from gp_response.likelihoods.base import Likelihood, Slopes


class Gaussian(Likelihood):
    """`y = f + N(0, σ²)`.

    Args:
        noise: variance σ² (not its root), in the units of y squared.
    """

    def __init__(self, noise: float = 0.1):
        super().__init__()
        if isinstance(noise, torch.Tensor) and noise.numel() != 1:
            raise InputError(
                f"Gaussian got noise of shape {tuple(noise.shape)}; expected one number. Where outputs differ in noise, divide "
                "each and its labels by the root of its own, and give noise=1"
            )
        if not 0.0 < float(noise) < float("inf"):
            raise InputError(f"Gaussian(noise={noise!r}): expected a positive finite variance")
        self.noise_constraint: Any = positive()
        start = torch.tensor(float(noise), dtype=torch.float64)
        self.raw_noise = nn.Parameter(self.noise_constraint.inverse_transform(start))

    @property
    def noise(self) -> Tensor:
        """σ², 0-dim."""
        return self.noise_constraint.transform(self.raw_noise)

    def log_prob(self, f: Tensor, y: Tensor) -> Tensor:
        noise = self.noise.to(f)
        return -0.5 * ((2.0 * math.pi * noise).log() + (y - f) ** 2 / noise)

    def moments(self, f: Tensor) -> tuple[Tensor, Tensor]:
        return f, self.noise.to(f).expand_as(f)

    def slopes(self, f: Tensor, y: Tensor) -> Slopes:
        first = (y - f) / self.noise.to(f)
        return Slopes(first, -torch.ones_like(first) / self.noise.to(f), torch.zeros_like(first))

    def information(self, f: Tensor) -> Tensor:
        return (1.0 / self.noise.to(f)).expand_as(f)

    def log_density(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        total = variance + self.noise.to(mean)
        return -0.5 * ((2.0 * math.pi * total).log() + (y - mean) ** 2 / total)

    def predictive(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return mean, variance + self.noise.to(mean)

    def expected_loss(self, mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
        noise = self.noise.to(mean)
        return 0.5 * ((2.0 * math.pi * noise).log() + ((y - mean) ** 2 + variance) / noise)

    def __repr__(self) -> str:
        return f"Gaussian(noise={float(self.noise.detach()):.4g})"


class RowGaussian(Gaussian):
    """Gaussian noise with one given variance an observation, (n,)."""

    def __init__(self, noise: Tensor):
        super().__init__()
        self.of_rows = noise

    @property
    def noise(self) -> Tensor:
        return self.of_rows

    def __repr__(self) -> str:
        return f"RowGaussian({len(self.of_rows)} rows)"


__all__ = ["Gaussian", "RowGaussian"]
