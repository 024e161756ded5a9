"""What sampling costs before it is done: Langevin dynamics on a Gaussian is an autoregression, mode by mode.

On `N(θ*, A⁻¹)` a step `θ ← θ - ½ε A (θ - θ*) + √ε η` multiplies the mode of curvature a by `φ = 1 - εa/2`, so that the stationary
covariance is `A⁻¹ (I - εA/4)⁻¹`, which exists for `ε λ_max < 4`, and a mode's autocorrelation after k steps is φᵏ.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError


@dataclass(frozen=True)
class SamplingPlan:
    """A step size, and what it takes to reach a standard error.

    Attributes:
        spectrum: (k,) curvatures a of the posterior (eigenvalues of its precision), prior included.
        step: ε. chains: run side by side.
        burn_in: steps of each chain until every mode's variance, started at the mode, is within the bias of its own.
        thin: steps between draws kept; those in between still cost a gradient each.
        draws: a chain.
        gradients: evaluations of the gradient, all chains together.
        error: relative standard error of the variance of the slowest mode that this reaches.
    """

    spectrum: Tensor
    step: float
    chains: int
    burn_in: int
    thin: int
    draws: int
    error: float

    @property
    def gradients(self) -> int:
        return self.chains * (self.burn_in + self.thin * self.draws)

    @property
    def stable_below(self) -> float:
        """Step size at which the stiffest mode stops converging, `4/λ_max`."""
        return 4.0 / float(self.spectrum.max())

    @property
    def variance(self) -> Tensor:
        """Stationary variance of every mode, `1/(a (1 - εa/4))`, (k,)."""
        return 1.0 / (self.spectrum * (1.0 - self.step * self.spectrum / 4.0))

    @property
    def bias(self) -> Tensor:
        """Relative excess of the stationary variance of every mode over 1/a, (k,)."""
        quarter = self.step * self.spectrum / 4.0
        return quarter / (1.0 - quarter)

    @property
    def retained(self) -> Tensor:
        """`φ^thin`, the autocorrelation of neighbouring draws, (k,)."""
        return (1.0 - self.step * self.spectrum / 2.0) ** self.thin

    def standard_error(self, left: Tensor, right: Tensor) -> Tensor:
        """Standard errors of sampled covariances of linear observables, (m, c).

        Args:
            left, right: (m, k) and (c, k), slopes of the observables along the modes of `spectrum` (all of them).

        By Isserlis, the product of deviations has autocovariance `C_oo(s) C_vv(s) + C_ov(s)²` after s draws, and every
        `C(s) = Σ_a o_a v_a s_a φ_aˢ`; the sum over s is geometric.
        """
        left, right = (part.double() * self.variance.sqrt() for part in (left, right))
        product = self.retained[:, None] * self.retained
        decay = (1.0 + product) / (1.0 - product)
        both = (left[:, None] * right[None]).flatten(0, 1)
        crossed = ((both @ decay) * both).sum(dim=1).unflatten(0, (len(left), len(right)))
        apart = left.square() @ decay @ right.square().T
        return ((apart + crossed) / (self.chains * self.draws)).sqrt()


def plan_sampling(
    spectrum: Any,
    *,
    bias: float = 0.05,
    error: float = 0.1,
    chains: int = 4,
    thin: int = 1,
    floor: float | None = None,
    step: float | None = None,
) -> SamplingPlan:
    """The step size for a target bias, and the draws and gradients for a target error, of SGLD with full gradients.

    Args:
        spectrum: (k,) eigenvalues of the posterior's precision, `β GGN + prior`; or the largest of them (Ritz values) with floor.
        bias: largest relative excess of any mode's variance, which sets the step: `ε = 4 b / ((1 + b) λ_max)`.
        error: relative standard error wanted for the variance of the slowest mode; every other mode is known better.
        chains: run side by side. thin: steps between draws.
        floor: smallest eigenvalue, where the spectrum is known in part: the prior's and the localising precision.
        step: given instead of bias.

    Raises:
        InputError: curvature that is not positive, a step that is not stable.
    """
    values = _spectrum(spectrum, floor)
    for name, number in (("bias", bias), ("error", error)):
        if not 0.0 < float(number) < 1.0:
            raise InputError(f"plan_sampling({name}={number!r}): expected a number between 0 and 1")
    if min(chains, thin) < 1:
        raise InputError(f"plan_sampling(chains={chains}, thin={thin}): expected 1 or more")
    largest = float(values.max())
    step = 4.0 * bias / ((1.0 + bias) * largest) if step is None else float(step)
    if not 0.0 < step * largest < 4.0:
        raise InputError(
            f"step {step:.3g} is not stable on curvature {largest:.3g}; expected above 0 and below {4.0 / largest:.3g}"
        )
    factor = (1.0 - 0.5 * step * values).abs().clamp(1e-300, 1.0 - 1e-15)
    slowest = float(factor.max())
    burn_in = math.ceil(math.log(bias) / (2.0 * math.log(slowest)))
    kept = slowest ** (2 * thin)
    draws = math.ceil(2.0 / error**2 * (1.0 + kept) / (1.0 - kept) / chains)
    return SamplingPlan(values, step, chains, burn_in, thin, draws, error)


def _spectrum(spectrum: Any, floor: float | None) -> Tensor:
    values = torch.as_tensor(spectrum, dtype=torch.float64).flatten()
    if floor is not None:
        values = torch.cat([values, values.new_tensor([float(floor)])])
    if not len(values) or not bool((torch.isfinite(values) & (values > 0)).all()):
        raise InputError(
            "plan_sampling got curvature that is not positive and finite; add the prior's precision, or give floor="
        )
    return values


__all__ = ["SamplingPlan", "plan_sampling"]
