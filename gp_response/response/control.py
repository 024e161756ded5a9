"""A Gaussian that is solved exactly as the control variate of one that is sampled."""

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.sampling import Draws, SampledCovariance, batch_length, sampled_covariance, traces
from gp_response.posterior import Posterior
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.sampled import SampledSusceptibility, described, potentials, readings
from gp_response.response.susceptibility import susceptibility


def control_variate(
    sampled: Draws, twin: Draws, exact: Posterior, observable: Observable, perturbation: Perturbation
) -> SampledSusceptibility:
    """`χ̂ - c (χ̂_twin - χ_exact)`: a sampled response with the noise that it shares with a Gaussian taken out.

    The twin is a chain on the linearised network, moved by the same random numbers (`gr.sample(..., twin=True)`), whose response
    is known in closed form. Where the network is nearly linear the two chains wander together, and so do their errors: those of
    chance, and those of the step size. c is the regression coefficient of the batches, entry by entry. Its own uncertainty is
    not in the interval; nor is what `c (bias of twin)` leaves of the step's bias.

    Args:
        sampled: draws whose response is asked for.
        twin: as many draws, chains and points, paired one to one with these.
        exact: the posterior that the twin samples: `gr.laplace` of the network, or `gr.Exact` of its tangent kernel.
        observable, perturbation: that both the draws and the exact posterior answer.

    Returns:
        as `susceptibility` of draws; where draws and twin are the same, the exact response.

    Raises:
        InputError: draws that are not paired, or at another temperature.
    """
    if sampled.size != twin.size or sampled.beta != twin.beta:
        raise InputError(
            f"the twin has (chains, draws) {twin.size} at beta {twin.beta:g} and the draws {sampled.size} at {sampled.beta:g}; "
            "expected draws paired one to one, as gr.sample(..., twin=True) gives them"
        )
    known = susceptibility(exact, observable, perturbation).matrix.double()
    with torch.no_grad():
        asked, left = readings(sampled, observable)
        right = potentials(sampled, perturbation)
        pair = (readings(twin, observable)[1], potentials(twin, perturbation))
        found = controlled(left, right, *pair, -known / sampled.beta)
        return described(sampled, asked, perturbation, left, right, found, source=observable)


def controlled(left: Tensor, right: Tensor, twin_left: Tensor, twin_right: Tensor, known: Tensor) -> SampledCovariance:
    """The covariance of left and right (chains, draws, …) with that of the twin, known (m, c), as its control variate."""
    length = batch_length(traces(left), traces(right))
    plain, control = (sampled_covariance(*pair, length=length) for pair in ((left, right), (twin_left, twin_right)))
    slope = _slopes(plain.batches, control.batches)
    batches = plain.batches - slope * (control.batches - known)
    value = plain.value - slope * (control.value - known)
    return SampledCovariance(value, batches, plain.spread)


def _slopes(of: Tensor, on: Tensor) -> Tensor:
    """Regression coefficients over batches, (m, c); zero where the control does not move."""
    apart = on - on.mean(dim=0)
    variance = apart.square().sum(dim=0)
    return torch.where(variance > 0, ((of - of.mean(dim=0)) * apart).sum(dim=0) / variance.clamp_min(1e-300), 0.0)


__all__ = ["control_variate", "controlled"]
