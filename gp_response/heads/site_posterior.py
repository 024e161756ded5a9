"""A Gaussian posterior in inducing features: sparse, or approximate for a likelihood that is not Gaussian, or both.

The field `f = m₀ + φᵀw + (what the features leave out)`. What responds to data is the first part, whose covariance is
`S = φᵀ Σ⁻¹ φ`: for it the fluctuation-dissipation theorem holds, since data speak to f only through w. The part left out,
`k - Q`, adds to predictive variances and never moves. Where every training row is an inducing point nothing of the kind is left
out at the rows, and with `whole` the rest is the exact field's own conditional covariance.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.errors import InputError
from gp_response.heads.basis import Basis, prior_of
from gp_response.heads.fixed_point import Fixed, Problem, solve
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.rows import BLOCK, Rows
from gp_response.heads.sites import LAPLACE, Coupling, Pull, coupling, pull, pull_by_label
from gp_response.heads.start import Start
from gp_response.heads.trace import Trace
from gp_response.kernels.look import Look, between, own
from gp_response.likelihoods import Gaussian, Likelihood, RowGaussian
from gp_response.linalg.system import DenseSystem
from gp_response.linalg.transforms import inside_transform
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.solvers import Cholesky, Factor, Solution

EPS = torch.finfo(torch.float64).eps


class SitePosterior(Posterior):
    """A field conditioned on data through features and sites; made by the sparse heads and by `Exact` with a likelihood.

    Args:
        basis: inducing features.
        data: n training rows.
        likelihood: log p(y | f).
        kind: "laplace" or "variational"; the same for a Gaussian likelihood.
        mean: prior mean, a number or a module from points (n, d) to (n,).
        beta: inverse temperature.
        whole: what the features leave out belongs to the field that responds (each training row is an inducing point).
        solver: of the m x m system; None is `Cholesky()`.
        keep: bytes of features of the training rows that may stay in memory.
        start: where the iteration begins inside torch.func.

    Attributes:
        fixed: what the iteration ended with; `fixed.change` says how well it settled.
    """

    reads_double = True

    def __init__(
        self, basis: Basis, data: Dataset, *, likelihood: Likelihood, kind: str = LAPLACE, mean: Any = 0.0,
        beta: float = 1.0, whole: bool = False, solver: Any = None, keep: int | None = None, start: Start | None = None,
    ):  # fmt: skip
        self.basis, self.data, self.law, self.kind = basis, data, likelihood, kind
        self.kernel, self.prior_mean, self.beta, self.whole = basis.kernel, mean, beta, whole
        self.solver, self.keep = solver or Cholesky(), keep
        train = data.train
        # Observations under other likelihoods have no one variance.
        noise = likelihood.noise.detach() if isinstance(likelihood, Gaussian) else torch.tensor(float("nan")).double()
        self.noise = noise.to(train.x.device)
        if not inside_transform():
            likelihood.check(train.y)
        self.rows = self._seen_by_rows()
        # Known noise belongs to the rows; a new observation has σ² alone.
        of_rows = likelihood
        if isinstance(likelihood, Gaussian) and train.noise is not None:
            of_rows = RowGaussian(row_noise(data, likelihood.noise))
        self.problem = Problem(
            self.rows, train.y.double(), beta * train.weights.double(), self._left_out_of_rows(),
            prior_mean_at(mean, train.x.double()), of_rows, kind,
        )  # fmt: skip
        self.fixed: Fixed = solve(self.problem, start)
        self.system = DenseSystem(self.fixed.precision, floor=_floor(self.fixed, likelihood))
        self.factor: Factor = self.solver.factor(self.system)
        self.weights: Solution = self.factor.solve(self.fixed.right)
        self.trace: Trace | None = None

    def _seen_by_rows(self) -> Rows:
        return Rows(self.basis, self.data.train.x.double(), keep=self.keep)

    def _left_out_of_rows(self) -> Tensor:
        return (self.basis.diagonal(self.data.train.x) - self.rows.norms()).clamp_min(0.0)

    def probe(self, x: Tensor | Look) -> "SiteProbe":
        return SiteProbe(self, self.look(x))

    def mean_of(self, look: Look) -> Certified:
        look = look.double()
        features, weights = look.through(self.basis, lambda b, z: b.at(z)), self.weights
        length = features.norm(dim=0)
        start = look.start(lambda z: prior_mean_at(self.prior_mean, z))
        error = length * (weights.defect + self.basis.off * weights.value.norm() + self._mean_slack)
        error = error + 8.0 * EPS * (features.abs().T @ weights.value.abs() + start.abs())
        return Certified(start + features.T @ weights.value, error)

    def left_out_slope(self, look: Look) -> Tensor:
        if self.whole or look.direction is None:
            return super().left_out_slope(look)
        return look.double().of(lambda x: self.basis.diagonal(x) - self.basis.at(x).square().sum(dim=0))

    def reweighted(self, weights: Tensor) -> "SitePosterior":
        return SitePosterior(
            self.basis, self._data_at(weights), likelihood=self.law, kind=self.kind, mean=self.prior_mean, beta=self.beta,
            whole=self.whole, solver=self.solver, keep=self.keep,
        )  # fmt: skip

    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        return self._like(self.basis.prior(self.points(x), self.points(y)))

    def predictive_cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        left = self.probe(self.points(x))
        return self._like(left.predictive_to(left if y is None else self.probe(self.points(y))).value)

    def left_out(self, x: Tensor) -> Tensor:
        x = self.points(x)
        if self.whole:
            return x.new_zeros(len(x))
        parts = [self.basis.diagonal(some) - self.basis.at(some).square().sum(dim=0) for some in x.split(BLOCK)]
        return self._like(torch.cat(parts).clamp_min(0.0))

    @property
    def rows_left_out(self) -> Certified:
        if self.whole:
            return super().rows_left_out
        off = 2.0 * self.basis.off * self.rows.norms()
        return Certified(self.problem.left_out, off + 8.0 * EPS * self.basis.diagonal(self.problem.rows.x))

    @property
    def parts(self) -> list[Any]:
        basis = self.basis
        return [*super().parts, basis.features, basis.points, basis.jitter, self.law, self.kind, self.whole]

    @property
    def residuals(self) -> Certified:
        mean = self.fixed.mean
        length = self.rows.norms().sqrt()
        off = self.basis.off
        error = length * (self.weights.defect + off * self.weights.value.norm()) + self._mean_slack * self._own.sqrt()
        return Certified(self.problem.y - mean, error + 8.0 * EPS * (self.problem.y.abs() + mean.abs()))

    def log_evidence(self) -> Tensor:
        """Titsias' collapsed bound of `log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim, for Gaussian noise.

        Raises:
            InputError: another likelihood.
        """
        noise = self.row_noise
        problem, off = self.problem, self.problem.y - self.fixed.mean
        weights = self.weights.value
        fit = (problem.weight / noise * off.square()).sum() + weights.dot(weights)
        left_out = (problem.weight / noise * problem.left_out).sum()
        gibbs = (problem.weight * (2.0 * torch.pi * noise).log()).sum()
        return -0.5 * (fit + 2.0 * self._factored.diagonal().log().sum() + left_out + gibbs)

    @cached_property
    def _own(self) -> Tensor:
        """`S_ii` of every training row, (n,)."""
        return self.rows.squares(self._factored)

    @cached_property
    def row_roots(self) -> Tensor:
        """`√S_ii` of every training row, (n,)."""
        return self._own.sqrt()

    @cached_property
    def site_weight(self) -> Tensor:
        """`βρ_i h_i`, the precision each row adds, (n,)."""
        return self.problem.weight * self.fixed.pull.precision

    @cached_property
    def spread_of_rounding(self) -> Tensor:
        """Rounded features move `D^-½Φ` by at most this in norm: `off · √tr(Σ - 1)`, 0-dim."""
        return self.basis.off * (self.site_weight.abs() * self.rows.norms()).sum().sqrt()

    @cached_property
    def _mean_slack(self) -> Tensor:
        """What moves means by what is known of the data's part to rounding only, per unit of √S_aa."""
        return self._slack_of_means()

    def _slack_of_means(self) -> Tensor:
        force = self.problem.weight * self.fixed.pull.force
        reached = (force.square() / self.site_weight.abs().clamp_min(1e-300)).sum().sqrt()
        settled = self.fixed.change * self.fixed.variance.sqrt().max()
        return self.spread_of_rounding * (self.weights.value.norm() + reached) + settled

    def own_variance(self, rows: Tensor, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """`S_jj` of training rows (k,), from one triangular solve for all."""
        value = self._own[rows]
        error = self._error(value.sqrt(), value.sqrt(), self.rows.norms()[rows].sqrt(), None)
        return Certified(value, error + 16.0 * EPS * len(self.basis) * value), torch.ones_like(rows, dtype=torch.bool)

    def _error(self, own: Tensor, other: Tensor, length: Tensor, other_length: Tensor | None) -> Tensor:
        """What rounded features move `S_ab` by, for √S_aa, √S_bb and ‖φ_a‖, ‖φ_b‖, elementwise and to first order.

        `δS = v_aᵀδφ_b + δφ_aᵀv_b - v_aᵀ δΣ v_b` with `‖v_a‖ <= √S_aa` and `‖D^-½Φᵀv_a‖ <= √S_aa`, as Σ >= 1.
        """
        far = length if other_length is None else other_length
        return self.basis.off * (own * far + other * length) + 2.0 * self.spread_of_rounding * own * other

    # What a likelihood that is not Gaussian adds to the response --------------------------------------------------------

    @property
    def conjugate(self) -> bool:
        return isinstance(self.law, Gaussian)

    @property
    def likelihood(self) -> Likelihood | None:
        return None if self.conjugate else self.law

    @cached_property
    def coupling(self) -> Coupling:
        """How the sites answer their marginals, times βρ, (n,) each."""
        p = self.problem
        parts = coupling(self.law, self.kind, self.fixed.mean, self.fixed.variance, p.y)
        return Coupling(*(p.weight * part for part in parts))

    @cached_property
    def scale_of_sites(self) -> float:
        """A size of Σ (S∘S) takes forces to precisions by: the largest variance of a row, 0-dim."""
        return float(self._own.max().sqrt())

    @cached_property
    def relative_error(self) -> float:
        """What rounding moves covariances among training rows by, relative to their variances."""
        own = self._own.sqrt()
        largest = self._error(own, own, self.rows.norms().sqrt(), None) / self._own.clamp_min(1e-300)
        return float(largest.max()) + 64.0 * EPS

    @cached_property
    def _factored(self) -> Tensor:
        return torch.linalg.cholesky(self.fixed.precision)

    def smear(self, values: Tensor) -> Tensor:
        """`S v` over training rows, for v (n, t)."""
        return self.rows.spread(torch.cholesky_solve(self.rows.gather(values), self._factored))

    def smear_squared(self, values: Tensor) -> Tensor:
        """`(S∘S) v` over training rows, for v (n, t), a block of rows of S at a time."""
        out = []
        for _, features in self.rows.blocks():
            seen = self.rows.spread(torch.cholesky_solve(features, self._factored))  # (n, b)
            out.append(seen.square_().T @ values)
        return torch.cat(out)

    def row_pull(self) -> Pull:
        return self.fixed.pull

    def label_pull(self) -> Pull:
        if self.law.discrete:
            raise InputError(
                f"relabel moves labels by a little, which those of {type(self.law).__name__} cannot; use delete and insert"
            )
        return pull_by_label(self.law, self.kind, self.fixed.mean, self.fixed.variance, self.problem.y)

    def new_pull(self, x: Tensor, y: Tensor) -> tuple[Pull, Tensor]:
        """The sites that labels y at new points x (k, d) would be, and the means there (k,)."""
        probe = self.probe(self.points(x))
        mean = probe.mean.value
        self.law.check(y)
        return pull(self.law, self.kind, mean, probe.variance.value, y.to(mean)), mean


class SiteProbe(Probe):
    """p points seen from a site posterior: their features and `V = Σ⁻¹φ`."""

    def __init__(self, posterior: SitePosterior, look: Look):
        self.posterior, self.look = posterior, look.double()
        self.features = self._features()
        self.solution = posterior.factor.solve(self.features)
        self.converged = self.solution.converged
        self.length = self.features.norm(dim=0)
        value = (self.features * self.solution.value + self.solution.value * self.solution.left).sum(dim=0)
        self.own = Certified(value.clamp_min(0.0), self._covariance_error(self).diagonal() + 8.0 * EPS * self.length**2)
        prior = own(posterior.basis.kernel, self.look, posterior.basis.z)
        self.prior = prior
        self.left_out = (prior - self.features.square().sum(dim=0)).clamp_min(0.0)
        self.mean = self._mean()
        off = 8.0 * EPS * prior + 2.0 * posterior.basis.off * self.length**2
        self.variance = Certified(self.left_out + self.own.value, self.own.error + off)

    def _features(self) -> Tensor:
        return self.look.through(self.posterior.basis, lambda b, z: b.at(z))

    @property
    def responding(self) -> Certified:
        return self.variance if self.posterior.whole else self.own

    def _mean(self) -> Certified:
        weights, posterior = self.posterior.weights, self.posterior
        value = self.features.T @ weights.value + self.solution.value.T @ weights.left
        value = value + self.look.start(lambda z: prior_mean_at(posterior.prior_mean, z))
        error = self.solution.defect * weights.defect + posterior.basis.off * self.length * weights.value.norm()
        error = error + posterior._mean_slack * self.own.value.sqrt()
        return Certified(value, error + 8.0 * EPS * (self.features.abs().T @ weights.value.abs() + value.abs()))

    def to_train(self, rows: Tensor | None = None) -> Certified:
        posterior = self.posterior
        if rows is None:
            value, own, norms = posterior.rows.spread(self.solution.value).T, posterior._own, posterior.rows.norms()
        else:
            value, own = self.solution.value.T @ posterior.rows.at(rows), posterior._own[rows]
            norms = posterior.rows.norms()[rows]
        length = norms.sqrt()
        error = posterior._error(self.own.value.sqrt()[:, None], own.sqrt(), self.length[:, None], length)
        rounding = 8.0 * EPS * self.solution.value.norm(dim=0)
        return Certified(value, error + (self.solution.defect + rounding)[:, None] * length)

    def to(self, other: "SiteProbe") -> Certified:
        value = self.features.T @ other.solution.value + self.solution.value.T @ other.solution.left
        error = self._covariance_error(other)
        if self.posterior.whole:
            rest = self.left_out_with(other)
            value, error = value + rest, error + 16.0 * EPS * (self.prior[:, None] * other.prior).sqrt()
        return Certified(value, error + 8.0 * EPS * self.length[:, None] * other.length)

    def toward(self, look: Look) -> Certified:
        look = look.double()
        features = look.through(self.posterior.basis, lambda b, z: b.at(z))
        value, length = self.solution.value.T @ features, features.norm(dim=0)
        if self.posterior.whole:
            value = value + between(self.posterior.basis, prior_of, self.look, look) - self.features.T @ features
        error = self.posterior._error(self.own.value.sqrt()[:, None], length, self.length[:, None], length)
        rounding = 8.0 * EPS * (self.solution.value.norm(dim=0) + self.length)
        return Certified(value, error + (self.solution.defect + rounding)[:, None] * length)

    def predictive_to(self, other: "SiteProbe") -> Certified:
        value, error = self.to(other)
        if self.posterior.whole:
            return Certified(value, error)
        off = 2.0 * self.posterior.basis.off * self.length[:, None] * other.length
        rounding = 16.0 * EPS * (self.prior[:, None] * other.prior).sqrt()
        return Certified(value + self.left_out_with(other), error + off + rounding)

    def left_out_with(self, other: "SiteProbe") -> Tensor:
        """`k - Q` between the points of two probes, (p, q)."""
        prior = between(self.posterior.basis, prior_of, self.look, None if other is self else other.look)
        return prior - self.features.T @ other.features

    def _covariance_error(self, other: "SiteProbe") -> Tensor:
        one, two = (probe.__dict__.get("own") for probe in (self, other))
        mine = self.length if one is None else one.value.sqrt()
        yours = other.length if two is None else two.value.sqrt()
        defect = self.solution.defect[:, None] * other.solution.defect
        return defect + self.posterior._error(mine[:, None], yours, self.length[:, None], other.length)


def _floor(fixed: Fixed, likelihood: Likelihood) -> float | None:
    """A lower bound of Σ's eigenvalues: one, unless sites take precision away."""
    if inside_transform() or likelihood.concave:
        return 1.0
    lowest = float(torch.linalg.eigvalsh(fixed.precision)[0])
    return 0.99 * lowest if lowest > 0 else None


__all__ = ["SitePosterior", "SiteProbe"]
