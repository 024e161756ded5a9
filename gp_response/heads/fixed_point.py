"""The Gaussian in feature space that a likelihood leaves: its mean and precision, by Newton's method or its like.

With `f = m₀ + Φᵀw`, w ~ N(0, 1) before the data, and sites of force g and precision h (see `sites`):

    Σ = 1 + Φ diag(βρh) Φᵀ,    ⟨w⟩ = Φ (βρ g),

g and h at the marginals that ⟨w⟩ and Σ give. For a Gaussian likelihood that is one linear system; else it is solved by
`⟨w⟩ ← Σ⁻¹ Φ βρ (g + h (μ - m₀))`: Newton's method for the mode, and the conjugate-computation form of natural gradients
(Khan & Lin 2017) with steps of one for the variational Gaussian.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.heads.rows import Rows
from gp_response.heads.sites import LAPLACE, Pull, pull
from gp_response.likelihoods import Gaussian, Likelihood
from gp_response.linalg.transforms import inside_transform

TOLERANCE = 1e-12  # of the last change of the means, in units of their standard deviations
MOST = 200
BLIND = {LAPLACE: 24}  # iterations where nothing can be looked at, under torch.func
BLIND_OTHER = 60
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
    """

    weights: Tensor
    precision: Tensor
    right: Tensor
    mean: Tensor
    variance: Tensor
    pull: Pull
    change: float
    iterations: int


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


def solve(problem: Problem, start: Tensor | None = None) -> Fixed:
    """The fixed point of a problem, from ⟨w⟩ = `start` (zero where None).

    Raises:
        SolverError: no step leads to a positive definite precision, or the iteration does not settle.
    """
    if isinstance(problem.likelihood, Gaussian):
        return _linear(problem)
    if inside_transform():
        return _blind(problem, start)
    return _mode(problem, start) if problem.kind == LAPLACE else _variational(problem, start)


def step(problem: Problem, mean: Tensor, sites: Pull) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def _mode(problem: Problem, start: Tensor | None) -> Fixed:
    """Newton with step halving; where Newton's curvature is of no use, the likelihood's safe one."""
    weights = torch.zeros(len(problem.rows.basis)).to(problem.y) if start is None else start
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


def _variational(problem: Problem, start: Tensor | None) -> Fixed:
    mean, variance = problem.marginals(
        torch.zeros(len(problem.rows.basis)).to(problem.y) if start is None else start, None
    )
    held, rate, last, change = None, 1.0, float("inf"), float("inf")
    for iteration in range(MOST):
        sites = pull(problem.likelihood, problem.kind, mean, variance, problem.y)
        natural = sites._replace(force=sites.force + sites.precision * (mean - problem.prior_mean))
        if held is not None and rate < 1.0:
            natural = Pull(*(rate * new + (1.0 - rate) * old for new, old in zip(natural, held, strict=True)))
        force = natural.force - natural.precision * (mean - problem.prior_mean)
        try:
            weights, precision, lower, right = step(problem, mean, natural._replace(force=force))
        except _NotDefinite:
            if rate < 1e-3 or held is None:
                raise SolverError("the variational fit met a precision that is not positive definite") from None
            rate *= 0.5
            continue
        held, before = natural, mean
        mean, variance = problem.marginals(weights, lower)
        change = float(((mean - before).abs() / variance.sqrt().clamp_min(1e-12)).max()) / rate
        if change < TOLERANCE:
            return Fixed(
                weights, precision, right, mean, variance, _pull(problem, mean, variance), change, iteration + 1
            )  # fmt: skip
        rate = max(0.05, 0.5 * rate) if change > 2.0 * last else min(1.0, 1.1 * rate)
        last = change
    if change > 1e-6:
        raise SolverError(f"the variational fit did not settle in {MOST} steps (last change {change:.1e} deviations)")
    return Fixed(weights, precision, right, mean, variance, _pull(problem, mean, variance), change, MOST)


def _blind(problem: Problem, start: Tensor | None) -> Fixed:
    """A fixed number of steps, so that derivatives pass: they converge as the iteration does."""
    count = BLIND.get(problem.kind, BLIND_OTHER)
    zero = torch.zeros(len(problem.rows.basis)).to(problem.y) if start is None else start
    mean, variance = problem.marginals(zero, None)
    for k in range(count + (0 if problem.likelihood.concave else 4 * count)):
        sites = pull(problem.likelihood, problem.kind, mean, variance, problem.y)
        if not problem.likelihood.concave and k < 4 * count:
            sites = sites._replace(precision=problem.likelihood.safe_curvature(mean, problem.y))
        weights, precision, lower, right = step(problem, mean, sites)
        mean, variance = problem.marginals(weights, lower)
    return Fixed(weights, precision, right, mean, variance, _pull(problem, mean, variance), 0.0, count)


def _pull(problem: Problem, mean: Tensor, variance: Tensor) -> Pull:
    return pull(problem.likelihood, problem.kind, mean, variance, problem.y)


__all__ = ["Fixed", "Problem", "solve", "step"]
