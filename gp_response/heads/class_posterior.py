"""Several classes: Laplace's approximation of C fields that share a kernel and meet in the softmax.

In inducing features `F = m₀ + Φᵀ W`, W (m, C) standard normal before the data. The mode has `W = Φ βρ (Y - π)`, and the precision
there couples the classes, `Σ_cc' = δ_cc' + Φ diag(βρ (π_c δ_cc' - π_c π_c')) Φᵀ` (Rasmussen & Williams 2006, section 3.5).
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.basis import Basis
from gp_response.heads.class_mode import ClassProblem
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.several_classes import SeveralClasses
from gp_response.heads.trace import Trace
from gp_response.kernels.look import Look
from gp_response.likelihoods import Categorical
from gp_response.linalg.system import DenseSystem
from gp_response.linalg.transforms import inside_transform
from gp_response.posterior import Certified, Probe
from gp_response.solvers import Cholesky, Factor

EPS = torch.finfo(torch.float64).eps
GIB = 2**30


class ClassPosterior(SeveralClasses):
    """C fields conditioned on classes; made by `Exact` and `SVGP` with a `Categorical` likelihood.

    `mean(x)` is (n, C), `variance(x)` (n, C) and `cov(x, y)` (n, C, m, C). What moves is the mode.

    Args:
        basis: inducing features, shared by the classes.
        data: n training rows with labels 0 to C - 1.
        likelihood: Categorical.
        mean, beta, whole, keep: as for `SitePosterior`.
    """

    def __init__(
        self, basis: Basis, data: Dataset, *, likelihood: Categorical, mean: Any = 0.0, beta: float = 1.0,
        whole: bool = False, keep: int | None = None,
    ):  # fmt: skip
        self.basis, self.data, self.law, self.whole = basis, data, likelihood, whole
        self.kernel, self.prior_mean, self.beta, self.solver = basis.kernel, mean, beta, Cholesky()
        self.trace: Trace | None = None
        self.keep = keep
        train = data.train
        self.noise = torch.full((), float("nan"), dtype=torch.float64, device=train.x.device)  # classes have none
        if not inside_transform():
            likelihood.check(train.y)
            _refuse_what_does_not_fit(len(basis) * likelihood.classes)
        self.problem = ClassProblem.of(basis, data, likelihood, mean, beta, keep)
        self.rows = self.problem.rows
        self.weights, self.change = self.problem.mode()
        self.probabilities = torch.softmax(self.problem.field(self.weights), dim=-1)  # (n, C)
        self.precision = self.problem.precision(self.probabilities)
        self.factor: Factor = self.solver.factor(DenseSystem(self.precision, floor=1.0))

    @property
    def residuals(self) -> Certified:
        """`1[y = c] - p(c)` of every row and class, (n, C): the force on each field."""
        value = self.problem.labels - self.probabilities
        return Certified(value, torch.full_like(value, 16.0 * EPS + self.change))

    def probe(self, x: Tensor | Look) -> "ClassProbe":
        """Look at the fields from points (x, c), (p, d + 1)."""
        look = self.look(x)
        if look.direction is not None:
            raise InputError("slopes are not here for several classes; use value or contrast")
        return ClassProbe(self, look.points)

    def reweighted(self, weights: Tensor) -> "ClassPosterior":
        return ClassPosterior(
            self.basis, self._data_at(weights), likelihood=self.law, mean=self.prior_mean, beta=self.beta,
            whole=self.whole, keep=self.keep,
        )  # fmt: skip

    def blocks(self, probe: Any) -> Tensor:
        """The C x C covariance of each point's fields, (n, C, C)."""
        c, p = self.classes, len(probe.points) // self.classes
        own = torch.stack([
            probe.features[:, k * c : (k + 1) * c].T @ probe.solution.value[:, k * c : (k + 1) * c] for k in range(p)
        ])  # fmt: skip
        return own + torch.diag_embed(probe.left_out.reshape(p, c))

    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        """Prior covariance between points (x, c), (n, m): classes are independent."""
        x, y = self.points(x), self.points(y)
        return self._like(self.basis.prior(x[:, :-1], y[:, :-1]) * (x[:, -1:] == y[:, -1]))


class ClassProbe(Probe):
    """p points (x, c) seen from several fields: features in the class's own block."""

    def __init__(self, posterior: ClassPosterior, points: Tensor):
        self.posterior, self.look = posterior, Look(points)
        x, c = points[:, :-1], points[:, -1].long()
        inner = posterior.basis.at(x)  # (m, p)
        place = torch.nn.functional.one_hot(c, posterior.classes).to(inner).T  # (C, p)
        self.features = (place[:, None, :] * inner).reshape(-1, len(points))
        self.solution = posterior.factor.solve(self.features)
        self.converged = self.solution.converged
        own = (self.features * self.solution.value).sum(dim=0).clamp_min(0.0)
        self.left_out = (posterior.basis.diagonal(x) - inner.square().sum(dim=0)).clamp_min(0.0)
        self.length = inner.norm(dim=0)
        off = (64.0 * EPS + 4.0 * posterior.basis.off) * self.length**2
        self.variance = Certified(own + self.left_out, off + self.solution.defect * self.length)
        value = prior_mean_at(posterior.prior_mean, x.double()) + (inner * posterior.weights[:, c]).sum(dim=0)
        size = posterior.weights.norm() * self.length
        self.mean = Certified(value, (16.0 * EPS + 2.0 * posterior.basis.off) * size + posterior.change)

    def to_train(self, rows: Tensor | None = None) -> Certified:
        """Covariance with the fields of the training rows, row by row and class by class, (p, n C); rows: indices into it."""
        posterior = self.posterior
        m, c = len(posterior.basis), posterior.classes
        by_class = [posterior.rows.spread(self.solution.value[k * m : (k + 1) * m]) for k in range(c)]  # (n, p) each
        value = torch.stack(by_class, dim=1).reshape(-1, len(self.points)).T
        far = posterior.rows.norms().sqrt().repeat_interleave(c)
        error = (64.0 * EPS + 4.0 * posterior.basis.off) * self.length[:, None] * far
        error = error + self.solution.defect[:, None] * far
        return Certified(value, error) if rows is None else Certified(value[:, rows], error[:, rows])

    def to(self, other: "ClassProbe") -> Certified:
        value = self.features.T @ other.solution.value
        if self.posterior.whole:
            prior = self.posterior.basis.prior(self.points[:, :-1], other.points[:, :-1])
            same = self.points[:, -1:] == other.points[:, -1]
            value = value + torch.where(same, prior - self.features.T @ other.features, 0.0)
        error = (64.0 * EPS + 4.0 * self.posterior.basis.off) * self.length[:, None] * other.length
        return Certified(value, error + self.length[:, None] * other.solution.defect)


def _refuse_what_does_not_fit(size: int) -> None:
    need = 3 * 8 * size**2
    if need > 8 * GIB:
        raise InputError(
            f"inducing points times classes are {size:,}, whose system needs {need / GIB:.1f} GiB; take fewer inducing points"
        )


__all__ = ["ClassPosterior", "ClassProbe"]
