"""The exact Gaussian posterior, read from one solved system (see `whitening`).

The covariance with the training rows is `S_xX = K_xX A⁻¹ D`: one solve, and no subtraction. What is a product of two solves
(means, variances, covariances) is corrected by the residual of one, so that its error is the product of two residuals:
`aᵀB⁻¹b = aᵀv_b + v_aᵀρ_b + ρ_aᵀB⁻¹ρ_b`. Everything is computed in float64 whatever the data's precision, which costs little: what
takes time is inside the solver.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError, SolverError
from gp_response.heads.frozen import frozen_copy
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.row_columns import RowColumns
from gp_response.heads.trace import Trace
from gp_response.heads.whitening import whiten
from gp_response.kernels import Kernel
from gp_response.kernels.look import Look, between, matrix_of, own, prior_deviation
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.blocks import byte_budget, point_bytes
from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.evidence_estimate import Estimate, log_evidence, spherical_probes
from gp_response.linalg.extended import residual
from gp_response.linalg.inverse_diagonal import Enclosure, enclosed, factored
from gp_response.linalg.inverse_entries import InverseEntries
from gp_response.linalg.system import ROUNDING
from gp_response.linalg.transforms import inside_transform
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.solvers import Cholesky, Factor, FactoredCG, FactoredCholesky, Solution, default_solver

EPS = torch.finfo(torch.float64).eps
MANY = 1 / 16  # of the rows: their own variances then cost less from one more factor than by a refined solve each


class ExactPosterior(Posterior):
    """A GP conditioned on data; made by `Exact.condition`.

    Args:
        kernel: its hyperparameters are read now and again at each call: do not train it any more.
        data: n training rows.
        noise: σ², 0-dim float64 tensor; known noise of the rows comes on top.
        mean: prior mean, a number or a module of the points.
        beta: inverse temperature.
        solver: anything with `factor(system)`.
    """

    reads_double = True

    def __init__(self, kernel: Kernel, data: Dataset, *, noise: Tensor, mean: Any, beta: float, solver: Any):
        self.kernel, self.data, self.solver = kernel, data, solver
        self.noise, self.prior_mean, self.beta = noise, mean, beta
        self.whitening = whiten(data, self.row_noise, beta)
        # Derivatives of refits go through the matrix itself, and through a factor of it whatever the solver.
        self.factor: Factor = (Cholesky() if inside_transform() else solver).factor(self._system())
        self.target: Solution = self.factor.solve(self.whitened_target())
        self.trace: Trace | None = None
        self._loose: Enclosure | None = None

    def _system(self) -> Any:
        x = self.data.train.x
        if inside_transform():
            return self.whitening.system(self.kernel.matrix(x.double()))
        options = {name: getattr(self.solver, name) for name in ("backend", "keep") if hasattr(self.solver, name)}
        return KernelSystem(self.kernel, x, self.whitening.scale, self.whitening.shift, **options)

    def whitened_target(self) -> Tensor:
        """`p (y - m)`, (n,)."""
        train = self.data.train
        return self.whitening.scale * (train.y.double() - prior_mean_at(self.prior_mean, train.x.double()))

    def probe(self, x: Tensor | Look) -> "ExactProbe":
        return ExactProbe(self, self.look(x))

    def whitened(self, look: Look) -> Tensor:
        """`p Cov(f_X, readings)` before the data, (n, p), in float64."""
        train = self.data.train.x.double()
        return self.whitening.scale[:, None] * look.double().through(self.kernel, lambda k, z: k.matrix(train, z))

    def mean_of(self, look: Look) -> Certified:
        """From the solve for the target alone: for w = p k, `|wᵀB⁻¹ρ| <= √(wᵀB⁻¹w) ‖ρ‖`, the root at most the prior deviation."""
        right, look = self.whitened(look), look.double()
        start = look.start(lambda z: prior_mean_at(self.prior_mean, z))[:, None]
        value = residual(start, -right.T, self.target.value[:, None])[:, 0]
        error = prior_deviation(self.kernel, look) * self.target.defect
        error = torch.minimum(error, right.abs().T @ self.target.error)
        return Certified(value, error + _rounding(right.abs().T @ self.target.value.abs() + value.abs()))

    def from_rows(self, rows: Tensor) -> RowColumns | None:
        """Where all rows have weight."""
        return None if bool((self.whitening.scale[rows] == 0).any()) else RowColumns(self, rows)

    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        return self.kernel.matrix(x, y)

    def reweighted(self, weights: Tensor) -> "ExactPosterior":
        return ExactPosterior(
            self.kernel,
            self._data_at(weights),
            noise=self.noise,
            mean=self.prior_mean,
            beta=self.beta,
            solver=self.solver,
        )

    @property
    def residuals(self) -> Certified:
        back = self.whitening.back
        value, error = self.target.value * back, self.target.error * back
        unseen = self.whitening.unseen()
        if len(unseen) == 0:
            return Certified(value, error)
        mean = self.mean_of(Look(self.data.train.x[unseen]))
        value, error = value.clone(), error.clone()
        value[unseen], error[unseen] = self.data.train.y[unseen] - mean.value, mean.error
        return Certified(value, error)

    def own_variance(self, rows: Tensor, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """As for any posterior; for many rows from the diagonal of `B⁻¹`, at the price of a factor: `S_ii = D(1 - c (B⁻¹)_ii)`."""
        seen = bool((self.whitening.scale[rows] > 0).all())
        if not (seen and isinstance(self.factor, FactoredCholesky) and len(rows) >= MANY * len(self.data.train)):
            return super().own_variance(rows, progress=progress)
        loose, scale = self.looseness(), self.whitening.scale[rows]
        variance = self.whitening.back[rows] / scale
        # D is a quotient and 1 - (…) a difference: a rounding each.
        error = torch.maximum(loose.upper - loose.value, loose.value - loose.lower)[rows] + 4.0 * EPS
        return Certified((variance * (1.0 - loose.value[rows])).clamp_min(0.0), variance * error), loose.settled[rows]

    def among(self, rows: Tensor, others: Tensor | None = None, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """As for any posterior; for many rows from columns of the inverse, `S = D - (pD) B⁻¹ (pD)`, by a factor that costs less
        than their solves: also where the solver has none, if it fits into memory and holds."""
        there = rows if others is None else others
        inverse = self._inverse_for(rows, there)
        if inverse is not None:
            return self._among_factored(inverse, rows, there)
        x = self.data.train.x
        each = 2 * point_bytes(len(x), x, columns=len(rows))
        if others is not None or len(rows) * each > byte_budget(None, x.device):
            return super().among(rows, others, progress=progress)
        # A product of two solves is off by the product of their residuals: taken where that says more.
        probe = self.probe(x[rows])
        one, two = probe.to_train(rows), probe.to(probe)
        better = two.error < one.error
        return Certified(*(torch.where(better, b, a) for a, b in zip(one, two, strict=True))), probe.converged

    def _inverse_for(self, rows: Tensor, others: Tensor) -> InverseEntries | None:
        """A float64 factor, where one is worth it for the covariance of rows with others."""
        n, device = len(self.data.train), self.data.train.x.device
        seen = bool((self.whitening.scale[rows] > 0).all() & (self.whitening.scale[others] > 0).all())
        if not seen or len(rows) < MANY * n:
            return None
        if isinstance(self.factor, FactoredCholesky):
            return InverseEntries.of(self.factor.system, _double(self.factor))
        if not isinstance(self.factor, FactoredCG) or 3 * 8 * n**2 > byte_budget(None, device):
            return None
        try:
            inverse = InverseEntries.of(self.factor.system, CholeskyFactor.of(self.factor.system, "float64").lower)
        except SolverError:  # not positive definite once rounded: conjugate gradients need less
            return None
        return inverse if inverse.known else None

    def _among_factored(self, inverse: InverseEntries, rows: Tensor, others: Tensor) -> tuple[Certified, Tensor]:
        back = self.whitening.back
        own = (rows[:, None] == others) * (back / self.whitening.scale)[rows][:, None]
        scale = back[rows][:, None] * back[others]
        value, error = (part * scale for part in inverse.at(rows, others))
        value = own - value
        error.add_(4.0 * EPS * (value.abs() + own))
        return Certified(value, error), torch.full_like(rows, inverse.known, dtype=torch.bool)

    def looseness(
        self, *, probes: int = 32, rows: Tensor | None = None, seed: int = 0, progress: bool = False
    ) -> Enclosure:
        """`1 - S_ii/D_i = c (B⁻¹)_ii`: exact by a Cholesky factor, enclosed and estimated where the solver has none."""
        if isinstance(self.factor, FactoredCholesky):
            self._loose = self._loose or _factored(self.factor).times(self.whitening.shift)
            return self._loose
        if not isinstance(self.factor, FactoredCG):
            return super().looseness(probes=probes, rows=rows, seed=seed, progress=progress)
        found = enclosed(
            self.factor.system, self.factor.preconditioner, self.factor.solve,
            probes=probes, rows=rows, seed=seed, progress=progress,
        )  # fmt: skip
        return found.times(self.whitening.shift)

    def log_evidence(self) -> Tensor:
        """`log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim; the ordinary log marginal likelihood when β = ρ = 1.

        Raises:
            InputError: the solver gives no determinant; see `estimate_log_evidence`.
        """
        fit = -0.5 * (self.whitened_target().dot(self.target.value) + self.factor.logdet())
        return fit + self.whitening.log_normaliser(self.data, self.row_noise, self.beta)

    def estimate_log_evidence(self, *, probes: int = 16, seed: int = 0) -> Estimate:
        """The log evidence with its standard error and enclosure: by Lanczos quadrature where the solver has no factor.

        Args:
            probes: random vectors, 2 or more; the standard error falls as their root.
        """
        if isinstance(self.factor, FactoredCholesky):
            return Estimate(float(self.log_evidence()), 0.0, 0.0, 0.0, 0, 0)
        if not isinstance(self.factor, FactoredCG):
            raise InputError(f"{type(self.solver).__name__} gives no log evidence; use Cholesky() or CG()")
        generator = torch.Generator().manual_seed(seed)
        drawn = spherical_probes(len(self.data.train), probes, generator, self.data.train.x.device)
        factor = self.factor
        found = log_evidence(factor.system, factor.preconditioner, self.whitened_target(), self.target.value, drawn)
        rest = float(self.whitening.log_normaliser(self.data, self.row_noise, self.beta))
        return replace(found, value=found.value + rest)


class ExactProbe(Probe):
    """p points seen from an exact posterior: the columns of `V = B⁻¹ p K_Xx` are kept, in float64."""

    def __init__(self, posterior: ExactPosterior, look: Look):
        self.posterior, self.look = posterior, look.double()
        self.whitened = posterior.whitened(look)
        self.solution = posterior.factor.solve(self.whitened)
        # What the entries of the right-hand side are rounded by moves the solution, too.
        self.off = _rounding(self.whitened.norm(dim=0))
        self.converged = self.solution.converged & posterior.target.converged
        self.mean, self.variance = self._mean(), self._variance()

    def _mean(self) -> Certified:
        target = self.posterior.target
        # Thousands of terms of either sign add up to little; plain summation would lose what a refit moves.
        left, right = torch.cat([self.whitened, self.solution.value]), torch.cat([target.value, target.left])
        start = self.look.start(lambda z: prior_mean_at(self.posterior.prior_mean, z))[:, None]
        value = residual(start, -left.T, right[:, None])[:, 0]
        error = (self.solution.defect + self.off) * target.defect
        return Certified(value, error + _rounding(left.abs().T @ right.abs() + value.abs()))

    def _variance(self) -> Certified:
        prior = own(self.posterior.kernel, self.look)
        drop = (self.whitened * self.solution.value + self.solution.value * self.solution.left).sum(dim=0)
        error = (self.solution.defect + self.off) ** 2
        # Rounding may leave a variance below zero by less than its error bound; zero is then the better value.
        return Certified((prior - drop).clamp_min(0.0), error + _rounding(prior + drop.abs()))

    def to_train(self, rows: Tensor | None = None) -> Certified:
        back = self.posterior.whitening.back if rows is None else self.posterior.whitening.back[rows]
        value, error = self.solution.value.T, self.solution.error.T + self.off[:, None]
        if rows is not None:
            value, error = value[:, rows], error[:, rows]
        value, error = value * back, error * back
        unseen = torch.nonzero(back == 0).flatten()
        if len(unseen):
            at = unseen if rows is None else rows[unseen]
            direct = self.toward(Look(self.posterior.data.train.x[at]))
            value, error = value.index_copy(1, unseen, direct.value), error.index_copy(1, unseen, direct.error)
        return Certified(value, error)

    def to(self, other: "ExactProbe") -> Certified:
        prior = between(self.posterior.kernel, matrix_of, self.look, None if other is self else other.look)
        drop = self.whitened.T @ other.solution.value + self.solution.value.T @ other.solution.left
        error = (self.solution.defect + self.off)[:, None] * (other.solution.defect + other.off)
        reach = self.whitened.norm(dim=0)[:, None] * other.solution.value.norm(dim=0)
        return Certified(prior - drop, error + _rounding(prior.abs() + reach))

    def toward(self, look: Look) -> Certified:
        right, look = self.posterior.whitened(look), look.double()
        prior = between(self.posterior.kernel, matrix_of, self.look, look)
        root = prior_deviation(self.posterior.kernel, look)
        error = (self.solution.defect + self.off)[:, None] * root
        error = torch.minimum(error, (self.solution.error + self.off).T @ right.abs())
        size = prior.abs() + self.solution.value.abs().T @ right.abs()
        return Certified(prior - self.solution.value.T @ right, error + _rounding(size))


def _factored(factor: FactoredCholesky) -> Enclosure:
    """The diagonal of B⁻¹. A float32 factor is good for solves that are refined, not for this: it is made anew."""
    return factored(factor.system, _double(factor))


def _double(factor: FactoredCholesky) -> Tensor:
    double = factor.inner if factor.inner.lower.dtype == torch.float64 else CholeskyFactor.of(factor.system, "float64")
    return double.lower


def _rounding(size: Tensor) -> Tensor:
    return ROUNDING * EPS * size


def exact_posterior(head: Any, data: Dataset) -> ExactPosterior:
    """The exact posterior of a head's kernel, noise and mean given the training rows; the kernel is copied.

    Raises:
        SolverError: the system is not positive definite in the data's precision.
    """
    return ExactPosterior(
        frozen_copy(head.kernel), data, noise=head.noise.detach().to(data.train.x.device), mean=head.prior_mean,
        beta=head.beta, solver=head.solver or default_solver(len(data.train), data.train.x.device),
    )  # fmt: skip


__all__ = ["ExactPosterior", "ExactProbe", "exact_posterior"]
