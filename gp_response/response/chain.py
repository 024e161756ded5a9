"""The chain rule to second order: an observable's second derivative from those of what it is a function of."""

from collections.abc import Callable
from functools import reduce
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
    observable: Observable, where: Tensor, probe: Probe, noise: Tensor, first: tuple[Slope, Slope], bent: Bent,
    by_noise: tuple[Tensor, Tensor] | None = None,
) -> Certified:  # fmt: skip
    """`d²⟨O⟩ = Σ_a O_a d²a + Σ_ab O_ab da db'` over the mean μ, the variance s and, where it moves, σ², at points `where`, (p, q).

    Args:
        first: derivatives by the first and by the second amplitude of each pair.
        by_noise: those of σ², (q,) each, whose second derivatives are none; None: it stays.
    """
    one, two = (list(part) for part in first)
    curves = list(bent)
    if by_noise is not None:
        still = torch.zeros_like(by_noise[0])[None]
        curves.append(Certified(still, still))
        one, two = ([*part, Certified(n[None], still)] for part, n in zip((one, two), by_noise, strict=True))
    parts = (*_derivatives(observable, where, probe, noise, len(one)), *one, *two, *curves)
    return bounded(_chain(len(one)), 1.0, parts, ())


def _chain(k: int) -> Callable[..., Tensor]:
    """The chain rule of k variables, as a function of first and second derivatives and of three directions."""

    def formula(*parts: Tensor) -> Tensor:
        slopes, rest = parts[:k], parts[k:]
        bends, (one, two, curves) = rest[: k * k], (rest[k * (k + n) : k * (k + n + 1)] for n in range(3))
        straight = [s * c for s, c in zip(slopes, curves, strict=True)]
        return reduce(torch.add, straight + [bends[a * k + b] * one[a] * two[b] for a in range(k) for b in range(k)])

    return formula


def _derivatives(observable: Observable, where: Tensor, probe: Probe, noise: Tensor, k: int) -> tuple[Certified, ...]:
    """Those of `local_derivatives` at the probe's points, k + k² of (p, 1): the next ones turn what mean and variance may be off
    by into bounds."""
    mean, variance = probe.mean, probe.variance
    at = Marginals(mean.value, variance.value, noise)
    first, second, third = local_derivatives(observable, at, where, variables=k, most=3)
    off = torch.stack([mean.error, variance.error], dim=1)[:, None]
    errors = [(turn.flatten(1, -2)[..., :2].abs() * off).sum(dim=2) for turn in (second, third)]
    values, bounds = torch.cat([first, second.flatten(1)], dim=1), torch.cat(errors, dim=1)
    return tuple(Certified(v[:, None], e[:, None]) for v, e in zip(values.T, bounds.T, strict=True))


def local_derivatives(
    observable: Observable, at: Marginals, where: Tensor | None = None, *, variables: int, most: int
) -> list[Tensor]:
    """Derivatives of the local expectation by the first k of (μ, s, σ²), (p, k), (p, k, k), …, up to an order of 3.

    where: indices (p,) of the points that `at` belongs to; None for all of them.
    """
    observable.require_smooth(at)
    data = tuple(t if where is None else t[where] for t in observable.local_data())

    def one(point: Tensor, *rest: Tensor) -> Tensor:
        return observable.local(point[0], point[1], point[2] if variables > 2 else at.noise, *rest)

    points = torch.stack([at.mean, at.variance, at.noise.to(at.mean).expand_as(at.mean)][:variables], dim=1)
    orders = [grad(one), jacfwd(grad(one)), jacfwd(jacfwd(grad(one)))][:most]
    return [vmap(order)(points, *data) for order in orders]


__all__ = ["Slope", "chained", "local_derivatives"]
