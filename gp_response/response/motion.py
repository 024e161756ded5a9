"""How the field moves, to first order in the amplitude of each column of a perturbation.

A `Motion` stands between perturbations and observables: the first say how marginals move at any reading of the field, the
second what that does to them. Sites move it by the fluctuation-dissipation theorem (`SiteMotion`); changes of the prior and
of the inputs have motions of their own.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.assemble import Answer
from gp_response.response.coupled import coupled_answer
from gp_response.response.energy import Energy
from gp_response.response.observable import Derivatives
from gp_response.response.sites import by_column, covariances, stand

EPS = torch.finfo(torch.float64).eps


class Motion(ABC):
    """First-order motion of a posterior's field by c columns.

    Attributes:
        posterior: what moves.
        columns: c.
        width: numbers a point needs at once, for planning memory.
        noise: (c,) what a new observation's σ² moves by; None: it stays.
    """

    posterior: Any
    columns: int
    width: int
    noise: Tensor | None = None

    @abstractmethod
    def marginals(self, probe: Probe) -> tuple[Certified, Certified]:
        """Motions of means and variances of a probe's readings, each (p, c)."""

    def answer(self, probe: Probe, d: Derivatives) -> Answer:
        """Derivatives of local expectations whose own derivatives by mean and variance are d, (p, c)."""
        by_mean, by_variance = self.marginals(probe)
        value = d.mean[:, None] * by_mean.value + d.variance[:, None] * by_variance.value
        return Answer(value, _error(d, probe, by_mean, by_variance), probe.converged)

    @abstractmethod
    def log_evidence(self) -> Certified:
        """Motion of the log evidence, (c,)."""

    @abstractmethod
    def learning_coefficient(self) -> Certified:
        """Motion of `½ Σ τ_i S_ii`, half the effective dimension, (c,)."""

    def energies(self) -> list[Energy] | None:
        """What moves the field where nothing but energies at sites does; else None."""
        return None

    def marks(self) -> list[Any]:
        """All that determines the motion beside the posterior, for the fingerprint of stored results."""
        raise InputError(f"{type(self).__name__} cannot be written to disk block by block; leave out= away")


class SiteMotion(Motion):
    """By a quadratic energy at sites: means move by `β S g`, variances by `-β S² a`.

    Where the likelihood is not Gaussian, the stationarity condition of the approximation is differentiated (`coupled`).
    """

    def __init__(self, posterior: Posterior, energy: Energy, noise: Tensor | None = None):
        self.posterior, self.energy, self.noise = posterior, energy, noise
        self.columns, self.width = energy.columns, max(len(energy.at), energy.columns)
        self.ground = stand(posterior, energy)

    def marginals(self, probe: Probe) -> tuple[Certified, Certified]:
        (cov, cov_error), beta = covariances(self.posterior, probe, self.energy, self.ground), self.posterior.beta
        (force, force_error), curvature = self.ground.force, self.energy.curvature
        by_mean = Certified(
            beta * cov * force,
            beta * (cov_error * (force.abs() + force_error) + cov.abs() * force_error),
        )
        by_variance = Certified(
            -beta * curvature * cov**2,
            beta * curvature.abs() * cov_error * (2.0 * cov.abs() + cov_error),
        )
        return self._collected(by_mean), self._collected(by_variance)

    def answer(self, probe: Probe, d: Derivatives) -> Answer:
        if self.posterior.conjugate:
            return super().answer(probe, d)
        seen = covariances(self.posterior, probe, self.energy, self.ground)
        return coupled_answer(self.posterior, probe, d, self.energy, self.ground, seen)

    def log_evidence(self) -> Certified:
        """`-β⟨V⟩`: the evidence is the generating function."""
        require_gaussian(self.posterior, "evidence")
        value, error = self.energy_at_mean(fluctuating=True)
        return Certified(-self.posterior.beta * value, self.posterior.beta * error)

    def energy_at_mean(self, *, fluctuating: bool = False) -> Certified:
        """V at the mean and with the variance left out, (c,); fluctuating: ⟨V⟩, with the variance that responds, too."""
        energy = self.energy
        mean, variance = self._standing(fluctuating)
        off = mean.value - energy.target
        value = 0.5 * energy.curvature * (off**2 + variance.value) - energy.pull * mean.value + energy.constants
        slope = (energy.curvature * off - energy.pull).abs() + energy.curvature.abs() * mean.error
        error = slope * mean.error + 0.5 * energy.curvature.abs() * variance.error
        size = 0.5 * energy.curvature.abs() * (off**2 + variance.value) + (energy.pull * mean.value).abs()
        error = error + 8.0 * EPS * (size + energy.constants.abs())
        return self._collected(Certified(value, error))

    def learning_coefficient(self) -> Certified:
        """`½ β a (S_ss - Σ_i τ_i S_si²)` for each site s."""
        require_gaussian(self.posterior, "learning_coefficient")
        weight = precisions(self.posterior)
        value, error = torch.zeros_like(self.energy.curvature), torch.zeros_like(self.energy.curvature)
        active = torch.nonzero(self.energy.curvature != 0).flatten()
        for some in active.split(self.posterior._step()) if len(active) else ():  # a network of no rows may be none
            probe, own = self._at_sites(some)
            cov = probe.to_train()
            rest = (weight * cov.value**2).sum(dim=1)
            off = (weight * cov.error * (2.0 * cov.value.abs() + cov.error)).sum(dim=1) + EPS * len(weight) * rest
            value[some] = 0.5 * (own.value - rest)
            error[some] = 0.5 * (own.error + off + EPS * own.value)
        scale = self.posterior.beta * self.energy.curvature
        return self._collected(Certified(scale * value, scale.abs() * error))

    def energies(self) -> list[Energy] | None:
        return [self.energy] if self.posterior.conjugate and self.noise is None else None

    def marks(self) -> list[Any]:
        return list(vars(self.energy).values())

    def _standing(self, fluctuating: bool) -> tuple[Certified, Certified]:
        """Mean and variance of the field at the sites, (s,) each: all of it, or what is left out."""
        energy, posterior = self.energy, self.posterior
        if self.ground.probe is not None:
            mean, variance = self.ground.probe.mean, self.ground.probe.variance
            if not fluctuating:
                own = self.ground.probe.responding
                variance = Certified((variance.value - own.value).clamp_min(0.0), variance.error)
            return Certified(*(part[energy.at] for part in mean)), Certified(*(part[energy.at] for part in variance))
        off, y = posterior.residuals, posterior.data.train.y[energy.at].double()
        mean = Certified(y - off.value[energy.at], off.error[energy.at])
        if not bool((energy.curvature != 0).any()):
            return mean, Certified(torch.zeros_like(y), torch.zeros_like(y))
        left = posterior.rows_left_out
        if not fluctuating:
            return mean, Certified(*(part[energy.at] for part in left))
        own, _ = posterior.own_variance(energy.at)
        return mean, Certified(own.value + left.value[energy.at], own.error + left.error[energy.at])

    def _at_sites(self, some: Tensor) -> tuple[Probe, Certified]:
        """A probe at some sites and the variances that respond there."""
        points, at = self.energy.points, self.energy.at[some]
        probe = self.posterior.row_probe(at) if points is None else self.posterior.probe(points[at])
        return probe, probe.responding

    def _collected(self, per_site: Certified) -> Certified:
        return Certified(*(by_column(part, self.energy) for part in per_site))


