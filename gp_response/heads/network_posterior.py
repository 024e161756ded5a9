"""A linearised network under Gaussian noise: a Gaussian process with the tangent kernel, in the space of its parameters."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_output import OneOutput
from gp_response.linalg.deflated_cg import estimate_logdet
from gp_response.linalg.evidence_estimate import Estimate
from gp_response.posterior import Certified
from gp_response.solvers import DeflatedCG, FactoredCholesky, FactoredLanczos


class NetworkPosterior(OneOutput):
    """A linearised network conditioned on data with Gaussian noise; made by `laplace`.

    The prior is centred where the trained parameters θ* are the posterior mean; `reweighted` keeps that prior.

    Args:
        model: network, prior, likelihood, solver.
        data: n training rows.
        pull: `Λ₀(θ₀ - θ*)` whitened, (P,), of a prior that is centred already; None: θ* is stationary.
    """

    def __init__(self, model: NetworkModel, data: Dataset, *, pull: Tensor | None = None):
        super().__init__(model, data)
        if pull is not None:
            self.pull = pull
            self.move = self.factor.solve(self.gather(self.forces[:, None]) + pull[:, None])

    @property
    def precisions(self) -> Tensor:
        """`βρ_i/σ_i²`, (n,)."""
        return self.beta * self.data.train.weights.double() / self.row_noise

    @property
    def forces(self) -> Tensor:
        return self.precisions * (self.data.train.y.double() - self.outputs)

    @cached_property
    def prior_mean(self) -> Any:
        """m(x) of the process, a `TangentMean`."""
        return self.head.prior_mean

    def reweighted(self, weights: Tensor) -> "NetworkPosterior":
        return type(self)(self.model.anew(), self._data_at(weights), pull=self.pull)

    @property
    def residuals(self) -> Certified:
        y = self.data.train.y.double()
        value = y - self.outputs
        error = self.eps * (y.abs() + self.outputs.abs() + self.rows.lengths * self.origin_length)
        if self.move is None:
            return Certified(value, error)
        value = value - self.spread(self.move.value)[:, 0]
        rounding = self.eps * self.move.value.norm() * self.rows.lengths
        return Certified(value, error + self.row_roots * self.energy(self.move) + rounding)

    @property
    def away(self) -> Tensor:
        """`Λ₀^½ (θ₀ - ⟨θ⟩)`, how far the posterior is from the centre of its prior, (P,)."""
        return self.pull if self.move is None else self.pull - self.move.value[:, 0]

    def log_evidence(self) -> Tensor:
        """`log ∫ p₀(θ) exp(-β Σ ρ_i ℓ_i)` of the linearised network, 0-dim.

        Raises:
            InputError: the solver gives no determinant.
        """
        return self._log_fit() - 0.5 * self.factor.logdet()

    def estimate_log_evidence(self, *, probes: int = 16, seed: int = 0) -> Estimate:
        """The log evidence with its standard error: by Lanczos quadrature where the solver has no factor.

        Args:
            probes: random vectors, 2 or more; the standard error falls as their root.
        """
        if isinstance(self.factor, FactoredCholesky):
            return Estimate(float(self.log_evidence()), 0.0, 0.0, 0.0, 0, 0)
        assert isinstance(self.factor, FactoredLanczos | DeflatedCG)
        found = estimate_logdet(
            self.system.within, self.factor.bracket, probes=probes, seed=seed, precision=self.system.dtype
        )
        value = float(self._log_fit()) - 0.5 * found.value
        return Estimate(value, 0.5 * found.standard_error, 0.0, 0.5 * found.below, found.probes, found.steps)

    def _log_fit(self) -> Tensor:
        """The log evidence but for the determinant, 0-dim."""
        gibbs = (self.data.train.weights.double() * (2.0 * torch.pi * self.row_noise).log()).sum()
        fit = (self.precisions * self.residuals.value.square()).sum()
        return -0.5 * (fit + self.away.square().sum() + self.beta * gibbs)

    @property
    def parts(self) -> list[Any]:
        return [*super().parts, self.noise, self.pull]


__all__ = ["NetworkPosterior"]
