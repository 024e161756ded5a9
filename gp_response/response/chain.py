"""The chain rule to second order: an observable's second derivative from those of what it is a function of."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from gp_response.posterior import Certified, Probe
from gp_response.response.observable import Observable
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


def _chain(k: int):
    """The chain rule of k variables, as a function of first and second derivatives and of three directions."""

    def formula(*parts: Tensor) -> Tensor:
        slopes, rest = parts[:k], parts[k:]
        bends, (one, two, curves) = rest[: k * k], (rest[k * (k + n) : k * (k + n + 1)] for n in range(3))
        straight = sum(s * c for s, c in zip(slopes, curves, strict=True))
        return straight + sum(bends[a * k + b] * one[a] * two[b] for a in range(k) for b in range(k))

    return formula


def _derivatives(observable: Observable, where: Tensor, probe: Probe, noise: Tensor, k: int) -> tuple[Certified, ...]:
    """First and second derivatives of the local expectation by the first k of (μ, s, σ²) at the probe's points, k + k² of (p, 1):
    the next derivative turns what the mean and the variance may be off by into bounds."""
    mean, variance = probe.mean, probe.variance
    data = tuple(t[where] for t in observable.local_data())

    def one(at: Tensor, *rest: Tensor) -> Tensor:
        return observable.local(at[0], at[1], at[2] if k > 2 else noise, *rest)

    at = torch.stack([mean.value, variance.value, noise.to(mean.value).expand_as(mean.value)][:k], dim=1)
    first, second, third = (vmap(f)(at, *data) for f in (grad(one), jacfwd(grad(one)), jacfwd(jacfwd(grad(one)))))
    off = torch.stack([mean.error, variance.error], dim=1)[:, None]
    errors = [(turn.flatten(1, -2)[..., :2].abs() * off).sum(dim=2) for turn in (second, third)]
    values, bounds = torch.cat([first, second.flatten(1)], dim=1), torch.cat(errors, dim=1)
    return tuple(Certified(v[:, None], e[:, None]) for v, e in zip(values.T, bounds.T, strict=True))


__all__ = ["Slope", "chained"]
