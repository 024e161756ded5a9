"""The Gaussian in feature space that a likelihood leaves: its mean and precision, by Newton's method or its like.

With `f = m₀ + Φᵀw`, w ~ N(0, 1) before the data, and sites of force g and precision h (see `sites`):

    Σ = 1 + Φ diag(βρh) Φᵀ,    ⟨w⟩ = Φ (βρ g),

g and h at the marginals that ⟨w⟩ and Σ give. For a Gaussian likelihood that is one linear system; else it is solved by
`⟨w⟩ ← Σ⁻¹ Φ βρ (g + h (μ - m₀))`: Newton's method for the mode, and the conjugate-computation form of natural gradients
(Khan & Lin 2017) for the variational Gaussian, with steps of one where these contract.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.heads.rows import Rows
from gp_response.heads.sites import LAPLACE, Pull, pull
from gp_response.heads.start import Start
from gp_response.likelihoods import Gaussian, Likelihood
from gp_response.linalg.transforms import inside_transform

TOLERANCE = 1e-12  # of the last change of the means, in units of their standard deviations
STALLED = 1e-9  # rounding may end the iteration from here on
MOST = 400
BLIND = {LAPLACE: 24}  # iterations where nothing can be looked at, under torch.func
BLIND_OTHER = 60
BLIND_NEAR = 6  # from a mode nearby, since Newton's method squares the distance
FAR = 0.01  # deviations moved, below which the bound holds still to rounding
STEADY = 0.6  # of a rate at which changes grew: one that contracts for as long as it takes, where none can be shortened
SAFE_STEPS = 400


@dataclass(frozen=True)
class Fixed:
    """Where the iteration ended.

    Attributes:
        weights: ⟨w⟩, (m,).
        precision: Σ, (m, m), and `right` with `Σ ⟨w⟩ = right`.
        mean, variance: marginals of the training rows, (n,).
        pull: the sites there, per unit of weight.
        change: the last change of the means, in standard deviations.
        iterations: passes over the data.
        rate: of natural-gradient steps that contract all the way.
    """

    weights: Tensor
    precision: Tensor
    right: Tensor
    mean: Tensor
    variance: Tensor
    pull: Pull
    change: float
    iterations: int
    rate: float = 1.0


@dataclass(frozen=True)
class Problem:
    """Rows, labels y (n,), `weight` βρ (n,), what is left out of the prior variance (n,), prior mean (0-dim or (n,))."""

    rows: Rows
    y: Tensor
    weight: Tensor
    left_out: Tensor
    prior_mean: Tensor
    likelihood: Likelihood
    kind: str

    def marginals(self, weights: Tensor, lower: Tensor | None) -> tuple[Tensor, Tensor]:
        mean = self.prior_mean + self.rows.spread(weights)
        within = self.rows.norms() if lower is None else self.rows.squares(lower)
        return mean, self.left_out + within

    def objective(self, weights: Tensor, mean: Tensor) -> Tensor:
        """What the mode maximises: `Σ βρ log p(y | f) - ½‖w‖²`."""
        return (self.weight * self.likelihood.log_prob(mean, self.y)).sum() - 0.5 * weights.dot(weights)

    def bound(self, weights: Tensor, lower: Tensor, mean: Tensor, variance: Tensor) -> float:
        """What the variational Gaussian maximises, `Σ βρ E log p(y | f) - KL`, from a factor of Σ and its marginals."""
        inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
        divergence = inverse.square().sum() + weights.dot(weights) - len(lower) + 2.0 * lower.diagonal().log().sum()
        return -float((self.weight * self.likelihood.expected_loss(mean, variance, self.y)).sum() + 0.5 * divergence)


def solve(problem: Problem, start: Start | None = None) -> Fixed:
    """The fixed point of a problem. `start` is where the iteration begins inside torch.func, where nothing can guard it.

    Raises:
        SolverError: no step leads to a positive definite precision, or the iteration does not settle.
    """
    if isinstance(problem.likelihood, Gaussian):
        return _linear(problem)
    if inside_transform():
        return _blind(problem, start)
    return _mode(problem) if problem.kind == LAPLACE else _variational(problem)


def step(problem: Problem, mean: Tensor, sites: "Pull | Natural") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """New ⟨w⟩, Σ, its lower factor and the right-hand side, from sites at means (n,)."""
    precision = problem.rows.weighted(problem.weight * sites.precision)
    precision = precision + torch.eye(len(precision), dtype=precision.dtype, device=precision.device)
    right = problem.rows.gather(problem.weight * (sites.force + sites.precision * (mean - problem.prior_mean)))
    if inside_transform():
        lower = torch.linalg.cholesky(precision)
    else:
        lower, info = torch.linalg.cholesky_ex(precision)
        if bool(info) or not bool(torch.isfinite(lower.sum())):
            raise _NotDefinite
    return torch.cholesky_solve(right[:, None], lower)[:, 0], precision, lower, right


class _NotDefinite(Exception):
    """Sites that take more precision than there is."""


def _linear(problem: Problem) -> Fixed:
    mean = problem.prior_mean + torch.zeros_like(problem.y)
    try:
        weights, precision, lower, right = step(problem, mean, pull(problem.likelihood, LAPLACE, mean, mean, problem.y))
    except _NotDefinite:
        raise SolverError("the precision of the inducing features holds NaN or inf; check kernel and data") from None
    mean, variance = problem.marginals(weights, lower)
    return Fixed(weights, precision, right, mean, variance, _pull(problem, mean, variance), 0.0, 1)


def _mode(problem: Problem) -> Fixed:
    """Newton with step halving; where Newton's curvature is of no use, the likelihood's safe one."""
    weights = torch.zeros(len(problem.rows.basis)).to(problem.y)
    mean = problem.prior_mean + problem.rows.spread(weights)
    best, safe, change = problem.objective(weights, mean), not problem.likelihood.concave, float("inf")
    for iteration in range(SAFE_STEPS + MOST):
        sites = pull(problem.likelihood, LAPLACE, mean, mean, problem.y)
        curved = sites._replace(precision=problem.likelihood.safe_curvature(mean, problem.y)) if safe else sites
        try:
            new, *_ = step(problem, mean, curved)
        except _NotDefinite:
            if safe:
                raise SolverError("the Laplace approximation met a precision that is not positive definite") from None
            safe = True
            continue
        moved, size = problem.rows.spread(new - weights), 1.0
        while (value := problem.objective(weights + size * (new - weights), mean + size * moved)) < best - 1e-9 * (
            1.0 + best.abs()
        ) and size > 1e-4:
            size *= 0.5
        weights, mean, best = weights + size * (new - weights), mean + size * moved, value
        # In units of the prior, whose features have length of order one.
        change = float(size * moved.abs().max() / mean.std(correction=0).clamp_min(1e-3))
        if not safe and change < TOLERANCE**0.5:
            return _settled(problem, weights, mean, iteration)
        safe = safe and change > 1e-3  # near enough for Newton
    raise SolverError(f"the mode was not found in {SAFE_STEPS + MOST} steps (last change {change:.1e})")


def _settled(problem: Problem, weights: Tensor, mean: Tensor, iterations: int) -> Fixed:
    """Two more full steps: Newton's method squares the change, and Σ belongs to the final mode."""
    for _ in range(2):
        sites = pull(problem.likelihood, LAPLACE, mean, mean, problem.y)
        weights, precision, lower, right = step(problem, mean, sites)
        before, (mean, variance) = mean, problem.marginals(weights, lower)
    change = float(((mean - before).abs() / variance.sqrt().clamp_min(1e-12)).max())
    return Fixed(weights, precision, right, mean, variance, _pull(problem, mean, variance), change, iterations + 2)


