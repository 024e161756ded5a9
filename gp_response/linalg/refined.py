"""Solves that know how well they did: cycles of a fast solver between residuals measured in float64.

Whatever the precision of the inner solver, residuals are recomputed from exact entries. The first iterate v of a column that
meets its tolerance is the one returned. The solver then goes on to a better iterate w, which is not returned but measures
the error of v entry by entry, where a norm alone would overstate a typical entry √n-fold and more:

    B⁻¹b - v = (w - v) + B⁻¹ρ,    |B⁻¹ρ|_i <= (B⁻¹)_ii^½ (ρᵀB⁻¹ρ)^½ <= (M⁻¹)_ii^½ ‖L⁻¹ρ‖    for B >= M = L Lᵀ,

ρ the residual of w (Cauchy-Schwarz). It stops when the second part is a modest multiple of a typical entry of the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gp_response.linalg.block_cg import Cycle, Goal
from gp_response.linalg.system import System

ASIDE = 0.7  # an iterate is set aside when its estimated residual is below this fraction of the tolerance
ROUNDED = 0.05  # share of the tolerance that the rounding of a plain residual may take
GAIN = 0.3  # a cycle that leaves more than this fraction of a residual is not worth repeating
SCATTER = 1.5  # for the largest of many scattered entries; `System.rounding` itself has room for several sigmas
ROOM = 2.0  # an aim counts as met within this factor: it was aimed at with estimates

Inner = Callable[[Tensor, Goal], Cycle]


@dataclass
class Refined:
    """What is known of `B⁻¹b`, per column of b (n, t).

    Attributes:
        value: the first iterate that met the tolerance, or the best there is.
        value_left, norm: `b - B value` and its norm.
        met: whether the tolerance is met, rounding of the measurement included.
        better: an iterate as good or better; `better - value` is the measured part of the error.
        left: `b - B better`, and `rounding` (t,) what its norm may be off by.
        cycles, history: precision of each cycle; largest relative whitened residual after each product.
    """

    value: Tensor
    value_left: Tensor
    norm: Tensor
    met: Tensor
    better: Tensor
    left: Tensor
    rounding: Tensor
    iterations: int = 0
    cycles: list[str] = field(default_factory=list)
    history: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Sharpness:
    """How far to go on for the error bound.

    Attributes:
        rest: residuals (n, t) -> (t,), the bound `‖L⁻¹ρ‖`.
        spread: the rest shall be at most `spread · ‖better - value‖`; inf returns the first good iterate as it is.
    """

    rest: Callable[[Tensor], Tensor]
    spread: float

    @staticmethod
    def scattered(rounding: Tensor, n: int) -> Tensor:
        """What rounding of norm `rounding` (t,) adds to the bound of the rest.

        Its entries w_j are taken as independent of one another: Σ_j (B⁻¹)_ij w_j is then as a rule (B⁻²)_ii^½ times one of
        them, not their norm.
        """
        return SCATTER * rounding / n**0.5

    def enough(self, out: Refined, at: Tensor) -> Tensor:
        known = (out.better[:, at] - out.value[:, at]).norm(dim=0)
        allowed = ROOM * self.spread * known if self.spread != float("inf") else torch.full_like(known, float("inf"))
        return out.met[at] & (self.rest(out.left[:, at]) <= allowed)


def refined(
    system: System, rhs: Tensor, inner: dict[str, Inner], sharpness: Sharpness, *, tolerance: float,
    guess: Tensor | None, limit: int,
) -> Refined:  # fmt: skip
    """`B⁻¹ rhs` for rhs (n, t) float64, to residuals of `tolerance · ‖rhs‖` a column where that can be had.

    Args:
        inner: solvers by name of their precision, from the cheapest to the most precise; the next one takes over when
            one gains nothing any more.
        guess: (n, t) to start from.
        limit: most iterations of the inner solvers together.
    """
    target = tolerance * rhs.norm(dim=0)
    start = torch.zeros_like(rhs) if guess is None else guess.double().clone()
    left = rhs.clone() if guess is None else system.residual(rhs, start)
    norm = left.norm(dim=0)
    out = Refined(start, left, norm, norm <= target, start.clone(), left.clone(), torch.zeros_like(norm))
    names, todo = list(inner), rhs.norm(dim=0) > 0
    while names and out.iterations < limit:
        at = torch.nonzero(todo).flatten()
        todo[at] = ~sharpness.enough(out, at)
        at = torch.nonzero(todo).flatten()
        if not len(at):
            break
        before = out.left[:, at].norm(dim=0)
        cycle = _cycle(out, inner[names[0]], sharpness, at, target)
        out.iterations += cycle.iterations
        out.cycles.append(names[0])
        out.history += cycle.history
        _take(out, system, rhs, cycle, sharpness, at, target)
        if not bool((out.left[:, at].norm(dim=0) <= GAIN * before).any()):
            names.pop(0)
    return out


def _cycle(out: Refined, solve: Inner, sharpness: Sharpness, at: Tensor, target: Tensor) -> Cycle:
    norm = out.left[:, at].norm(dim=0)
    scale = torch.where(norm > 0, norm, torch.ones_like(norm))
    aside = (out.value[:, at] - out.better[:, at]) / scale
    goal = Goal(ASIDE * target[at] / scale, out.met[at], aside, sharpness.spread)
    cycle = solve(out.left[:, at] / scale, goal)
    cycle.value, cycle.aside = cycle.value.double() * scale, cycle.aside.double() * scale
    return cycle


def _take(
    out: Refined, system: System, rhs: Tensor, cycle: Cycle, sharpness: Sharpness, at: Tensor, target: Tensor
) -> None:
    """Measure a cycle's iterates and keep what they improve."""
    start, b, good, met = out.better[:, at], rhs[:, at], target[at], out.met[at]
    last, aside = start + cycle.value, start + cycle.aside
    new = cycle.met & ~met
    iterates = torch.cat([last, aside[:, new]], dim=1)
    # Sums in twice the precision cost several times as much; they are taken where plain ones say too little.
    rounding = system.rounding(last)
    known = torch.where(cycle.met, (last - aside).norm(dim=0), float("inf"))
    extended = bool((rounding > ROUNDED * good).any())
    extended |= bool((sharpness.scattered(rounding, system.n) > sharpness.spread * known).any())
    both = system.residual(torch.cat([b, b[:, new]], dim=1), iterates, extended=extended)
    rounding = system.rounding(last, extended=True) if extended else rounding
    left, left_aside = both[:, : len(at)], torch.full_like(last, float("inf"))
    left_aside[:, new] = both[:, len(at) :]
    improved = left.norm(dim=0) < out.left[:, at].norm(dim=0)  # false where it is NaN
    out.better[:, at] = torch.where(improved, last, start)
    out.left[:, at] = torch.where(improved, left, out.left[:, at])
    out.rounding[at] = torch.where(improved, rounding, out.rounding[at])
    # A column's value: what it was once the tolerance is met, the iterate set aside, or else the best one so far.
    by_aside = left_aside.norm(dim=0) + rounding <= good
    value = torch.where(by_aside, aside, out.better[:, at])
    value_left = torch.where(by_aside, left_aside, out.left[:, at])
    out.value[:, at] = torch.where(met, out.value[:, at], value)
    out.value_left[:, at] = torch.where(met, out.value_left[:, at], value_left)
    out.norm[at] = out.value_left[:, at].norm(dim=0)
    out.met[at] = met | (out.norm[at] + rounding <= good)


__all__ = ["Inner", "Refined", "Sharpness", "refined"]
