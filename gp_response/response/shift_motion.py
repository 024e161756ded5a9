"""How the field moves when training inputs do: `x_i → x_i + h v`.

The loss of a moved row is `ℓ_i(f(x_i + h v))`, so that `V = -(y_i - f_i) f'_i/σ_i²` with the slope `f'_i = v·∇f(x_i)`, quadratic in
the field and in its slope at the row. By Isserlis' theorem, with `r` the residual and `τ = βρ/σ²`:

    dμ(x) = τ_i [r_i S(x, f'_i) - ⟨f'_i⟩ S(x, f_i)],    ds(x) = -2 τ_i S(x, f_i) S(x, f'_i).
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.motion import Motion, precisions, require_gaussian
from gp_response.response.sites import require_anywhere

EPS = torch.finfo(torch.float64).eps
BLOCK = 1024  # rows whose slopes are looked at together


class ShiftMotion(Motion):
    """By shifts of training rows.

    Args:
        posterior: Gaussian noise.
        at: (s,) rows. column: (s,) the column of each. columns: c.
        direction: (s, d) what a row moves by at h = 1.
    """

    def __init__(self, posterior: Posterior, at: Tensor, column: Tensor, columns: int, direction: Tensor):
        require_gaussian(posterior, "shift_inputs")
        require_anywhere(posterior, "shift_inputs")
        self.posterior, self.at, self.column, self.columns = posterior, at, column, columns
        self.direction, self.width = direction, max(len(at), columns, BLOCK)
        weight, off = precisions(posterior), posterior.residuals
        self.weight = weight[at]
        self.force = Certified(self.weight * off.value[at], self.weight * off.error[at])

    def marginals(self, probe: Probe) -> tuple[Certified, Certified]:
        like = probe.mean.value.new_zeros(len(probe.look), self.columns)
        means, variances = Certified(like, like.clone()), Certified(like.clone(), like.clone())
        for some in torch.arange(len(self.at), device=self.at.device).split(BLOCK):
            look = self._look(some)
            slope, across, cov = self.posterior.mean_of(look), probe.toward(look), probe.to_train(self.at[some])
            weight, force = self.weight[some], Certified(*(part[some] for part in self.force))
            self._add(means, some, _product(across, force), sign=1.0)
            self._add(means, some, _product(cov, Certified(weight * slope.value, weight * slope.error)), sign=-1.0)
            both = _product(cov, across)
            self._add(variances, some, Certified(2.0 * weight * both.value, 2.0 * weight * both.error), sign=-1.0)
        return means, variances

    def log_evidence(self) -> Certified:
        """`-β⟨V⟩ = τ_i (r_i ⟨f'_i⟩ - S(f_i, f'_i))`, and what the moved row's left-out variance adds."""

        def block(some: Tensor) -> Certified:
            probe = self.posterior.probe(self._look(some))
            cov = probe.to_train(self.at[some])
            weight, force = self.weight[some], Certified(*(part[some] for part in self.force))
            first = _product(force, probe.mean)
            second = weight * (cov.value.diagonal() + 0.5 * self.posterior.left_out_slope(self._look(some)))
            error = first.error + weight * cov.error.diagonal() + 4.0 * EPS * (first.value.abs() + second.abs())
            return Certified(first.value - second, error)

        return self._by_blocks(block)

    def learning_coefficient(self) -> Certified:
        """`τ_i [S(f_i, f'_i) - Σ_j τ_j S_ji S(f_j, f'_i)]`."""
        weights = precisions(self.posterior)

        def block(some: Tensor) -> Certified:
            slopes = self.posterior.probe(self._look(some)).to_train()
            values = self.posterior.probe(self.posterior.data.train.x[self.at[some]]).to_train()
            here = torch.arange(len(some), device=some.device)
            own = Certified(*(part[here, self.at[some]] for part in slopes))
            rest = _product(slopes, values)
            total = (weights * rest.value).sum(dim=1)
            size = (weights * rest.value.abs()).sum(dim=1)
            error = own.error + (weights * rest.error).sum(dim=1) + EPS * len(weights) * size
            return Certified(self.weight[some] * (own.value - total), self.weight[some] * error)

        return self._by_blocks(block)

    def marks(self) -> list[Any]:
        return ["shift", self.at, self.column, self.columns, self.direction]

    def _look(self, some: Tensor) -> Look:
        return Look(self.posterior.data.train.x[self.at[some]].double(), self.direction[some])

    def _by_blocks(self, block: Any) -> Certified:
        value = self.weight.new_zeros(self.columns)
        total = Certified(value, value.clone())
        for some in torch.arange(len(self.at), device=self.at.device).split(min(BLOCK, self.posterior._step())):
            self._add(total, some, block(some), sign=1.0)
        return total

    def _add(self, total: Certified, some: Tensor, part: Certified, *, sign: float) -> None:
        total.value.index_add_(-1, self.column[some], sign * part.value)
        total.error.index_add_(-1, self.column[some], part.error)


def _product(one: Certified, other: Certified) -> Certified:
    error = one.value.abs() * other.error + one.error * (other.value.abs() + other.error)
    return Certified(one.value * other.value, error + EPS * (one.value * other.value).abs())


__all__ = ["ShiftMotion"]
