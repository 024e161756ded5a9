"""The mode of several fields that meet in a softmax, and Laplace's evidence there (Rasmussen & Williams 2006, section 3.5)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import SolverError
from gp_response.heads.basis import Basis
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.rows import Rows
from gp_response.likelihoods import Categorical
from gp_response.linalg.transforms import inside_transform

TOLERANCE, MOST, BLIND = 1e-12, 200, 24


@dataclass(frozen=True)
class ClassProblem:
    """Rows with features, `weight` βρ (n,), prior means `before` (n, 1), labels as indicators (n, C)."""

    rows: Rows
    weight: Tensor
    before: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls, basis: Basis, data: Dataset, likelihood: Categorical, mean: Any, beta: float, keep: int | None = None
    ) -> "ClassProblem":
        train = data.train
        return cls(
            Rows(basis, train.x.double(), keep=keep), beta * train.weights.double(),
            prior_mean_at(mean, train.x.double())[:, None], likelihood.indicator(train.y),
        )  # fmt: skip

    def field(self, weights: Tensor) -> Tensor:
        """Fields of the rows, (n, C), for weights (m, C)."""
        return self.before + self.rows.spread(weights)

    def objective(self, weights: Tensor, field: Tensor) -> Tensor:
        fit = (self.weight * (self.labels * torch.log_softmax(field, dim=-1)).sum(dim=-1)).sum()
        return fit - 0.5 * weights.square().sum()

    def precision(self, p: Tensor) -> Tensor:
        """Σ at probabilities p (n, C), class by class, (C m, C m)."""
        classes, m, lines = p.shape[1], len(self.rows.basis), []
        eye = torch.eye(m, dtype=torch.float64, device=p.device)
        for c in range(classes):
            line = []
            for k in range(classes):
                block = self.rows.weighted(self.weight * p[:, c] * (float(c == k) - p[:, k]))
                line.append(block + eye if c == k else block)
            lines.append(torch.cat(line, dim=1))
        return torch.cat(lines)

    def step(self, weights: Tensor, field: Tensor) -> Tensor:
        """Newton's step of the weights, (m, C)."""
        p = torch.softmax(field, dim=-1)
        pull = self.rows.gather(self.weight[:, None] * (self.labels - p)) - weights
        return torch.linalg.solve(self.precision(p), pull.T.reshape(-1)).reshape(p.shape[1], -1).T

    def mode(self) -> tuple[Tensor, float]:
        """Weights of the mode (m, C), and the last change of a field. Log-concave, so that halved Newton steps end there."""
        weights = torch.zeros(
            len(self.rows.basis), self.labels.shape[1], dtype=torch.float64, device=self.labels.device
        )
        field = self.field(weights)
        if inside_transform():
            for _ in range(BLIND):
                weights = weights + self.step(weights, field)
                field = self.field(weights)
            return weights, 0.0
        best, change = self.objective(weights, field), float("inf")
        for _ in range(MOST):
            step, size = self.step(weights, field), 1.0
            moved = self.rows.spread(step)
            least = best - 1e-10 * (1.0 + best.abs())
            while self.objective(weights + size * step, field + size * moved) < least and size > 1e-6:
                size *= 0.5
            weights, field = weights + size * step, field + size * moved
            best, change = self.objective(weights, field), float(size * moved.abs().max())
            if change < TOLERANCE * (1.0 + float(field.abs().max())):
                return weights, change
        raise SolverError(f"the mode was not found in {MOST} Newton steps (last change {change:.1e})")


def class_log_evidence(basis: Basis, data: Dataset, likelihood: Categorical, mean: Any, beta: float) -> Tensor:
    """Laplace's approximation of the log evidence, 0-dim, differentiable in what the basis is made of.

    The mode is found without gradients; one Newton step with them carries its dependence on the hyperparameters.
    """
    with torch.no_grad():
        start, _ = ClassProblem.of(basis, data, likelihood, mean, beta, keep=2**62).mode()
    # Rows keep their features, so that those of the mode have no gradients to give.
    problem = ClassProblem.of(basis, data, likelihood, mean, beta, keep=2**62)
    weights = start + problem.step(start, problem.field(start))
    field = problem.field(weights)
    lower = torch.linalg.cholesky(problem.precision(torch.softmax(field, dim=-1)))
    return problem.objective(weights, field) - lower.diagonal().log().sum()


__all__ = ["ClassProblem", "class_log_evidence"]
