"""The log evidence of rows too many for a Cholesky factor, and its gradient, by random probes.

In the whitened form (`whitening`), with `M = L Lᵀ <= B` a preconditioner, `A = L⁻¹ B L⁻ᵀ` and ζ random of length √n,

    log det B = log det M + E[ζᵀ log(A) ζ],    d log det B = tr(B⁻¹ dB) = E[wᵀ dB w],    w = L⁻ᵀ A^-½ ζ,    w ~ (0, B⁻¹).

One Krylov space of L⁻¹y and all ζ gives α = B⁻¹y, every w and every ζᵀ log(A) ζ (`block_lanczos`). These are the
pathwise probes of Lin et al. 2024 (arXiv 2405.18457) without their prior samples, which random features give with a bias
and for few kernels. One probe's variance is `½ ‖B^-½ dB B^-½‖²`, the Fisher information: it leaves a hyperparameter as
uncertain as the data do, and t probes add 1/t to that variance. The usual probes, from N(0, M) with one solve each, can
start from the last step's solution, but have 4 to 5 times this variance at small noise (measured on pol and protein at
published hyperparameters, on kin40k at noise 0.01 and lengthscale 2), and no bound to it as the noise goes to zero.

ζ and the rows that M is made from are drawn once, so that all steps see one smooth function.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.errors import SolverError
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.whitening import Whitening, whiten
from gp_response.kernels.symmetric import symmetric_bilinear
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.block_lanczos import krylov_space
from gp_response.linalg.evidence_estimate import Estimate, log_evidence, spherical_probes
from gp_response.linalg.preconditioner import Preconditioner, nystrom, randomly_pivoted
from gp_response.linalg.system import System

# Entries rounded to float32 may move eigenvalues by this much of the smallest one, which is 1. The movement is random: at
# twice this it changed the gradient by a tenth of the probes' standard error (kin40k, 4,500 rows).
LOST = 3.0


@dataclass(frozen=True)
class Effort:
    """What one gradient may cost.

    Attributes:
        probes: random vectors, at least 4.
        tolerance: relative residual of α. At 1e-2 the error of the gradient is that of the probes.
        rank: of the preconditioner; None chooses by the number of rows.
        keep: bytes of kernel blocks kept in memory; None takes a quarter of what is free.
        most: products in one Krylov space; it takes 8 n (probes + 1) bytes each.
    """

    probes: int = 8
    tolerance: float = 1e-2
    rank: int | None = None
    keep: int | None = None
    most: int = 200


@dataclass(frozen=True)
class Work:
    """What one gradient took and found.

    Attributes:
        loss: estimate of the loss.
        loss_error: its standard error over the probes.
        products: with the matrix.
        converged: whether all columns reached the tolerance.
        gradient_error: norm of the standard errors of the gradient's components, None where it was not asked for.
    """

    loss: float
    loss_error: float
    products: int
    converged: bool
    gradient_error: float | None = None

    def facts(self) -> dict[str, Any]:
        """As entries of a trace."""
        known = {"gradient_error": self.gradient_error} if self.gradient_error is not None else {}
        return {"error": self.loss_error, "products": self.products, "solved": self.converged, **known}


class StochasticEvidence:
    """The loss of training, `-(log evidence + log prior) / n`, of a head on all rows of a data set.

    Each call uses the head's present parameters, and the same random numbers as all calls before.
    """

    def __init__(self, head: Any, data: Dataset, generator: torch.Generator, effort: Effort | None = None):
        self.head, self.data, self.effort = head, data, effort or Effort()
        self.x, self.n = data.train.x, len(data.train)
        self.probes = spherical_probes(self.n, self.effort.probes, generator, self.x.device)
        self.generator = generator
        self.pivots: Tensor | None = None
        self.precise = False
        self._made: tuple[bytes, System, Preconditioner] | None = None

    def backward(self, *, measure: bool = False) -> Work:
        """The loss; its gradient is added to the parameters' `.grad`.

        measure: also the error of the whole gradient, from two halves of the probes, by a second pass over the matrix.
        """
        noise = row_noise(self.data, self.head.noise)
        white = whiten(self.data, noise, self.head.beta)
        rest = white.log_normaliser(self.data, noise, self.head.beta) + self.head.log_prior()
        target, probes, work = self._solved(white, rest)
        whole = self._error(white, probes) if measure else None
        left = torch.cat([target, -probes / probes.shape[1]], dim=1)
        part = self._bilinear(white, left, torch.cat([target, probes], dim=1))
        (-(part + rest.to(part)) / self.n).backward()
        return Work(work.loss, work.loss_error, work.products, work.converged, whole)

    @torch.no_grad()
    def value(self) -> Estimate:
        """The loss with the same probes, each one's quadrature enclosed from both sides."""
        noise = row_noise(self.data, self.head.noise)
        white = whiten(self.data, noise, self.head.beta)
        rest = white.log_normaliser(self.data, noise, self.head.beta) + self.head.log_prior()
        system, preconditioner = self._prepared(white)
        target, *_ = self._solved(white, rest)
        found = log_evidence(
            system, preconditioner, self._target(white)[:, 0], target[:, 0], self.probes, dtype=self._dtype(system),
            most=self.effort.most,
        )  # fmt: skip
        n = self.n
        return Estimate(
            -(found.value + float(rest)) / n, found.standard_error / n, found.above / n, found.below / n,
            found.probes, found.steps,
        )  # fmt: skip

    @torch.no_grad()
    def _prepared(self, white: Whitening) -> tuple[System, Preconditioner]:
        """The system and its preconditioner at the present hyperparameters; made once for each of these."""
        key = b"".join(p.detach().cpu().numpy().tobytes() for p in self.head.parameters())
        if self._made is None or self._made[0] != key:
            self._made = None  # before the next one is made: it keeps blocks
            scale, shift = white.scale.detach(), white.shift.detach()
            system: Any = KernelSystem(self.head.kernel, self.x, scale, shift, keep=self.effort.keep)
            if self.pivots is None:
                self.pivots = randomly_pivoted(system, self._rank, generator=self.generator).pivots
            self._made = key, system, nystrom(system, self.pivots)
        return self._made[1:]

    @property
    def _rank(self) -> int:
        if self.effort.rank is not None:
            return min(self.effort.rank, self.n)
        return min(self.n // 4, 1024, 64 + 6 * int(self.n**0.5))  # building costs n r², and is done at every step

    def _target(self, white: Whitening) -> Tensor:
        return (
            white.scale.detach() * (self.data.train.y.double() - prior_mean_at(self.head.prior_mean, self.x.double()))
        )[:, None]

    @torch.no_grad()
    def _solved(self, white: Whitening, rest: Tensor) -> tuple[Tensor, Tensor, Work]:
        """α (n, 1), w (n, t), and what they took."""
        system, preconditioner = self._prepared(white)
        dtype = self._dtype(system)

        def product(v: Tensor) -> Tensor:
            image = system.product(preconditioner.whiten_transposed(v, dtype).to(dtype)).double()
            return preconditioner.whiten(image, dtype)

        start = torch.cat([preconditioner.whiten(self._target(white)), self.probes], dim=1)
        try:
            space = krylov_space(product, start, tolerance=self.effort.tolerance, most=self.effort.most)
        except SolverError:
            if dtype == torch.float64:
                raise
            self.precise = True  # for good: what float32 spoils here it spoils nearby
            return self._solved(white, rest)
        logs, fit = space.quadratic(space.nodes.log())[1:], float(space.quadratic(1.0 / space.nodes)[0])
        value = -0.5 * (fit + float(logs.mean() + preconditioner.logdet())) + float(rest.detach())
        error = 0.5 * float(logs.std()) / math.sqrt(len(logs)) / self.n
        target = preconditioner.whiten_transposed(space.apply(1.0 / space.nodes)[:, :1])
        probes = preconditioner.whiten_transposed(space.apply(space.nodes.rsqrt())[:, 1:])
        converged = bool((space.residual <= self.effort.tolerance).all())
        return target, probes, Work(-value / self.n, error, space.products, converged)

    def _bilinear(self, white: Whitening, left: Tensor, right: Tensor) -> Tensor:
        """`½ Σ_t leftᵀ B right`, differentiable in B, 0-dim float64."""
        scale = white.scale.detach()[:, None]
        dtype = self._dtype(self._prepared(white)[0])
        sides = [(scale * part).to(dtype) for part in (left, right)]
        kernel = symmetric_bilinear(self.head.kernel, self.x.to(dtype), *sides)
        return 0.5 * (kernel.double() + (white.shift[:, None] * left * right).sum())

    def _error(self, white: Whitening, probes: Tensor) -> float:
        """Norm of the standard errors of the gradient, from the difference between two halves of the probes."""
        count = probes.shape[1]
        signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).to(probes) / (count * self.n)
        parameters = [p for p in self.head.parameters() if p.requires_grad]
        part = self._bilinear(white, signs * probes, probes)
        found = torch.autograd.grad(part, parameters, allow_unused=True, retain_graph=True)
        return math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))

    def _dtype(self, system: System) -> torch.dtype:
        """float32 where rounding the entries to it moves no eigenvalue by much."""
        moved = 4 * torch.finfo(torch.float32).eps * float((system.diagonal() - system.shift).max()) * math.sqrt(self.n)
        return torch.float32 if moved < LOST and not self.precise else torch.float64


__all__ = ["Effort", "StochasticEvidence", "Work"]
