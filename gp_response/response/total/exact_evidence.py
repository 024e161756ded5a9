"""Second derivatives of the exact log evidence in closed form, three n x n matrices at a time.

With `τ_i = βρ_i/σ_i²` and `r = y - m` the evidence is

    M = -½ rᵀP r - ½ log det(1 + τK) - ½ β Σ ρ_i log 2πσ_i²,    P = (1 + τK)⁻¹τ,

smooth where a weight is zero, unlike with `D = 1/τ`. Its gradients are

    ∂M/∂K = Γ = ½ (ααᵀ - P),   ∂M/∂τ_i = -½ (e_i² + S_ii),   ∂M/∂r = -α,      α = P r,  e = r - Kα,  S = K - K P K,

and along a direction that moves K by K̇ and `D` by Ḋ, with `N = K̇ + Ḋ`, they move by

    α̇ = -P N α,   Γ̇ = ½ (α̇αᵀ + αα̇ᵀ + P N P),   ė, Ṡ_ii likewise.

Everything else is a first derivative of K, τ, r against these as constants, or a second one against Γ and ∂M/∂τ. For kernel
parameters this is `-αᵀK_aP K_bα + ½ tr(P K_aP K_b) + ½ αᵀK_abα - ½ tr(P K_ab)`. Two products of n x n matrices a direction.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gp_response.data import row_noise
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.whitening import Whitening, whiten
from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.triangular import symmetric_inverse
from gp_response.response.total import tiles
from gp_response.response.total.objective import Along, Marginal, Objective
from gp_response.response.total.tiles import gradients


class ExactEvidence(Objective):
    """The log evidence of `gr.Exact` with Gaussian noise; see `Objective`."""

    def __init__(self, head: Any, data: Any, parameters: list[Tensor], points: Tensor, moved: tuple[str, ...] = ()):
        super().__init__(head, data, parameters, points, moved)
        self.kernel, self.beta = head.kernel, head.beta
        self.of_kernel = [p for p in parameters if p is not head.raw_noise]
        self.noise_moves = any(p is head.raw_noise for p in parameters)
        self.rows = data.with_train(**{name: leaf.detach() for name, leaf in self.leaves.items()})
        self.x = self.rows.train.x
        self.unseen = torch.nonzero(self.rows.train.weights == 0).flatten()

    def value(self) -> float:
        with torch.no_grad():
            white, factor = self._factor()
            right = white.scale * self._residual()
            fit = -0.5 * right @ factor.back(right[:, None])[:, 0] - 0.5 * factor.logdet()
            return float(fit + white.log_normaliser(self.rows, self._variance(), self.beta)) + self.log_prior()

    @torch.no_grad()
    def settle(self) -> None:
        white, factor = self._factor()
        self.inverse = symmetric_inverse(factor.lower).mul_(white.scale).mul_(white.scale[:, None])
        del factor
        right = self._residual()
        self.alpha = self.inverse @ right
        weights, variance = self.rows.train.weights, self._variance().expand(len(right))
        self.seen = weights > 0
        self.site = torch.where(self.seen, variance / (self.beta * weights.clamp_min(1e-300)), torch.zeros_like(right))
        own = self.inverse.diagonal()
        self.left = self.site * self.alpha
        self.spread = self.site * (1.0 - self.site * own)
        self.toward = self.kernel.matrix(self.x[self.unseen], self.x)
        if len(self.unseen):
            self.left[self.unseen] = right[self.unseen] - self.toward @ self.alpha
            reach = self.toward @ self.inverse
            explained = (reach * self.toward).sum(dim=1)
            self.spread[self.unseen] = self.toward[:, self.unseen].diagonal() - explained
        self.cross = self.kernel.matrix(self.x, self.points)
        self.reach = self.inverse @ self.cross
        self.gamma = partial(_gamma, self.alpha, self.inverse)
        self.tiles = tiles.Tiles(self.kernel, self.of_kernel, self.x, self.gamma)

    def gradient(self) -> list[Tensor]:
        kernel = tiles.pulled(self.kernel, self.of_kernel, self.x, self.gamma)
        with torch.enable_grad():
            vectors = gradients(self._vectors(self._by_precision(), -self.alpha, explicit=True), [self.head.raw_noise])
        return self._joined(kernel, vectors[0] if self.noise_moves else None, self.prior())

    def along(self, direction: list[Tensor]) -> Along:
        of_kernel, of_noise = self._parted(direction)
        with torch.no_grad():
            by_noise = of_noise * self._noise_slope()
            scaled = self.beta * self.rows.train.weights
            by_site = torch.where(self.seen, by_noise / scaled.clamp_min(1e-300), torch.zeros_like(scaled))
        slope = self.tiles.along(of_kernel)
        with torch.no_grad():
            unseen = slope[self.unseen]
            slope.diagonal().add_(by_site)
            by_alpha = -(self.inverse @ (slope @ self.alpha))
            bent = self.inverse @ (slope @ self.inverse)
            by_precision = self._precision_along(by_site, by_alpha, bent, unseen)
            mean, variance = self._marginal_along(of_kernel, slope, by_alpha)
            del slope
        parameters, data = self._pull(direction, bent, by_alpha, by_precision)
        return Along(parameters, data, mean, variance, by_noise)

    def marginal(self) -> Marginal:
        with torch.no_grad():
            mean = prior_mean_at(self.head.prior_mean, self.points) + self.cross.T @ self.alpha
            variance = self.kernel.diagonal(self.points) - (self.cross * self.reach).sum(dim=0)
            return Marginal(mean, variance, self.head.noise.detach().double())

    def pullback(self, mean: Tensor, variance: Tensor, noise: Tensor) -> list[Tensor]:
        with torch.no_grad():
            by_mean, by_variance = self.reach @ mean, self.reach * variance
            across = self.alpha[:, None] * mean - 2.0 * by_variance
            on_site = -by_mean * self.alpha + (by_variance * self.reach).sum(dim=1)

        def within(rows: slice) -> Tensor:
            return by_variance[rows] @ self.reach.T - by_mean[rows, None] * self.alpha

        kernel = tiles.pulled(self.kernel, self.of_kernel, self.x, within)
        with torch.enable_grad():
            seen = (across * self.kernel.matrix(self.x, self.points)).sum()
            seen = seen + (variance * self.kernel.diagonal(self.points)).sum()
            kernel = [a + b for a, b in zip(kernel, gradients(seen, self.of_kernel), strict=True)]
        scaled = self.beta * self.rows.train.weights
        site = torch.where(self.seen, on_site / scaled.clamp_min(1e-300), torch.zeros_like(scaled)).sum()
        by_noise = (site + noise) * self._noise_slope() if self.noise_moves else None
        return self._joined(kernel, by_noise, None)

    # The pieces -------------------------------------------------------------------------------------------------------

    def _factor(self) -> tuple[Whitening, CholeskyFactor]:
        white = whiten(self.rows, self._variance(), self.beta)
        return white, CholeskyFactor(white.system(self.kernel.matrix(self.x)), overwrite=True)

    def _variance(self) -> Tensor:
        return row_noise(self.rows, self.head.noise.detach().double())

    def _residual(self) -> Tensor:
        return self.rows.train.y - prior_mean_at(self.head.prior_mean, self.x)

    def _by_precision(self) -> Tensor:
        return -0.5 * (self.left.square() + self.spread)

    def _noise_slope(self) -> Tensor:
        """dσ²/d(raw), 0-dim."""
        with torch.enable_grad():
            return gradients(self.head.noise, [self.head.raw_noise])[0].double()

    def _precision_along(self, site: Tensor, alpha: Tensor, bent: Tensor, unseen: Tensor) -> Tensor:
        """d(∂M/∂τ), (n,): `bent` is P N P and `unseen` the rows of K̇ of weight zero."""
        own = self.inverse.diagonal()
        left = site * self.alpha + self.site * alpha
        spread = site - 2.0 * self.site * site * own + self.site.square() * bent.diagonal()
        if len(self.unseen):
            left[self.unseen] = -(unseen @ self.alpha) - self.toward @ alpha
            reach = self.toward @ self.inverse
            moved = unseen[:, self.unseen].diagonal() - 2.0 * (unseen * reach).sum(dim=1)
            spread[self.unseen] = moved + ((self.toward @ bent) * self.toward).sum(dim=1)
        return -self.left * left - 0.5 * spread

    def _marginal_along(self, of_kernel: list[Tensor], slope: Tensor, by_alpha: Tensor) -> tuple[Tensor, Tensor]:
        cross = tiles.along(self.kernel, self.of_kernel, of_kernel, self.x, self.points)
        own = tiles.pushed(lambda: self.kernel.diagonal(self.points), self.of_kernel, of_kernel)
        mean = cross.T @ self.alpha + self.cross.T @ by_alpha
        variance = own - 2.0 * (self.reach * cross).sum(dim=0) + (self.reach * (slope @ self.reach)).sum(dim=0)
        return mean, variance

    def _pull(
        self, direction: list[Tensor], bent: Tensor, by_alpha: Tensor, by_precision: Tensor
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Second derivatives by the parameters and by the data from those of the gradients by K, τ and r."""

        def gamma(rows: slice) -> Tensor:
            outer = by_alpha[rows, None] * self.alpha + self.alpha[rows, None] * by_alpha
            return 0.5 * (outer + bent[rows])

        of_kernel, of_noise = self._parted(direction)
        kernel, to_x = self.tiles.pulled(gamma, of_kernel, points="x" in self.moved)
        raw, moved = self.head.raw_noise, [self.leaves[name] for name in self.moved]
        with torch.enable_grad():
            scalar = self._vectors(by_precision, -by_alpha, explicit=False)
            if self.noise_moves:
                now = self._vectors(self._by_precision(), -self.alpha, explicit=True)
                scalar = scalar + (gradients(now, [raw], graph=True)[0] * of_noise).sum()
            noise, *leaves = gradients(scalar, [raw, *moved])
        data = dict(zip(self.moved, leaves, strict=True))
        if to_x is not None:
            data["x"] = data["x"] + to_x
        return self._joined(kernel, noise if self.noise_moves else None, self.prior(direction)), data

    def _vectors(self, by_precision: Tensor, by_residual: Tensor, *, explicit: bool) -> Tensor:
        """`⟨by_precision, τ⟩ + ⟨by_residual, r⟩`, and the term of M that neither K, τ nor r is in; differentiable."""
        x, y, weights = (self.leaves[name] for name in ("x", "y", "weights"))
        noise = self.head.noise.double()
        variance = (noise if "noise" not in self.leaves else self.leaves["noise"] + noise).expand(len(y))
        scalar = (by_precision * self.beta * weights / variance).sum()
        scalar = scalar + (by_residual * (y - prior_mean_at(self.head.prior_mean, x))).sum()
        return scalar - 0.5 * self.beta * (weights * (2.0 * torch.pi * variance).log()).sum() if explicit else scalar

    def _parted(self, direction: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        pairs = list(zip(self.parameters, direction, strict=True))
        noise = [d for p, d in pairs if p is self.head.raw_noise]
        return [d for p, d in pairs if p is not self.head.raw_noise], (noise[0] if noise else self.x.new_zeros(()))

    def _joined(self, kernel: list[Tensor], noise: Tensor | None, prior: list[Tensor] | None) -> list[Tensor]:
        """Gradients in the order of the parameters, with those of the priors."""
        parts = iter(kernel)
        zero = torch.zeros_like(self.head.raw_noise) if noise is None else noise
        own = [zero if p is self.head.raw_noise else next(parts) for p in self.parameters]
        return own if prior is None else [a + b for a, b in zip(own, prior, strict=True)]


def _gamma(alpha: Tensor, inverse: Tensor, rows: slice) -> Tensor:
    """Rows of Γ."""
    return 0.5 * (alpha[rows, None] * alpha - inverse[rows])


__all__ = ["ExactEvidence"]