def _variational(problem: Problem) -> Fixed:
    """Natural-gradient steps from the mode, as long as they do not lower the bound and go on contracting."""
    mean, variance, held, bound = _from_the_mode(problem)
    rate, last, change, least, stalled, steady = 1.0, float("inf"), float("inf"), float("inf"), 0, 1.0
    for iterations in range(1, MOST + 1):  # noqa: B007
        blended = _natural(problem, mean, variance).blend(held, rate)
        try:
            weights, precision, lower, right = step(problem, problem.prior_mean, blended)
        except _NotDefinite:
            rate = _halved(rate)
            continue
        moved, spread = problem.marginals(weights, lower)
        size = float(((moved - mean).abs() / spread.sqrt().clamp_min(1e-12)).max())
        reached = problem.bound(weights, lower, moved, spread)
        # Near the end the bound holds still to rounding, and only the contraction tells.
        if size > FAR and not reached >= bound - 1e-9 * (1.0 + abs(bound)):
            rate = _halved(rate)
            continue
        mean, variance, held, bound, change = moved, spread, blended, reached, size / rate
        stalled = stalled + 1 if change > 0.5 * least else 0
        least = min(least, change)
        if change < TOLERANCE or (change < STALLED and stalled > 60):
            break
        if change > last and STALLED < size <= FAR:
            steady = min(steady, STEADY * rate)
        rate = max(0.05, 0.6 * rate) if change > last else min(1.0, 1.1 * rate)
        last = change
    if change > 1e-6:
        raise SolverError(f"the variational fit did not settle in {MOST} steps (last change {change:.1e} deviations)")
    return Fixed(
        weights, precision, right, mean, variance, _pull(problem, mean, variance), change, iterations,
        min(rate, steady),
    )  # fmt: skip


