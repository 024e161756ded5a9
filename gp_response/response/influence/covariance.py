"""The posterior covariance S among training rows as an operator: products by one solve, rows, and whole or low-rank forms."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.site_posterior import SitePosterior
from gp_response.kernels.blocked import fast_matrix
from gp_response.linalg.blocks import block_size
from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.inverse_diagonal import inverse_error
from gp_response.linalg.pivoted import pivoted_rows
from gp_response.linalg.triangular import symmetric_inverse
from gp_response.posterior import Certified
from gp_response.response.influence.squares import ROUNDING, Spanned, Stored
from gp_response.solvers import FactoredCholesky

EPS = torch.finfo(torch.float64).eps
FAR = 100.0  # site variances in units of the prior variance from which D - D A⁻¹ D loses what K A⁻¹ D keeps
PROBES = 128  # rows looked from at a time
BYTES = 2**27  # of one block of kernel rows


class RowCovariance(ABC):
    """S of the n training rows of a posterior: the part of its covariance that responds to data."""

    def __init__(self, posterior: Any):
        self.posterior, self.n = posterior, len(posterior.data.train)
        self.every = torch.arange(self.n, device=posterior.data.train.x.device)

    spans = False  # whether the low-rank form is S itself

    @property
    @abstractmethod
    def own(self) -> Certified:
        """The diagonal of S, (n,), enclosed."""

    def norm(self, own: Certified) -> float:
        """Bound on the largest eigenvalue of S, of diagonal `own`: `S <= D` on rows that are seen, the site variances, and
        its trace."""
        most, train = own.value + own.error, self.posterior.data.train
        seen = train.weights > 0
        site = self.posterior.row_noise.double() / (self.posterior.beta * train.weights.double().clamp_min(1e-300))
        return float(torch.minimum(most.sum(), torch.where(seen, site, 0.0).max() + most[~seen].sum()))

    @abstractmethod
    def times(self, v: Tensor) -> Certified:
        """`S v` for v (n, t) float64, by one solve."""

    @abstractmethod
    def low_rank(self, rank: int | None, *, tolerance: float, seed: int) -> Spanned:
        """A low-rank part of S that never exceeds it."""

    def rows(self, at: Tensor) -> Certified:
        """Rows of S, (k, n), one solve each."""
        step = min(PROBES, self.posterior._step())
        parts = [self.posterior.row_probe(some).to_train() for some in at.split(step)]
        return Certified(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def whole(self) -> Stored:
        """S as a matrix."""
        matrix, error = self.rows(self.every)
        # One scale for all entries: the largest error in units of (S_ii S_jj)^½.
        size = (matrix.diagonal().abs() + error.diagonal() + EPS * float(matrix.abs().max())).sqrt()
        unit = float(((error / size).amax(dim=1) / size).max())
        return Stored(matrix.add_(matrix.T.clone()).mul_(0.5), unit**0.5 * size)


class ExactRows(RowCovariance):
    """`S = D - D A⁻¹ D` of an exact posterior, with D the site variances; `K A⁻¹ D` for rows that data hardly see.

    In the whitened system `B = pAp` (see `whitening`) both come from the one solve `w = B⁻¹ (pD v - p K_u v_u)`, u the rows of
    weight zero: `S v = D v - pD w` where a row is seen, and `K_u v_u + K p w` for any row. The first is free and keeps its
    digits as D gets small; the second costs the row's kernel entries and keeps them as D gets large.
    """

    posterior: ExactPosterior

    def __init__(self, posterior: ExactPosterior):
        super().__init__(posterior)
        whitening = posterior.whitening
        self.x = posterior.data.train.x.double()
        self.prior = posterior.kernel.diagonal(self.x).detach().double()
        self.unseen = whitening.unseen()
        seen = whitening.scale > 0
        one = torch.ones_like(whitening.scale)
        self.site = torch.where(seen, whitening.back / torch.where(seen, whitening.scale, one), float("inf"))
        self.far = torch.nonzero(self.site > FAR * self.prior).flatten()

    @cached_property
    def own(self) -> Certified:
        if isinstance(self.posterior.factor, FactoredCholesky):
            seen = torch.nonzero(self.site.isfinite()).flatten()
            known, _ = self.posterior.own_variance(seen)
            value, error = torch.zeros_like(self.prior), torch.zeros_like(self.prior)
            value[seen], error[seen] = known
        else:
            loose = self.posterior.looseness(probes=0)
            site = torch.where(self.site.isfinite(), self.site, 0.0)
            low, high = site * (1.0 - loose.upper).clamp_min(0.0), site * (1.0 - loose.lower).clamp_max(1.0)
            value, error = 0.5 * (low + high), 0.5 * (high - low) + 4.0 * EPS * site
        if len(self.unseen):
            value[self.unseen], error[self.unseen] = self.posterior.own_variance(self.unseen)[0]
        return Certified(value, error)

    def times(self, v: Tensor) -> Certified:
        w = self.posterior.whitening
        right, size = self._right_hand_side(v)
        solution = self.posterior.factor.solve(right)
        off = solution.error + ROUNDING * size.norm(dim=0)
        site = torch.where(self.site.isfinite(), self.site, 0.0)[:, None]
        back = w.back[:, None]
        value = site * v - back * solution.value
        error = back * off + 4.0 * EPS * (site * v.abs() + back * solution.value.abs())
        inner, loose = w.scale[:, None] * solution.value, w.scale[:, None] * off
        inner = inner.index_copy(0, self.unseen, v[self.unseen])  # p = 0 there
        for some, block in self._kernel(self.far):
            value[some] = block @ inner
            error[some] = block.abs() @ (loose + ROUNDING * inner.abs())
        return Certified(value, error)

    def _right_hand_side(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """`pD v - p K_u v_u` and the sizes of what is added, (n, t)."""
        w = self.posterior.whitening
        right = w.back[:, None] * v
        size = right.abs()
        for some, block in self._kernel(self.unseen):
            part = w.scale[:, None] * block.T
            right, size = right - part @ v[some], size + part.abs() @ v[some].abs()
        return right, size

    def _kernel(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows of K, a block at a time."""
        for some in rows.split(block_size(16 * self.n, BYTES, most=self.n)):
            if len(some):
                yield some, fast_matrix(self.posterior.kernel, self.x[some], self.x)

    def low_rank(self, rank: int | None, *, tolerance: float, seed: int) -> Spanned:
        """S of the prior cut down to a low-rank one below it: `G (1 + Gᵀ D⁻¹ G)⁻¹ Gᵀ` for `K >= G Gᵀ`.

        The parallel sum `(K⁻¹ + D⁻¹)⁻¹` grows with K, so what remains of S is positive semi-definite. No solve is needed; pivots
        are drawn by the variance left in units of the rows' noise.
        """
        w = self.posterior.whitening
        seen = self.site.isfinite()
        scale = torch.where(seen, w.scale, w.scale[seen].median() if bool(seen.any()) else 1.0)

        def columns(at: Tensor) -> Tensor:
            return fast_matrix(self.posterior.kernel, self.x[at], self.x).mul_(scale[at][:, None]).mul_(scale).T

        found = pivoted_rows(
            columns, scale.square() * self.prior, rank or usual_rank(self.n), stop=tolerance * self.n,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        rows = found.rows.div_(scale)
        core = (rows / self.site) @ rows.T
        core.diagonal().add_(1.0)
        low = torch.linalg.solve_triangular(torch.linalg.cholesky(core), rows, upper=False)
        return spanned(low, self.own, self._slack(low, float(core.diagonal().sum())), self.norm(self.own))

    def _slack(self, low: Tensor, trace: float) -> Tensor:
        """What rounding of the factor of K, at most `γ (K_ii K_jj)^½` an entry, and of the core move S by, (n,)."""
        gamma = 4.0 * EPS * (len(low) + 8)
        size = low.square().sum(dim=0).sqrt()
        reach = float((size * self.prior.sqrt() / self.site).sum())
        spread = gamma * (self.prior.sqrt() + size * reach).square()
        return torch.where(self.site.isfinite(), torch.minimum(gamma * trace * self.site, spread), spread)

    def whole(self) -> Stored:
        """From the inverse of the factored system where there is a factor, `2 n³/3` flops; row by row where there is none."""
        factor = self.posterior.factor
        if not isinstance(factor, FactoredCholesky) or not bool(self.site.isfinite().any()):
            return super().whole()
        w, double = self.posterior.whitening, factor.inner
        if double.lower.dtype != torch.float64:
            double = CholeskyFactor.of(factor.system, "float64")
        part = inverse_error(factor.system, double.lower)
        matrix = symmetric_inverse(double.lower)
        own = matrix.diagonal().clone()
        matrix.mul_(-w.back[:, None]).mul_(w.back)
        site = torch.where(self.site.isfinite(), self.site, 0.0)
        matrix.diagonal().add_(site)
        unit = part + 4.0 * EPS if part < 0.5 else float("inf")
        off = (unit * w.back.square() * own + 4.0 * EPS * site).sqrt()
        if len(self.unseen):
            self._fill_unseen(matrix, off)
        return Stored(matrix, off)

    def _fill_unseen(self, matrix: Tensor, off: Tensor) -> None:
        """Rows and columns that the factor does not see, by solves."""
        value, error = self.rows(self.unseen)
        matrix[self.unseen], matrix[:, self.unseen] = value, value.T
        seen = torch.nonzero(self.site.isfinite()).flatten()
        across = (error[:, seen] / off[seen].clamp_min(1e-300)).amax(dim=1)
        among = error[:, self.unseen].amax(dim=1).sqrt().max()
        off[self.unseen] = torch.maximum(across, among)


class SiteRows(RowCovariance):
    """`S = Φᵀ Σ⁻¹ Φ` of a posterior in m inducing features, which is of rank m: its low-rank form is exact."""

    posterior: SitePosterior
    spans = True

    @cached_property
    def own(self) -> Certified:
        return self.posterior.own_variance(self.every)[0]

    def times(self, v: Tensor) -> Certified:
        rows, length, root = self.posterior.rows, self.posterior.rows.norms().sqrt(), self.own.value.sqrt()
        solution = self.posterior.factor.solve(rows.gather(v))
        value = rows.spread(solution.value)
        size = v.abs()
        rounding = ROUNDING * (length @ size + solution.value.norm(dim=0))
        error = root[:, None] * (solution.defect + rounding) + ROUNDING * length[:, None] * solution.value.norm(dim=0)
        return Certified(value, error + self.off[:, None] * (self.off @ size))

    @cached_property
    def off(self) -> Tensor:
        """Rounded features move S_ij by at most `off_i off_j`, (n,)."""
        posterior = self.posterior
        own, length = self.own.value, posterior.rows.norms()
        return (posterior.basis.off * (own + length) + 2.0 * posterior.spread_of_rounding * own).sqrt()

    def low_rank(self, rank: int | None, *, tolerance: float, seed: int) -> Spanned:
        rows, lower = self.posterior.rows, torch.linalg.cholesky(self.posterior.fixed.precision)
        low = torch.cat(
            [torch.linalg.solve_triangular(lower, features, upper=False) for _, features in rows.blocks()], dim=1
        )
        slack = self.off.square() + 2.0 * ROUNDING * len(low) * self.own.value
        if rank is not None and rank < len(low):
            _, turn = torch.linalg.eigh(low @ low.T)
            low = turn[:, -rank:].T @ low
            return spanned(low, self.own, slack, self.norm(self.own))
        return Spanned(low, slack.sqrt(), self.own, float(slack.sum()))


def spanned(rows: Tensor, own: Certified, slack: Tensor, norm: float) -> Spanned:
    """A low-rank part (r, n) below S, with what its diagonal lacks of S's.

    slack: rounding moves entries by at most `(slack_i slack_j)^½`. norm: of S.
    """
    high, low = own.value + own.error, rows.square().sum(dim=0)
    rest, slack = (high - low).clamp_min(0.0), slack + ROUNDING * high
    off = (rest + slack).sqrt()
    # The diagonal is not below that of its own part.
    floor = (torch.maximum(own.value - own.error, low - slack)).minimum(high)
    found = Certified(0.5 * (floor + high), 0.5 * (high - floor) + ROUNDING * high)
    return Spanned(rows, off, found, min(norm, float(rest.sum())) + float(slack.sum()))


def usual_rank(n: int) -> int:
    """Ranks that keep a product near the cost of a few solves."""
    return min(n, 64 + 8 * int(n**0.5), 2048)


__all__ = ["ExactRows", "RowCovariance", "SiteRows", "usual_rank"]
