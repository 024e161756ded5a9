"""What is done to the data: a `Perturbation` has an energy (its first-order force) and an effect (what it really does)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.posterior import Posterior, Probe
from gp_response.response.energy import Energy
from gp_response.response.motion import Motion, site_motion
from gp_response.response.moves import Moves, SetMoves
from gp_response.response.quadratic import Quadratic, of_columns


class Perturbation(ABC):
    """c columns, each a one-parameter family of changed data sets.

    Attributes:
        unit: what h = 1 means.
        kind: short name, kept with every result.
        from_zero: h = 0 sits on the edge of what is possible (a new row of weight zero), so that only h >= 0 exists.
        changes_head: it is the model that changes (`changed_head`), not the data.
        finite: changes of any size have a closed form (`finite_energy`).
        curved: the energy is not linear in h, and `bent` has what is of second order.
    """

    unit: str
    kind: str
    from_zero: bool = False
    changes_head: bool = False
    finite: bool = True
    curved: bool = False

    @abstractmethod
    def columns(self, data: Dataset) -> list[str]:
        """Names of the columns, (c,)."""

    def columns_of(self, posterior: Posterior) -> list[str]:
        """Names of the columns for a posterior, where it takes one to know them."""
        return self.columns(posterior.data)

    def motion(self, posterior: Posterior) -> Motion:
        """How a posterior's field moves, to first order: by the perturbation's energy."""
        return site_motion(posterior, self.energy_of(posterior))

    def quadratic(self, posterior: Posterior, columns: Tensor) -> Quadratic:
        """The energies of some columns (sorted) as they act at the mean of a posterior with Gaussian noise."""
        return Quadratic.of(posterior, of_columns(self.energy_of(posterior), columns))

    def bent(self, posterior: Posterior, pairs: Tensor) -> Quadratic | None:
        """`∂²V/∂h_j∂h_k` of pairs (q, 2) of columns, a column for each; None where the energy is linear in h."""
        energy = self.second_energy(posterior.data.to(dtype=torch.float64), posterior.noise, pairs)
        return None if energy is None else Quadratic.of(posterior, energy)

    def second_energy(self, data: Dataset, noise: Tensor, pairs: Tensor) -> Energy | None:
        """The same for an energy at sites."""
        return None

    def moves(self, posterior: Posterior, probe: Probe) -> list[Moves | SetMoves]:
        """Exact changes at a probe's points as functions of h, where the energy is curved."""
        raise InputError(
            f"regime needs exact changes as functions of h in closed form, which those of {self.kind} have not; compare "
            "predict_change with finite_response at the sizes you want"
        )

    def noise_slope(self, posterior: Posterior) -> Tensor | None:
        """What σ² of new observations moves by, (c,); None: it stays."""
        return None

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        """First-order force: dV/dh of every column. noise: σ², 0-dim; known noise of the rows is with the data."""
        raise InputError(f"{self.kind} is no energy at sites; use susceptibility, or refit_response for finite changes")

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

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        """The data set after amplitudes h, (c,) or a number for a single column; differentiable in h."""
        return data

    def changed_head(self, head: Any, h: Tensor | float) -> Any:
        """The head after amplitudes h, (c,) or a number: itself, or where the model changes, a changed copy."""
        return head

    def scale(self, head: Any, data: Dataset) -> Tensor:
        """Amplitudes over which refits change smoothly, (c,), for differences of refits; half as much is stepped."""
        return torch.full((len(self.columns(data)),), 0.1, dtype=torch.float64)

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        """The change of energy at amplitude h; linear in h unless a subclass says otherwise."""
        return self.energy(data, noise).times(h)

    def finite_energy_of(self, posterior: Posterior, h: float) -> Energy:
        """`finite_energy` in float64, for a posterior."""
        return self.finite_energy(posterior.data.to(dtype=torch.float64), posterior.noise, h)

    def finite_noise(self, noise: Tensor, h: float) -> Tensor:
        """A new observation's σ² at amplitude h, 0-dim."""
        return noise


__all__ = ["Energy", "Perturbation"]
