"""Observables of the whole posterior rather than of its field at points: evidence, learning coefficient, a parameter."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior
from gp_response.response.motion import Motion, precisions, require_gaussian
from gp_response.response.observable import Marginals, Observable
from gp_response.response.prior_motion import PriorMotion
from gp_response.response.tangent import Tangent, tangents


class Whole(Observable):
    """One number, or a few, of a posterior. Reads no points."""

    points = torch.zeros(0, 0)

    @abstractmethod
    def of(self, posterior: Any) -> Tensor:
        """Its value, (m,)."""

    @abstractmethod
    def moved(self, motion: Motion) -> Certified:
        """Its derivative by every column, (m, c)."""

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        raise InputError(f"{self.kind} is no sum over points")

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        raise InputError(f"{self.kind} is no sum over points")

    def collect_error(self, local: Tensor) -> Tensor:
        return local

    def names(self) -> list[str]:
        return [self.kind]

    def under(self, posterior: Any) -> "Observable":
        require_gaussian(posterior, self.kind)
        return self


class Evidence(Whole):
    """See `evidence`."""

    unit = "nat"

    def of(self, posterior: Any) -> Tensor:
        return posterior.log_evidence().reshape(1)

    def moved(self, motion: Motion) -> Certified:
        return Certified(*(part[None] for part in motion.log_evidence()))


class LearningCoefficient(Whole):
    """See `learning_coefficient`."""

    unit = "1"
    kind = "learning_coefficient"

    def of(self, posterior: Posterior) -> Tensor:
        every = torch.arange(len(posterior.data.train), device=posterior.data.train.x.device)
        own, _ = posterior.own_variance(every)
        return 0.5 * (precisions(posterior) * own.value).sum().reshape(1)

    def moved(self, motion: Motion) -> Certified:
        return Certified(*(part[None] for part in motion.learning_coefficient()))


class Parameter(Whole):
    """See `parameter`."""

    unit = "unit of the hyperparameter"

    def __init__(self, name: str):
        if not isinstance(name, str) or not name:
            raise InputError(f"parameter got {name!r}; expected a name such as 'lengthscale' or 'lengthscale[2]'")
        self.name = name
        self.labels = [name]

    def entries(self, posterior: Any) -> list[Tangent]:
        return tangents(posterior.kernel, self.name, posterior.prior_mean)

    def of(self, posterior: Any) -> Tensor:
        if self.name == "noise":
            return posterior.noise.double().reshape(1)
        return torch.tensor([entry.value for entry in self.entries(posterior)], dtype=torch.float64)

    def under(self, posterior: Any) -> "Observable":
        named = Parameter(self.name)
        named.labels = ["noise"] if self.name == "noise" else [entry.label for entry in self.entries(posterior)]
        return named

    def names(self) -> list[str]:
        return list(self.labels)

    def moved(self, motion: Motion) -> Certified:
        if self.name == "noise" and motion.noise is not None:
            return Certified(motion.noise[None].double(), torch.zeros_like(motion.noise[None].double()))
        if self.name == "noise" or not isinstance(motion, PriorMotion):
            raise InputError(
                f"hyperparameters are held fixed here, so {self.name!r} moves with hyperparameter({self.name!r}) only; how it "
                "answers to data is in total_susceptibility(head, data, ...)"
            )
        mine = self.entries(motion.posterior)
        same = [[float((one.raw, one.index) == (b.raw, b.index)) for b in motion.entries] for one in mine]
        value = torch.tensor(same, dtype=torch.float64)
        return Certified(value, torch.zeros_like(value))


def evidence() -> Evidence:
    """The log evidence `log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, in nats: the log marginal likelihood at β = ρ = 1, and for sparse heads
    the collapsed bound. It generates the rest: its derivative by a weight is `-β⟨ℓ_i⟩`, its second β² Cov(ℓ_i, ℓ_j)."""
    return Evidence()


def learning_coefficient() -> LearningCoefficient:
    """The local learning coefficient `nβ (⟨L_n⟩ - L_n(mean)) = ½ Σ_i (βρ_i/σ_i²) S_ii`: half the effective number of parameters
    that the data determine (Watanabe 2009; Lau et al. 2023 for networks), `½ tr K A⁻¹` for an exact posterior."""
    return LearningCoefficient()


def parameter(name: str) -> Parameter:
    """A hyperparameter in natural units, one observable an entry: "lengthscale", "lengthscale[2]", "noise", "mean", or a dotted
    name. At fixed hyperparameters it moves with itself only; `total_susceptibility` says how it answers to data."""
    return Parameter(name)


__all__ = [
    "Evidence", "LearningCoefficient", "Parameter", "Whole", "evidence", "learning_coefficient", "parameter",
]  # fmt: skip
