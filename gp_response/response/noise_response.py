"""How far an observable moves when the training labels are drawn again: its response to noise that means nothing."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_tensor, shown
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_posterior
from gp_response.response.observable import Observable
from gp_response.response.perturbations import relabel
from gp_response.response.susceptibility import susceptibility


@dataclass(frozen=True)
class NoiseResponse:
    """Of m observables.

    Attributes:
        deviation: (m,), standard deviation over redrawn labels, in the observable's unit.
        error: (m,), absolute bound on the error of each, from the solves' residuals and rounding; none on what first order
            leaves out, which is nothing where the observable is linear in the labels (`value`, `contrast`, `average`).
        unit: of both.
        converged: 0-dim bool, every solve reached its tolerance and every bound is finite.
    """

    deviation: Tensor
    error: Tensor
    unit: str
    converged: Tensor


def noise_response(
    posterior: Posterior, observable: Observable, *, noise: Any = None, budget: float | None = None, progress: bool = False
) -> NoiseResponse:  # fmt: skip
    """Standard deviation of each observable when every label is redrawn, `(Σ_i χ_ai² s_i²)^½` with χ by `relabel()`.

    Hyperparameters and features stay as they are. For values of a Gaussian posterior with unit weights and β = 1 it is
    `σ ‖A⁻¹k_a‖`, the frequentist standard error of a kernel smoother (Hastie, Tibshirani & Friedman 2009, section 5.5.2), and
    its square is the part of the posterior variance `S_aa` that comes from label noise: what remains is the squared bias
    that the prior expects. So it never exceeds `√S_aa`, and says nothing of places without data, where both the response
    vanishes and the variance is large.

    Args:
        posterior: from a head.
        observable: m functionals, e.g. `value(x)`.
        noise: variances of the redrawn labels, a number or (n,), in units of `data.train.y` squared; None takes those of
            the model, `posterior.row_noise`.
        budget, progress: as in `susceptibility`; m x n responses are in memory.

    Raises:
        InputError: noise negative, not finite or of another length; none given and the likelihood is not Gaussian; labels
            that cannot move by a little.
    """
    require_posterior(posterior, "noise_response")
    with torch.no_grad():
        deviation = _variances(posterior, noise).sqrt()
        chi = susceptibility(posterior, observable, relabel(), budget=budget, progress=progress)
        moved = chi.matrix.double() * deviation
        value = torch.linalg.vector_norm(moved, dim=1)
        # | ‖a‖ - ‖b‖ | <= ‖a - b‖; the norm of n products is itself rounded.
        error = torch.linalg.vector_norm(chi.error.double() * deviation, dim=1)
        error = error + moved.shape[1] * torch.finfo(value.dtype).eps * value
        short = rounded(Certified(value, error), posterior.data.train.y.dtype)
        finite = bool(short.error.isfinite().all()) and not chi.flagged
        return NoiseResponse(*short, unit=observable.unit, converged=torch.tensor(finite))


def _variances(posterior: Posterior, noise: Any) -> Tensor:
    """Of the redrawn labels, (n,) or 0-dim."""
    if noise is None:
        return posterior.row_noise.detach().double()
    n = len(posterior.data.train)
    expected, device = f"finite variances of 0 or more, one or {n}", posterior.data.train.y.device
    given = as_tensor(noise, "noise_response's noise", expected, dtype=torch.float64, device=device).detach()
    if given.shape not in ((), (n,)) or not bool((given.isfinite() & (given >= 0)).all()):
        raise InputError(f"noise_response got noise {shown(given)}; expected {expected}")
    return given


__all__ = ["NoiseResponse", "noise_response"]
