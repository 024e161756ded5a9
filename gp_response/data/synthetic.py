"""Data whose true function is known: a draw from a Gaussian-process prior, seen with noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gp_response.data.build import dataset
from gp_response.data.dataset import Dataset
from gp_response.errors import InputError, unknown_name
from gp_response.shapes import Matrix, OtherPoints, Points, Values

# Degrees of freedom of the spectral density, a Student t; without a number it is Gaussian.
SMOOTHNESS = {"rbf": None, "matern12": 1, "matern32": 3, "matern52": 5}


@dataclass(frozen=True, repr=False)
class Field:
    """A function f(x) = sum_i weights_i cos(frequencies_i . x + phases_i), known everywhere; x (n, d) -> (n,)."""

    frequencies: Tensor
    phases: Tensor
    weights: Tensor
    outputscale: float

    def __call__(self, x: Points) -> Values:
        return self._waves(x) @ self.weights.to(x)

    def covariance(self, x: Points, y: OtherPoints) -> Matrix:
        """The prior covariance (n, m) given the frequencies: the kernel, up to 1/sqrt(features)."""
        return self._waves(x) @ self._waves(y).mT * (2.0 * self.outputscale / len(self.weights))

    def _waves(self, x: Points) -> Tensor:
        return (x @ self.frequencies.to(x).mT + self.phases.to(x)).cos()


def synthetic(
    n: int = 1000,
    dim: int = 2,
    *,
    lengthscale: float = 0.3,
    noise: float = 0.01,
    outputscale: float = 1.0,
    kernel: Literal["rbf", "matern12", "matern32", "matern52"] = "rbf",
    test: int = 0,
    features: int = 2048,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Dataset, Field]:
    """n training and `test` test rows of a known function on the unit cube, and the function.

    Inputs are uniform on [0, 1]^dim; y = f(x) + sqrt(noise) e, with `noise` the variance. f is a draw of the prior with
    this kernel by `features` random Fourier features (Rahimi & Recht 2007): exactly Gaussian, its covariance the
    kernel's up to 1/sqrt(features), and the same function for every n. Nothing is standardised, so lengthscale,
    outputscale and noise are the truth in the data's units. `data.train.y - truth(data.train.x)` is the noise.

    Raises InputError for sizes below 1 and parameters that are not positive (noise may be 0).
    """
    for name, size in (("n", n), ("dim", dim), ("features", features), ("test", test + 1)):
        if size < 1:
            raise InputError(f"{name}={size - (name == 'test')}; expected a whole number, at least {name != 'test':d}")
    for name, value in (("lengthscale", lengthscale), ("outputscale", outputscale)):
        if not value > 0:
            raise InputError(f"{name}={value}; expected a positive number")
    if not noise >= 0:
        raise InputError(f"noise={noise}; expected a variance, 0 or more")
    field = _field(dim, lengthscale, outputscale, kernel, features, np.random.default_rng([seed, 0]))
    inputs, errors = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    x = torch.from_numpy(inputs.random((n + test, dim)))
    y = field(x) + noise**0.5 * torch.from_numpy(errors.standard_normal(n + test))
    x, y = x.to(dtype), y.to(dtype)
    held_out = {"test_x": x[n:], "test_y": y[n:]} if test else {}
    return dataset(x[:n], y[:n], standardise=False, target="f + noise", **held_out), field


def _field(
    dim: int, lengthscale: float, outputscale: float, kernel: str, features: int, rng: np.random.Generator
) -> Field:
    if kernel not in SMOOTHNESS:
        raise unknown_name("kernel", kernel, SMOOTHNESS)
    frequencies = rng.standard_normal((features, dim)) / lengthscale
    degrees = SMOOTHNESS[kernel]
    if degrees is not None:
        frequencies /= np.sqrt(rng.chisquare(degrees, (features, 1)) / degrees)
    phases = rng.uniform(0.0, 2.0 * np.pi, features)
    weights = rng.standard_normal(features) * np.sqrt(2.0 * outputscale / features)
    return Field(torch.from_numpy(frequencies), torch.from_numpy(phases), torch.from_numpy(weights), outputscale)
