"""Structural susceptibilities: how a batch's loss, as one component sees it, answers to every sample (arXiv:2504.18274).

The observable of component C is `φ_C = L - L*`: the batch's mean loss as a function of f_C alone, the rest at its posterior mean.
Three definitions of its response to the weight of sample j, per β:

* restricted: `-Cov_C(φ_C, ℓ_j)` of the posterior in which C alone may respond;
* free: `-Cov(φ_C, ℓ_j)` of the full posterior;
* two chains: `-(⟨φ_C Δℓ_j⟩_C - ⟨φ_C⟩_C ⟨Δℓ_j⟩)`, with ⟨·⟩ the full posterior and Δℓ_j = ℓ_j less the mean over samples, which is
  the restricted one less `⟨φ_C⟩_C (⟨Δℓ_j⟩_C - ⟨Δℓ_j⟩)`: an artefact of mixing two measures, nearly of rank one.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import over_samples, same_labels, with_places
from gp_response.errors import InputError
from gp_response.posterior import Certified
from gp_response.response.component import component_names
from gp_response.response.motion import require_gaussian
from gp_response.response.observables import Loss, value
from gp_response.response.perturbation import Perturbation
from gp_response.response.perturbations import reweight
from gp_response.response.restricted import RestrictedPosterior, restrict
from gp_response.response.restricted_inducing import RestrictedInducing
from gp_response.response.restricted_network import beside
from gp_response.response.result import Susceptibility
from gp_response.response.susceptibility import susceptibility

EPS = torch.finfo(torch.float64).eps


class ComponentLoss(Loss):
    """A batch's mean loss as a function of one component, the rest at given values."""

    kind = "component_loss"

    def __init__(self, x: Tensor, y: Tensor, component: int | None, samples: int):
        super().__init__(x, y)
        self.weights = torch.full((1, len(self.points)), 1.0 / samples, dtype=torch.float64)
        if component is not None:
            self.component = torch.full((len(self.points),), component, device=self.points.device)


def structural(
    posterior: Any, x: Any, y: Any, *, perturbation: Perturbation | None = None, clamped: bool = True
) -> Susceptibility:
    """The structural susceptibilities `d⟨φ_C⟩/dρ_j`: rows components, columns samples; `.to("structural")` is the literature's.

    Args:
        posterior: exact or sparse with Gaussian noise and a sum of kernels; or of a network under Gaussian noise, whose components
            are its layers, or the groups of `posterior.grouped({name: parameters})`.
        x, y: the batch, (p, d) and (p,), in the units of `data.train`; where samples have several labels y is (p, *label_shape),
            and a sample's loss the sum over them.
        perturbation: columns; None is `reweight()`, every sample's weight.
        clamped: the component alone responds (`restrict`); else the full posterior does ("free").

    Returns:
        a `Susceptibility` (C, n) in nats, with bounds.
    """
    require_gaussian(posterior, "structural")
    perturbation = reweight() if perturbation is None else perturbation
    names, batch = component_names(posterior.kernel), _batch(posterior, x, y)
    found = [_row(restrict(posterior, c), batch, perturbation, clamped) for c in range(len(names))]
    flagged = tuple(c for c, row in enumerate(found) if row.flagged)
    matrix, error = (torch.cat([getattr(row, part) for row in found]) for part in ("matrix", "error"))
    return replace(found[0], matrix=matrix, error=error, rows=tuple(names), flagged=flagged, source=None)


class Batch(NamedTuple):
    """Labels y (p,) at points x (p, d), which belong to so many samples."""

    x: Tensor
    y: Tensor
    samples: int


def _batch(posterior: Any, x: Any, y: Any) -> Batch:
    """A point for every label."""
    like, data = posterior.data.train.x, posterior.data
    x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    y = torch.as_tensor(y, dtype=torch.float64, device=like.device)
    if x.ndim != 2 or x.shape[1] != data.input_dim:
        raise InputError(f"structural got points of shape {tuple(x.shape)}; expected (p, {data.input_dim})")
    if y.ndim < 1 or len(y) != len(x) or not same_labels(y.shape[1:], data.label_shape):
        raise InputError(
            f"structural got labels of shape {tuple(y.shape)} for {len(x)} points; expected {(len(x), *data.label_shape)}"
        )
    return Batch(posterior.points(with_places(x, data.label_shape)), y.flatten(), len(x))


def _row(part: Any, batch: Batch, perturbation: Perturbation, clamped: bool) -> Susceptibility:
    asked, off = _loss(part, batch, clamped)
    where = part if clamped else part.full
    chi: Any = susceptibility(where, asked, perturbation)
    # What the labels left for the component are off by moves the slope of the loss.
    means = _means(part, batch.x, perturbation, clamped)
    moved = (means.matrix.double().abs() + means.error.double()) / part.noise
    extra = (off[:, None] * moved).sum(dim=0, keepdim=True) / batch.samples
    return replace(chi, error=chi.error + extra.to(chi.error))


