"""Second derivatives of Titsias' collapsed bound, by automatic differentiation of it twice.

Written in the precisions `τ = βρ/σ²` themselves, so that it is smooth where a weight is zero. n m numbers are kept for each of
about thirty intermediate results.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.heads.basis import Basis
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.response.total.objective import Along, Marginal, Objective
from gp_response.response.total.tiles import gradients, inner


class CollapsedBound(Objective):
    """The collapsed bound of `gr.SGPR`; see `Objective`."""

    def __init__(self, head: Any, data: Dataset, parameters: list[Tensor], points: Tensor, moved: tuple[str, ...] = ()):
        super().__init__(head, data, parameters, points, moved)
        # For points without gradient gpytorch's own kernels take shortcuts whose second derivatives are silently wrong.
        head.points.requires_grad_(True)

    def value(self) -> float:
        with torch.no_grad():
            return float(self._parts()[0]) + self.log_prior()

    def settle(self) -> None:
        with torch.enable_grad():
            self.bound, basis, lower, seen = self._parts()
            self.slopes = gradients(self.bound, self.parameters, graph=True)
            toward = basis.at(self.points)
            reach = torch.linalg.solve_triangular(lower, toward, upper=False)
            mean = prior_mean_at(self.head.prior_mean, self.points) + reach.T @ seen
            left_out = basis.diagonal(self.points) - toward.square().sum(dim=0)
            variance = left_out + reach.square().sum(dim=0)
            self.field = Marginal(mean, variance, self.head.noise.double())
            self.cotangents = [torch.zeros_like(part, requires_grad=True) for part in self.field]
            self.pulled = gradients(inner(list(self.field), self.cotangents), self.parameters, graph=True)

    def gradient(self) -> list[Tensor]:
        return [a.detach() + b for a, b in zip(self.slopes, self.prior(), strict=True)]

    def along(self, direction: list[Tensor]) -> Along:
        leaves = [self.leaves[name] for name in self.moved]
        found = gradients(inner(self.slopes, direction), [*self.parameters, *leaves], keep=True)
        count = len(self.parameters)
        parameters = [a + b for a, b in zip(found[:count], self.prior(direction), strict=True)]
        field = gradients(inner(self.pulled, direction), self.cotangents, keep=True)
        return Along(parameters, dict(zip(self.moved, found[count:], strict=True)), *field)

    def marginal(self) -> Marginal:
        return Marginal(*(part.detach() for part in self.field))

    def pullback(self, mean: Tensor, variance: Tensor, noise: Tensor) -> list[Tensor]:
        return gradients(inner(list(self.field), [mean, variance, noise]), self.parameters, keep=True)

    def _parts(self) -> tuple[Tensor, Basis, Tensor, Tensor]:
        """The bound, the features, the factor L of `1 + Φ τ Φᵀ` and `L⁻¹ Φ τ r`."""
        head = self.head
        basis = head.basis()
        x, y, weights = (self.leaves[name] for name in ("x", "y", "weights"))
        noise = head.noise.double()
        variance = (noise if "noise" not in self.leaves else self.leaves["noise"] + noise).expand(len(y))
        precision = head.beta * weights / variance
        features, residual = basis.at(x), y - prior_mean_at(head.prior_mean, x)
        eye = torch.eye(len(basis), dtype=torch.float64, device=x.device)
        lower = torch.linalg.cholesky(eye + (features * precision) @ features.T)
        seen = torch.linalg.solve_triangular(lower, (features @ (precision * residual))[:, None], upper=False)[:, 0]
        fit = (precision * residual.square()).sum() - seen.square().sum()
        left_out = (precision * (basis.diagonal(x) - features.square().sum(dim=0))).sum()
        gibbs = head.beta * (weights * (2.0 * torch.pi * variance).log()).sum()
        return -0.5 * (fit + 2.0 * lower.diagonal().log().sum() + left_out + gibbs), basis, lower, seen


__all__ = ["CollapsedBound"]
