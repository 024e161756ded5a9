"""The chain rule to second order: an observable's second derivative from those of the field's means and variances."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from gp_response.posterior import Certified, Probe
from gp_response.response.observable import Marginals, Observable
from gp_response.response.pairs import Bent, bounded


class Slope(NamedTuple):
    """First derivatives of means and variances, (p, q) each."""

    mean: Certified
    variance: Certified


def chained(
    observable: Observable, where: Tensor, probe: Probe, noise: Tensor, first: tuple[Slope, Slope], bent: Bent
) -> Certified:
    """`d²⟨O⟩ = O_μ d²μ + O_s d²s + O_μμ dμ dμ' + O_μs (dμ ds' + ds dμ') + O_ss ds ds'` at points `where`, (p, q).

    Args:
        first: derivatives by the first and by the second amplitude of each pair.
    """
    one, two = first
    parts = (*_derivatives(observable, where, probe, noise), one.mean, one.variance, two.mean, two.variance, *bent)
    return bounded(_chain, 1.0, parts, ())


def _chain(
    m: Tensor, v: Tensor, mm: Tensor, mv: Tensor, vv: Tensor, m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor,
    bent_mean: Tensor, bent_variance: Tensor,
) -> Tensor:  # fmt: skip
    return m * bent_mean + v * bent_variance + mm * m1 * m2 + mv * (m1 * v2 + v1 * m2) + vv * v1 * v2


def _derivatives(observable: Observable, where: Tensor, probe: Probe, noise: Tensor) -> tuple[Certified, ...]:
    """O_μ, O_s, O_μμ, O_μs and O_ss at the probe's points, (p, 1) each: the next derivative turns what the mean and the
    variance may be off by into bounds."""
    at = Marginals(probe.mean.value, probe.variance.value, noise)
    d = observable.derivatives(at, where)
    data = tuple(t[where] for t in observable.local_data())

    def one(pair: Tensor, *rest: Tensor) -> Tensor:
        return observable.local(pair[0], pair[1], noise, *rest)

    third = vmap(jacfwd(jacfwd(grad(one))))(torch.stack([at.mean, at.variance], dim=1), *data).abs()
    mean, variance = probe.mean.error, probe.variance.error

    def off(by_mean: Tensor, by_variance: Tensor) -> Tensor:
        return by_mean.abs() * mean + by_variance.abs() * variance

    errors = (
        off(d.mean_mean, d.mean_variance), off(d.mean_variance, d.variance_variance), off(third[:, 0, 0, 0], third[:, 0, 0, 1]),
        off(third[:, 0, 0, 1], third[:, 0, 1, 1]), off(third[:, 0, 1, 1], third[:, 1, 1, 1]),
    )  # fmt: skip
    return tuple(Certified(value[:, None], error[:, None]) for value, error in zip(d, errors, strict=True))


__all__ = ["Slope", "chained"]