def _means(part: Any, x: Tensor, perturbation: Perturbation, clamped: bool) -> Susceptibility:
    asked = value(x)
    if not clamped:
        asked.component = torch.full((len(x),), part.which, device=x.device)
    found: Any = susceptibility(part if clamped else part.full, asked, perturbation)
    return found


def _loss(part: Any, batch: Batch, clamped: bool) -> tuple[ComponentLoss, Tensor]:
    """The mean loss as a function of the component, and what its labels are off by, (p,)."""
    rest = (
        part.rest(batch.x)
        if isinstance(part, RestrictedPosterior | RestrictedInducing)
        else beside(part, batch.x, clamped)
    )
    labels, component = batch.y - rest.value, None if clamped else part.which
    return ComponentLoss(batch.x.double(), labels, component, batch.samples), rest.error


@dataclass(frozen=True)
class TwoChain:
    """The two-chain form beside the restricted one, both in the convention "structural"; made by `two_chain`.

    Attributes:
        restricted, two_chain: (C, n), with bounds.
        artefact: (C, n) `⟨φ_C⟩_C (⟨Δℓ_j⟩_C - ⟨Δℓ_j⟩)`; two_chain = restricted - artefact.
    """

    restricted: Susceptibility
    two_chain: Susceptibility
    artefact: Tensor

    def diagnose(self) -> dict[str, float]:
        """Shares of the first mode, and correlations of the two forms.

        "…_share": of the variance of the matrix standardised over samples for each component; "…_centred_share": then centred
        over components for each sample, which takes out what is common to them. "correlation", "centred_correlation": between all
        entries of the two forms after the same.
        """
        plain, mixed = standardised(self.restricted.matrix), standardised(self.two_chain.matrix)
        one, other = (part - part.mean(dim=0) for part in (plain, mixed))
        return {
            "restricted_share": first_mode_share(plain),
            "two_chain_share": first_mode_share(mixed),
            "restricted_centred_share": first_mode_share(one),
            "two_chain_centred_share": first_mode_share(other),
            "artefact_share": first_mode_share(self.artefact),
            "correlation": _correlation(plain, mixed),
            "centred_correlation": _correlation(one, other),
        }


def two_chain(posterior: Any, x: Any, y: Any) -> TwoChain:
    """What the two-chain estimator of the literature tends to with infinitely many samples, and what it adds to the covariance.

    Arguments and errors as for `structural`.
    """
    plain = structural(posterior, x, y).to("structural")
    with torch.no_grad():
        batch = _batch(posterior, x, y)
        parts = [_artefact(restrict(posterior, c), batch) for c in range(len(plain.rows))]
    artefact = torch.stack([part.value for part in parts])
    error = torch.stack([part.error for part in parts]).to(plain.matrix)
    matrix = plain.matrix - artefact.to(plain.matrix)
    rounding = torch.finfo(matrix.dtype).eps * (plain.matrix.abs() + matrix.abs())
    mixed = replace(plain, matrix=matrix, error=plain.error + error + rounding, source=None)
    return TwoChain(plain, mixed, artefact.to(plain.matrix))


def _artefact(part: Any, batch: Batch) -> Certified:
    """`⟨φ_C⟩_C (⟨Δℓ_j⟩_C - ⟨Δℓ_j⟩)`: residuals are the same, so that losses differ by variances."""
    at = part.probe(batch.x).variance
    size, size_error = ((each / (2.0 * part.noise)).sum() / batch.samples for each in at)
    every = torch.arange(len(part.data.train), device=part.data.train.x.device)
    mine, _ = part.own_variance(every)
    whole, _ = part.full.own_variance(every)
    scale = 0.5 / part.row_noise
    change, error = scale * (mine.value - whole.value), scale * (mine.error + whole.error)
    error = error + 4.0 * EPS * scale * (mine.value + whole.value)
    change, error = (over_samples(part.data.train, each) for each in (change, error))
    change, error = change - change.mean(), error + error.mean()
    return Certified(size * change, size_error * change.abs() + (size + size_error) * error)


def standardised(matrix: Tensor) -> Tensor:
    """Every row less its mean, over its standard deviation. Raises InputError for a constant row."""
    spread = matrix.std(dim=1, keepdim=True)
    if bool((spread == 0).any()):
        raise InputError(
            f"row {int(spread.argmin())} is constant; a component that does not respond has no standard scale"
        )
    return (matrix - matrix.mean(dim=1, keepdim=True)) / spread


def first_mode_share(matrix: Tensor) -> float:
    """Share of the largest singular value squared in the sum of all."""
    values = torch.linalg.svdvals(matrix.double()).square()
    return float(values[0] / values.sum())


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1])


__all__ = ["ComponentLoss", "TwoChain", "first_mode_share", "standardised", "structural", "two_chain"]