def _from_the_mode(problem: Problem) -> tuple[Tensor, Tensor, "Natural", float]:
    """Marginals, sites and bound of Laplace's approximation; of the prior where there is none."""
    try:
        found = _mode(replace(problem, kind=LAPLACE))
        sites = _natural(replace(problem, kind=LAPLACE), found.mean, found.variance)
        lower = torch.linalg.cholesky(found.precision)
        return found.mean, found.variance, sites, problem.bound(found.weights, lower, found.mean, found.variance)
    except SolverError:
        nothing = torch.zeros_like(problem.y)
        mean, variance = problem.marginals(torch.zeros(len(problem.rows.basis)).to(problem.y), None)
        return mean, variance, Natural(nothing, nothing), -float("inf")


def _halved(rate: float) -> float:
    if rate < 1e-4:
        raise SolverError(
            "the variational fit finds no step that raises the bound; take a wider likelihood or 'laplace'"
        )
    return 0.5 * rate


class Natural(NamedTuple):
    """Sites as natural parameters: force less that of the quadratic around the prior mean, and precision, (n,)."""

    force: Tensor
    precision: Tensor

    def blend(self, held: "Natural", rate: float) -> "Natural":
        return Natural(*(rate * new + (1.0 - rate) * old for new, old in zip(self, held, strict=True)))


def _natural(problem: Problem, mean: Tensor, variance: Tensor) -> Natural:
    sites = _pull(problem, mean, variance)
    return Natural(sites.force + sites.precision * (mean - problem.prior_mean), sites.precision)


def _blind(problem: Problem, start: Start | None) -> Fixed:
    """A fixed number of steps, so that derivatives pass: they converge as the iteration does."""
    count, safe, rate = BLIND.get(problem.kind, BLIND_OTHER), 0, 1.0
    if start is None:
        mean, variance = problem.marginals(torch.zeros(len(problem.rows.basis)).to(problem.y), None)
        safe = 0 if problem.likelihood.concave else 4 * count
    else:
        (mean, variance), rate = start.marginals(problem.rows.x), start.rate
        count = BLIND_NEAR if problem.kind == LAPLACE else int(count / rate)
    held = _natural(problem, mean, variance)
    for k in range(count + safe):
        sites = _pull(problem, mean, variance)
        if k < safe:
            sites = sites._replace(precision=problem.likelihood.safe_curvature(mean, problem.y))
        now = Natural(sites.force + sites.precision * (mean - problem.prior_mean), sites.precision)
        held = now if k < safe else now.blend(held, rate)
        weights, precision, lower, right = step(problem, problem.prior_mean, held)
        mean, variance = problem.marginals(weights, lower)
    return Fixed(weights, precision, right, mean, variance, _pull(problem, mean, variance), 0.0, count, rate)


def _pull(problem: Problem, mean: Tensor, variance: Tensor) -> Pull:
    return pull(problem.likelihood, problem.kind, mean, variance, problem.y)


__all__ = ["Fixed", "Problem", "solve", "step"]
