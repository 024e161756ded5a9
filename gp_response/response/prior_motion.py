"""How the field moves when its prior does: kernel hyperparameters and the constant prior mean.

Means and covariances are stationary in their own solves: `m_x + k_xᵀα + uᵀ(y - m - Aα)` and `k_xx - 2k_xᵀu + uᵀAu` have no first
derivative by α = A⁻¹(y - m) and u = A⁻¹k_x. So only the explicit k, K and m are differentiated, with the solves at hand:

    dμ = ṁ_x + k̇_xᵀα - uᵀ(ṁ_X + K̇α),    ds = k̇_xx - 2k̇_xᵀu + uᵀK̇u.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.kernels.look import Look, own
from gp_response.posterior import Certified, Posterior, Probe
from gp_response.response.motion import Motion
from gp_response.response.tangent import Tangent

EPS = torch.finfo(torch.float64).eps
ROUNDING = 16.0 * EPS
TILE = 2**25  # entries of a block of the matrix's derivative


class PriorMotion(Motion):
    """By entries of hyperparameters, one column each, in natural units."""

    def __init__(self, posterior: Posterior, entries: list[Tangent]):
        self.posterior, self.entries = posterior, entries
        self.columns = len(entries)
        self.width = max(8, self.columns)

    def marginals(self, probe: Probe) -> tuple[Certified, Certified]:
        found = [self._marginals(probe, tangent) for tangent in self.entries]
        return stacked([mean for mean, _ in found]), stacked([variance for _, variance in found])

    def _marginals(self, probe: Any, tangent: Tangent) -> tuple[Certified, Certified]:
        raise NotImplementedError

    def marks(self) -> list[Any]:
        return ["prior", [(t.label, t.value) for t in self.entries]]


class ExactPriorMotion(PriorMotion):
    """Of an exact posterior."""

    posterior: ExactPosterior

    def __init__(self, posterior: ExactPosterior, entries: list[Tangent]):
        super().__init__(posterior, entries)
        scale, target = posterior.whitening.scale, posterior.target
        self.alpha = Certified(scale * target.value, scale * target.error)
        self.x = posterior.data.train.x.double()

    def _marginals(self, probe: Any, tangent: Tangent) -> tuple[Certified, Certified]:
        kernel, look, scale = self.posterior.kernel, probe.look, self.posterior.whitening.scale[:, None]
        u = Certified(scale * probe.solution.value, scale * (probe.solution.error + probe.off))
        alpha = Certified(self.alpha.value[:, None], self.alpha.error[:, None])
        cross = tangent.of(kernel, lambda k: look.through(k, lambda part, z: part.matrix(self.x, z)))
        both = torch.cat([alpha.value, u.value], dim=1)
        moved, size, norm = self._product(tangent, both)
        start = look.start(tangent.of_mean)
        rows = tangent.of_mean(self.x)[:, None]
        left, spread = moved[:, 1:], size[:, 1:]
        by_mean = start + (cross * alpha.value).sum(dim=0) - (u.value * (moved[:, :1] + rows)).sum(dim=0)
        off = ((cross - left).abs() * alpha.error).sum(dim=0) + (u.error * (moved[:, :1] + rows).abs()).sum(dim=0)
        off = off + norm * u.error.norm(dim=0) * alpha.error.norm()
        rough = (cross.abs() * alpha.value.abs()).sum(dim=0) + (u.value.abs() * size[:, :1]).sum(dim=0)
        own_change = tangent.of(kernel, lambda k: own(k, look))
        by_variance = own_change - 2.0 * (cross * u.value).sum(dim=0) + (u.value * left).sum(dim=0)
        off_variance = 2.0 * ((cross - left).abs() * u.error).sum(dim=0) + norm * u.error.norm(dim=0) ** 2
        rough_variance = own_change.abs() + (u.value.abs() * (2.0 * cross.abs() + spread)).sum(dim=0)
        return (
            Certified(by_mean, off + ROUNDING * rough),
            Certified(by_variance, off_variance + ROUNDING * rough_variance),
        )

    def log_evidence(self) -> Certified:
        """`½ αᵀK̇α - ½ tr A⁻¹K̇ + αᵀṁ`."""
        traces = self._traces(squared=False)
        fits = []
        for tangent, trace in zip(self.entries, traces, strict=True):
            a, e = self.alpha
            moved, size, norm = self._product(tangent, a[:, None])
            mean = tangent.of_mean(self.x)
            value = 0.5 * a.dot(moved[:, 0]) + a.dot(mean) - 0.5 * trace.value
            error = e.dot(moved[:, 0].abs() + mean.abs()) + 0.5 * norm * e.norm() ** 2 + 0.5 * trace.error
            fits.append(Certified(value, error + ROUNDING * (a.abs().dot(size[:, 0]) + a.abs().dot(mean.abs()))))
        return stacked(fits)

    def learning_coefficient(self) -> Certified:
        """`½ tr A⁻¹DA⁻¹ K̇`."""
        return stacked([Certified(0.5 * t.value, 0.5 * t.error) for t in self._traces(squared=True)])

    def _product(self, tangent: Tangent, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`K̇ v`, `|K̇| |v|` (n, t) and the Frobenius norm of K̇, a block of rows at a time."""
        values, sizes, total = [], [], v.new_zeros(())
        for rows in self.x.split(self._tile()):
            block = self._block(tangent, rows)
            values.append(block @ v)
            sizes.append(block.abs() @ v.abs())
            total = total + block.square().sum()
        return torch.cat(values), torch.cat(sizes), total.sqrt()

    def _block(self, tangent: Tangent, rows: Tensor) -> Tensor:
        return tangent.of(self.posterior.kernel, lambda k: k.matrix(rows, self.x))

    def _tile(self) -> int:
        return max(1, TILE // len(self.x))

    def _traces(self, *, squared: bool) -> list[Certified]:
        """`Σ_ij M_ij K̇_ij` for every entry, M = A⁻¹ or, squared, A⁻¹DA⁻¹: a solve or two a row, shared by all entries."""
        n = len(self.x)
        found = [Certified(self.x.new_zeros(()), self.x.new_zeros(())) for _ in self.entries]
        for rows in torch.arange(n, device=self.x.device).split(min(self.posterior._step(), self._tile())):
            value, error = self._columns(rows, squared=squared)
            for at, tangent in enumerate(self.entries):
                block = self._block(tangent, self.x[rows]).T
                size = (value.abs() * block.abs()).sum()
                found[at] = Certified(
                    found[at].value + (value * block).sum(),
                    found[at].error + (error * block.abs()).sum() + ROUNDING * size,
                )
        return found

    def _columns(self, rows: Tensor, *, squared: bool) -> Certified:
        """Columns of A⁻¹ or A⁻¹DA⁻¹, (n, k)."""
        scale, shift = self.posterior.whitening.scale, self.posterior.whitening.shift[:, None]
        right = torch.zeros(len(self.x), len(rows), dtype=torch.float64, device=self.x.device)
        right[rows, torch.arange(len(rows), device=rows.device)] = scale[rows]
        solved = self.posterior.factor.solve(right)
        value, error = solved.value, solved.error
        if squared:
            # ‖B⁻¹‖ <= 1: what the right-hand side is off by reaches the solution undiminished at most.
            carried = (shift * error).norm(dim=0)
            again = self.posterior.factor.solve(shift * value)
            value, error = again.value, again.error + carried
        return Certified(scale[:, None] * value, scale[:, None] * error)


class Frame(NamedTuple):
    """Of a sparse posterior: `w`, α, τ at the rows, features Φ (m, n)."""

    weights: Tensor
    alpha: Tensor
    precision: Tensor
    features: Tensor


class SparsePriorMotion(PriorMotion):
    """Of a posterior in inducing features: the same stationarity, in `w = Σ⁻¹Φτ(y - m)` and `v = Σ⁻¹φ`."""

    def __init__(self, posterior: Any, entries: list[Tangent]):
        super().__init__(posterior, entries)
        problem = posterior.problem
        alpha = problem.weight * posterior.fixed.pull.force
        features = torch.cat([part for _, part in posterior.rows.blocks()], dim=1)
        self.frame = Frame(posterior.weights.value, alpha, posterior.site_weight, features)
        self.x = posterior.data.train.x.double()

    def _moved(self, tangent: Tangent, look: Look) -> Tensor:
        """φ̇ at a look, (m, p)."""
        basis = self.posterior.basis
        return tangent.of(basis.kernel, lambda k: look.through(basis.with_kernel(k), lambda b, z: b.at(z)))

    def _marginals(self, probe: Any, tangent: Tangent) -> tuple[Certified, Certified]:
        w, alpha, precision, features = self.frame
        look, v = probe.look, probe.solution.value
        phi, rows = self._moved(tangent, look), self._moved(tangent, Look(self.x))
        start, mean = look.start(tangent.of_mean), tangent.of_mean(self.x)
        pulled = rows @ alpha - features @ (precision * (rows.T @ w + mean))
        by_mean = start + phi.T @ w + v.T @ pulled
        seen, moved = features.T @ v, rows.T @ v  # (n, p)
        within = 2.0 * (phi * v).sum(dim=0) - 2.0 * (moved * (precision[:, None] * seen)).sum(dim=0)
        basis = self.posterior.basis
        prior = tangent.of(basis.kernel, lambda k: own(k, look, basis.z))
        outside = prior - 2.0 * (phi * probe.features).sum(dim=0)
        return (
            Certified(by_mean, self._error_of_mean(probe, phi, rows, pulled)),
            Certified(within + outside, self._error_of_variance(probe, phi, rows, prior)),
        )

    def _error_of_mean(self, probe: Any, phi: Tensor, rows: Tensor, pulled: Tensor) -> Tensor:
        """By norms: what residuals, and features rounded by `off` of their length, move each term by."""
        w, alpha, precision, features = self.frame
        posterior, v = self.posterior, probe.solution.value
        lost = posterior.weights.defect * (phi.norm(dim=0) + torch.linalg.matrix_norm(rows * precision) * v.norm(dim=0))
        lost = lost + probe.solution.defect * pulled.norm()
        terms = phi.norm(dim=0) * w.norm() + v.norm(dim=0) * (
            (rows.norm(dim=0) * alpha.abs()).sum()
            + (features.norm(dim=0) * (precision * (rows.T @ w)).abs()).sum()
            + (rows.norm(dim=0) * precision.abs() * features.norm(dim=0)).sum() * w.norm()
        )
        return lost + (posterior.basis.off + ROUNDING) * terms

    def _error_of_variance(self, probe: Any, phi: Tensor, rows: Tensor, prior: Tensor) -> Tensor:
        _, _, precision, features = self.frame
        v = probe.solution.value
        across = (rows.norm(dim=0) * precision.abs() * features.norm(dim=0)).sum()
        slope = 2.0 * phi.norm(dim=0) + 4.0 * across * v.norm(dim=0)
        terms = slope * v.norm(dim=0) + 2.0 * phi.norm(dim=0) * probe.length + prior.abs()
        return slope * probe.solution.defect + (self.posterior.basis.off + ROUNDING) * terms

    def log_evidence(self) -> Certified:
        """Of the collapsed bound: `Σ_i [(φ̇_iᵀw) α_i - τ_i φ̇_iᵀΣ⁻¹φ_i - ½ τ_i (k̇_ii - 2φ̇_iᵀφ_i)] + αᵀṁ`."""
        w, alpha, precision, features = self.frame
        solved = self.posterior.factor.solve(features)

        def one(tangent: Tangent, rows: Tensor, prior: Tensor) -> Certified:
            parts = (
                (rows.T @ w) * alpha, -precision * (rows * solved.value).sum(dim=0),
                -0.5 * precision * (prior - 2.0 * (rows * features).sum(dim=0)), alpha * tangent.of_mean(self.x),
            )  # fmt: skip
            return self._traced(parts, rows, solved.defect)

        return self._over_rows(one)

    def learning_coefficient(self) -> Certified:
        """`Σ_i τ_i φ̇_iᵀ Σ⁻² φ_i`."""
        precision = self.frame.precision
        once = self.posterior.factor.solve(self.frame.features)
        twice = self.posterior.factor.solve(once.value)

        def one(tangent: Tangent, rows: Tensor, prior: Tensor) -> Certified:
            return self._traced((precision * (rows * twice.value).sum(dim=0),), rows, once.defect + twice.defect)

        return self._over_rows(one)

    def _over_rows(self, one: Callable[[Tangent, Tensor, Tensor], Certified]) -> Certified:
        basis, found = self.posterior.basis, []
        for tangent in self.entries:
            rows = self._moved(tangent, Look(self.x))
            prior = tangent.of(basis.kernel, lambda k: k.diagonal(basis.z(self.x)))
            found.append(one(tangent, rows, prior))
        return stacked(found)

    def _traced(self, parts: tuple[Tensor, ...], rows: Tensor, defect: Tensor) -> Certified:
        _, alpha, precision, features = self.frame
        size = sum(part.abs().sum() for part in parts)
        reach = (precision.abs() * rows.norm(dim=0) * features.norm(dim=0)).sum()
        solved = (precision.abs() * rows.norm(dim=0) * defect).sum()
        solved = solved + self.posterior.weights.defect * (rows @ alpha).norm()
        total = torch.stack([part.sum() for part in parts]).sum()
        return Certified(total, solved + (self.posterior.basis.off + ROUNDING) * (size + reach))


def stacked(parts: list[Certified]) -> Certified:
    """Entry by entry along a last axis."""
    return Certified(torch.stack([p.value for p in parts], dim=-1), torch.stack([p.error for p in parts], dim=-1))


__all__ = ["ExactPriorMotion", "PriorMotion", "SparsePriorMotion", "stacked"]
