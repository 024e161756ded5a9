"""First-order response of a posterior known by draws: `-β Cov(O, V)` over them, with an interval for every entry."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.sampling import LEVEL, Draws, SampledCovariance, quantile, sampled_covariance, split_rhat
from gp_response.response.class_observables import ClassField
from gp_response.response.energy import Energy
from gp_response.response.observable import Marginals, Observable
from gp_response.response.observables import Loss, Value
from gp_response.response.perturbation import Perturbation
from gp_response.response.perturbations import Delete, Insert, Reweight, Rows
from gp_response.response.result import Source, Susceptibility
from gp_response.response.sites import by_column

HIGHEST_RHAT = 1.05
LEAST = 100.0  # effective draws, below which a standard error is itself a guess


@dataclass(frozen=True)
class SampledSusceptibility(Susceptibility):
    """A `Susceptibility` estimated from draws.

    Attributes:
        error: half the width of a 95 % interval of each entry: statistical, no bound, and blind to what all draws have in common (a
            step size too large, a mode never visited). With a control variate it holds what that may be wrong by, too.
        effective: (m, c), independent draws that would leave the same standard error.
        rhat_rows, rhat_columns: split R-hat of observables (m,) and perturbations (c,).
        flagged: observables where that exceeds 1.05, or an entry has fewer than 100 effective draws; all of them where a column's
            does.
    """

    effective: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    rhat_rows: Tensor = field(default_factory=lambda: torch.zeros(0))
    rhat_columns: Tensor = field(default_factory=lambda: torch.zeros(0))

    batches: int = 2

    @property
    def standard_error(self) -> Tensor:
        """(m, c): `error` is about twice this, as Student's t has it."""
        return self.error / quantile(self.batches, LEVEL)

    def metadata(self) -> dict[str, Any]:
        found = super().metadata()
        sizes = {name: found.pop(name) for name in ("effective", "rhat_rows", "rhat_columns")}
        high = [float(sizes[name].max()) for name in ("rhat_rows", "rhat_columns") if sizes[name].numel()]
        least = float(sizes["effective"].min()) if sizes["effective"].numel() else 0.0
        told = {"error_is": f"half a {LEVEL:.0%} interval, statistical", "rhat": max(high, default=0.0), "least": least}
        return found | told

    def __repr__(self) -> str:
        return super().__repr__().replace("error <=", "95 % interval within +-")


def sampled_susceptibility(
    posterior: Draws, observable: Observable, perturbation: Perturbation
) -> SampledSusceptibility:
    """`susceptibility` of draws; see `SampledSusceptibility` for what its error is."""
    with torch.no_grad():
        asked, left = readings(posterior, observable)
        right = potentials(posterior, perturbation)
        found = sampled_covariance(left, right)
        return described(posterior, asked, perturbation, left, right, found, source=observable)


def described(
    posterior: Draws, asked: Observable, perturbation: Perturbation, left: Tensor, right: Tensor, found: SampledCovariance,
    *, source: Observable,
) -> SampledSusceptibility:  # fmt: skip
    """A sampled covariance with its names, interval and flags."""
    rows, columns = split_rhat(left), split_rhat(right)
    count = len(found.batches)
    weak = (rows > HIGHEST_RHAT) | bool((columns > HIGHEST_RHAT).any())
    weak = weak | (found.effective < LEAST).any(dim=1) & (found.spread > 0).any(dim=1)
    plain = Susceptibility.named(
        posterior.data, asked, perturbation, beta=posterior.beta, matrix=-posterior.beta * found.value,
        error=posterior.beta * found.half_width(LEVEL), flagged=weak, order="sampled",
        source=Source(posterior, source, perturbation), columns=perturbation.columns_of(posterior),
    )  # fmt: skip
    known = {f.name: getattr(plain, f.name) for f in fields(plain)}
    return SampledSusceptibility(
        **known, effective=found.effective, rhat_rows=rows, rhat_columns=columns, batches=count
    )


def readings(posterior: Draws, observable: Observable) -> tuple[Observable, Tensor]:
    """The observable as the posterior's likelihood makes it, and its value in every draw, (chains, draws, m)."""
    if observable.direction is not None or observable.component is not None or not len(observable.points):
        raise InputError(
            f"{observable.kind} is not read from draws; ask for value, loss, variance, contrast or average"
        )
    if isinstance(observable, Loss):
        if observable.labels.ndim != 1:
            raise InputError(
                f"loss got labels of shape {tuple(observable.labels.shape)}; draws read one label a point, (p,)"
            )
        values = posterior.losses(observable.points, observable.labels, observable.known)
        return observable, values
    if hasattr(posterior, "classes"):
        return _of_classes(posterior, observable)
    values = posterior.field(observable.points)
    flat = values.flatten(0, 1)
    at = Marginals(flat.mean(dim=0), flat.var(dim=0), posterior.noise)
    local = observable.functional(flat, at).unflatten(0, posterior.size)
    weights = observable.weights
    return observable, local if weights is None else local @ weights.to(local).T


def _of_classes(posterior: Any, observable: Observable) -> tuple[Observable, Tensor]:
    if not isinstance(observable, Value):
        raise InputError(f"{observable.kind} cannot be asked of several classes; use value, contrast, average or loss")
    values = posterior.field(observable.points)
    if observable.weights is not None:
        values = torch.einsum("mp,abpc->abmc", observable.weights.to(values), values)
    return ClassField(observable, posterior.classes), values.flatten(2)


def potentials(posterior: Draws, perturbation: Perturbation) -> Tensor:
    """dV/dh of every column in every draw, (chains, draws, c)."""
    if isinstance(perturbation, Reweight | Delete):
        return _of_rows(posterior, perturbation)
    if isinstance(perturbation, Insert):
        values = posterior.losses(perturbation.x, perturbation.y)
        return values if perturbation.each else values.sum(dim=2, keepdim=True)
    plain = type(perturbation).motion is Perturbation.motion and not perturbation.changes_head
    if not (plain and posterior.conjugate):
        raise InputError(
            f"{perturbation.kind} has no response from draws under {posterior.law!r}; reweight, delete and insert have, and under "
            "Gaussian noise relabel and noise(each=True)"
        )
    return sum(_of_energy(posterior, part) for part in perturbation.energy_of(posterior).parts)  # type: ignore[return-value]


def _of_rows(posterior: Draws, perturbation: Rows) -> Tensor:
    train = posterior.data.train
    at, column, count = perturbation.groups(posterior.data)
    known = None if train.noise is None else train.noise[at]
    values = posterior.losses(train.x[at], train.y[at], known)
    if isinstance(perturbation, Delete):
        values = -train.weights[at].double() * values
    return values.new_zeros(*posterior.size, count).index_add(2, column, values)


def _of_energy(posterior: Draws, energy: Energy) -> Tensor:
    points = posterior.data.train.x if energy.points is None else energy.points
    field = posterior.field(points[energy.at])
    bent = 0.5 * energy.curvature * (field - energy.target) ** 2
    return by_column(bent - energy.pull * field + energy.constants, energy)


__all__ = ["SampledSusceptibility", "described", "potentials", "readings", "sampled_susceptibility"]