class SumMotion(Motion):
    """Several motions at once."""

    def __init__(self, parts: list[Motion]):
        self.parts, self.posterior = parts, parts[0].posterior
        self.columns, self.width = parts[0].columns, sum(part.width for part in parts)
        moved = [part.noise for part in parts if part.noise is not None]
        self.noise = torch.stack(moved).sum(dim=0) if moved else None

    def marginals(self, probe: Probe) -> tuple[Certified, Certified]:
        found = [part.marginals(probe) for part in self.parts]
        return Certified.summed([mean for mean, _ in found]), Certified.summed([variance for _, variance in found])

    def answer(self, probe: Probe, d: Derivatives) -> Answer:
        found = [part.answer(probe, d) for part in self.parts]
        converged = torch.stack([one.converged for one in found]).all(dim=0)
        return Answer(sum(one.value for one in found), sum(one.error for one in found), converged)  # type: ignore[arg-type]

    def log_evidence(self) -> Certified:
        return Certified.summed([part.log_evidence() for part in self.parts])

    def learning_coefficient(self) -> Certified:
        return Certified.summed([part.learning_coefficient() for part in self.parts])

    def energies(self) -> list[Energy] | None:
        found = [part.energies() for part in self.parts]
        return None if None in found else [energy for some in found for energy in some or []]

    def marks(self) -> list[Any]:
        return [part.marks() for part in self.parts]


def site_motion(posterior: Posterior, energy: Energy, noise: Tensor | None = None) -> Motion:
    """The motion by an energy, at training rows, other points, or both."""
    parts: list[Motion] = [SiteMotion(posterior, part) for part in energy.parts]
    parts[0].noise = noise
    return parts[0] if len(parts) == 1 else SumMotion(parts)


def precisions(posterior: Posterior) -> Tensor:
    """What each row adds to the field's precision, `τ_i = βρ_i/σ_i²`, (n,) float64."""
    return posterior.beta * posterior.data.train.weights.double() / posterior.row_noise


def require_gaussian(posterior: Any, what: str) -> None:
    """Refuse what is in closed form for Gaussian noise only."""
    if not posterior.conjugate:
        raise InputError(
            f"{what} has a closed form for Gaussian noise and this posterior has {posterior.likelihood!r}; "
            "use refit_response(head, data, ...)"
        )


def _error(d: Derivatives, probe: Probe, by_mean: Certified, by_variance: Certified) -> Tensor:
    """Bound on the error of `∂_μ dμ + ∂_s ds`: that of dμ, ds, and of the point (μ, s) where the derivatives are taken."""
    off_mean, off_variance = probe.mean.error[:, None], probe.variance.error[:, None]
    slope = d.mean.abs()[:, None] * by_mean.error + d.variance.abs()[:, None] * by_variance.error
    bend_mean = d.mean_mean.abs()[:, None] * off_mean + d.mean_variance.abs()[:, None] * off_variance
    bend_variance = d.mean_variance.abs()[:, None] * off_mean + d.variance_variance.abs()[:, None] * off_variance
    moved = bend_mean * (by_mean.value.abs() + by_mean.error)
    return slope + moved + bend_variance * (by_variance.value.abs() + by_variance.error)


__all__ = [
    "Motion", "SiteMotion", "SumMotion", "precisions", "require_gaussian", "site_motion",
]  # fmt: skip
