"""What is done to the data: a `Perturbation` has an energy (its first-order force) and an effect (what it really does)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.posterior import Posterior


@dataclass(frozen=True)
class Energy:
    """`V_c(f) = Σ_{s in column c} ½ curvature_s (f_s - target_s)² - pull_s f_s`, per unit of the amplitude h.

    Under `p ∝ exp(-β (Σ ρ_i ℓ_i + h V))` this is the general quadratic perturbation at points.

    Attributes:
        at: (s,) index of each site, into the training rows or, when `points` is given, into those.
        column: (s,) the column each site belongs to.
        columns: number of columns c.
        curvature, target, pull: (s,).
        points: (k, d) points that are not training rows, or None.
        one_each: every column has exactly one site, in order.
    """

    at: Tensor
    column: Tensor
    columns: int
    curvature: Tensor
    target: Tensor
    pull: Tensor
    points: Tensor | None = None
    one_each: bool = False

    def times(self, h: float) -> "Energy":
        return replace(self, curvature=h * self.curvature, pull=h * self.pull)


class Perturbation(ABC):
    """c columns, each a one-parameter family of changed data sets.

    Attributes:
        unit: what h = 1 means.
        kind: short name, kept with every result.
        from_zero: h = 0 sits on the edge of what is possible (a new row of weight zero), so that only h >= 0 exists.
    """

    unit: str
    kind: str
    from_zero: bool = False

    @abstractmethod
    def columns(self, data: Dataset) -> list[str]:
        """Names of the columns, (c,)."""

    @abstractmethod
    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        """First-order force: dV/dh of every column. noise: σ², 0-dim; known noise of the rows is with the data."""

    def energy_of(self, posterior: Posterior) -> Energy:
        """`energy` as a posterior's likelihood sees it: exact for Gaussian noise, else the force and curvature of the sites."""
        if posterior.conjugate:
            return self.energy(posterior.data.to(dtype=torch.float64), posterior.noise)
        return self.site_energy(posterior)

    def site_energy(self, posterior: Any) -> Energy:
        """The energy's force and curvature at a posterior whose likelihood is not Gaussian."""
        raise InputError(f"{self.kind} has no response under {posterior.likelihood!r}; use a Gaussian likelihood")

    def potential(self, posterior: Any, field: Tensor) -> Tensor:
        """dV/dh of each site at values (q, s) of the field there, under a likelihood that is not Gaussian, (q, s)."""
        raise InputError(f"{self.kind} has no potential under {posterior.likelihood!r}; use a Gaussian likelihood")

    @abstractmethod
    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        """The data set after amplitudes h, (c,) or a number for a single column; differentiable in h."""

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        """The change of energy at amplitude h; linear in h unless a subclass says otherwise."""
        return self.energy(data, noise).times(h)


__all__ = ["Energy", "Perturbation"]
