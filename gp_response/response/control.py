"""A Gaussian that is solved exactly as the control variate of one that is sampled."""

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.sampling import Draws, SampledCovariance, batch_length, sampled_covariance, traces
from gp_response.posterior import Posterior
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.sampled import SampledSusceptibility, described, potentials, readings
from gp_response.response.shrinkage import shrunk
from gp_response.response.susceptibility import susceptibility


def control_variate(
    sampled: Draws, twin: Draws | None, exact: Posterior, observable: Observable, perturbation: Perturbation
) -> SampledSusceptibility:
    """A sampled response drawn towards that of a Gaussian which is known without draws, where the draws do not object.

    Two steps. With a twin, a chain on the linearised network moved by the same random numbers (`gr.sample(..., twin=True)`),
    `χ̂ - c (χ̂_twin - χ_exact)` takes out what the errors of the two have in common: those of chance, and those of a step size; c is
    the regression coefficient of the batches, entry by entry, whose own uncertainty is not in the interval. It helps where the
    chains stay together. Then what is left of the distance to χ_exact is shrunk by a threshold in standard errors of its own, the
    same for all entries, that minimises the estimated error (see `response.shrinkage`). That needs no twin, helps wherever the
    Gaussian is nearer than chance is wide, and fades as draws grow.

    Args:
        sampled: draws whose response is asked for, of any sampler; `gr.HMC` mixes fastest where the Gaussian is near.
        twin: as many draws, chains and points, paired one to one with these; None: none.
        exact: what is drawn towards, and what the twin samples: `gr.laplace` of the network, or `gr.Exact` of its tangent kernel.
        observable, perturbation: that both the draws and the exact posterior answer.

    Returns:
        as `susceptibility` of draws; the exact response where draws and twin are the same. The interval counts the whole way
        that an entry was moved as bias, and so holds in every entry where that of the draws alone does, however wrong `exact` is.

    Raises:
        InputError: draws that are not paired, or at another temperature.

    Source:
        Donoho & Johnstone 1995, "Adapting to unknown smoothness via wavelet shrinkage", for the threshold.
    """
    _check(sampled, twin, exact)
    known = susceptibility(exact, observable, perturbation)
    gaussian, error = (part.double() / sampled.beta for part in (-known.matrix, known.error))
    with torch.no_grad():
        asked, left = readings(sampled, observable)
        right = potentials(sampled, perturbation)
        if twin is None:
            found = sampled_covariance(left, right)
        else:
            pair = (readings(twin, observable)[1], potentials(twin, perturbation))
            found = controlled(left, right, *pair, gaussian, error=error)
        return described(sampled, asked, perturbation, left, right, shrunk(found, gaussian), source=observable)


def _check(sampled: Draws, twin: Draws | None, exact: Posterior) -> None:
    if not isinstance(sampled, Draws) or not (twin is None or isinstance(twin, Draws)):
        raise InputError(
            f"control_variate got {type(sampled).__name__} and {type(twin).__name__}; expected gr.draws, and gr.draws or None"
        )
    if twin is not None and (sampled.size != twin.size or sampled.beta != twin.beta):
        raise InputError(
            f"the twin has (chains, draws) {twin.size} at beta {twin.beta:g} and the draws {sampled.size} at {sampled.beta:g}; "
            "expected draws paired one to one, as gr.sample(..., twin=True) gives them, or twin=None"
        )
    if exact.beta != sampled.beta:
        raise InputError(
            f"the draws are at beta {sampled.beta:g}, the exact posterior at {exact.beta:g}; give one beta"
        )


def controlled(
    left: Tensor, right: Tensor, twin_left: Tensor, twin_right: Tensor, known: Tensor, *, error: Tensor | float = 0.0
) -> SampledCovariance:
    """The covariance of left and right (chains, draws, …) with that of the twin, known (m, c) within error, as control variate."""
    length = batch_length(traces(left), traces(right))
    plain, control = (sampled_covariance(*pair, length=length) for pair in ((left, right), (twin_left, twin_right)))
    slope = _slopes(plain.batches, control.batches)
    batches = plain.batches - slope * (control.batches - known)
    value = plain.value - slope * (control.value - known)
    return SampledCovariance(value, batches, plain.spread, bound=slope.abs() * error)


def _slopes(of: Tensor, on: Tensor) -> Tensor:
    """Regression coefficients over batches, (m, c); zero where the control does not move."""
    apart = on - on.mean(dim=0)
    variance = apart.square().sum(dim=0)
    return torch.where(variance > 0, ((of - of.mean(dim=0)) * apart).sum(dim=0) / variance.clamp_min(1e-300), 0.0)


__all__ = ["control_variate", "controlled"]
