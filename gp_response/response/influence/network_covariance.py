"""S of the training rows of a linearised network, `J̃ B⁻¹ J̃ᵀ` in whitened parameters."""

from functools import cached_property

import torch
from torch import Tensor

from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.kernels.look import Look
from gp_response.linalg.blocks import byte_budget
from gp_response.posterior import Certified
from gp_response.response.influence.covariance import RowCovariance, spanned, usual_rank
from gp_response.response.influence.squares import ROUNDING, Spanned


class LinearisedRows(RowCovariance):
    """Products by a solve between two sweeps; a low-rank part by projection, which costs no solve."""

    posterior: NetworkPosterior

    @cached_property
    def own(self) -> Certified:
        return self.posterior.own_variance(self.every)[0]

    def times(self, v: Tensor) -> Certified:
        posterior, rows = self.posterior, self.posterior.rows
        right = posterior.gather(v)
        solution = posterior.factor.solve(right)
        rounding = posterior.eps * (rows.lengths @ v.abs() + solution.value.norm(dim=0))
        error = posterior.row_roots[:, None] * (posterior.energy(solution) + rounding)
        reach = posterior.eps * rows.lengths[:, None] * solution.value.norm(dim=0)
        return Certified(posterior.spread(solution.value), error + reach)

    def low_rank(self, rank: int | None, *, tolerance: float, seed: int) -> Spanned:
        """`J̃ V (VᵀBV)⁻¹ Vᵀ J̃ᵀ` for orthonormal V: the energy of a projection never exceeds that of the whole.

        V spans the gradients of rows drawn by the precision that they add.
        """
        posterior = self.posterior
        most = byte_budget(None, self.every.device) // (32 * posterior.system.n)
        rank = max(1, min(rank or usual_rank(self.n), self.n, posterior.system.n, most))
        generator = torch.Generator().manual_seed(seed)
        shares = (posterior.precisions * posterior.rows.lengths.square()).cpu() + 1e-300
        chosen = torch.multinomial(shares, rank, generator=generator).to(self.every.device)
        basis, _ = torch.linalg.qr(posterior.gradients(Look(posterior.row_points[chosen])))
        core = basis.T @ posterior.system.product(basis)
        lower = torch.linalg.cholesky(0.5 * (core + core.T))
        seen = posterior.spread(basis)  # (n, r)
        low = torch.linalg.solve_triangular(lower, seen.T, upper=False)
        slack = posterior.row_roots * posterior.rows.lengths * posterior.eps * rank
        slack = slack + posterior.system.off * self.own.value + ROUNDING * self.own.value
        return spanned(low, self.own, slack, self.norm(self.own))


__all__ = ["LinearisedRows"]
