"""The log evidence of rows too many for a Cholesky factor: its gradient by random probes, its value by quadrature.

In the whitened form (`whitening`), with `M = L Lᵀ <= B` the preconditioner and probes `ξ = L ζ`, ζ random of length √n,

    d log det B = tr(B⁻¹ dB) = E[(B⁻¹ξ)ᵀ dB (M⁻¹ξ)],    d(yᵀB⁻¹y) = -αᵀ dB α,    α = B⁻¹y  (Gardner et al. 2018).

ζ and the rows that M is made from are drawn once. The gradient is then a smooth function of the hyperparameters, and
each solve starts from the last one's solution, probes included (Lin et al. 2024, arXiv 2405.18457). Their own probes, from
N(0, B), were compared: of the same variance where M is close to B and of a fourth of it at small noise, but they need
prior samples, which random features give with a bias and for few kernels. One probe's error is about as large as what
the data leave uncertain about a hyperparameter (the Fisher information is the same trace), and sixteen leave a fourth to
a half of it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import SolverError
from gp_response.heads.whitening import Whitening, whiten
from gp_response.kernels.symmetric import symmetric_bilinear
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.block_cg import Goal, block_cg
from gp_response.linalg.evidence_estimate import Estimate, log_evidence, spherical_probes
from gp_response.linalg.preconditioner import Preconditioner, nystrom, randomly_pivoted
from gp_response.linalg.system import System
from gp_response.solvers import CG

# Entries rounded to float32 may move eigenvalues by this much of the smallest one, which is 1.
LOST = 0.3


@dataclass(frozen=True)
class Effort:
    """What one gradient may cost.

    Attributes:
        probes: random vectors, at least 4.
        tolerance: relative residual of the solves. At 1e-2 the gradient's error is that of the probes alone.
        rank: of the preconditioner; None chooses by the number of rows.
        keep: bytes of kernel blocks kept in memory; None takes a quarter of what is free.
        limit: most products in one solve.
    """

    probes: int = 16
    tolerance: float = 1e-2
    rank: int | None = None
    keep: int | None = None
    limit: int = 400


@dataclass(frozen=True)
class Work:
    """What one gradient took, and how uncertain it is.

    Attributes:
        iterations: of its solve.
        converged: whether that reached its tolerance.
        slope_error: standard error of the derivative of the loss by the logarithm of the noise, over the probes.
        gradient_error: norm of the standard errors of all components, None where it was not asked for.
    """

    iterations: int
    converged: bool
    slope_error: float
    gradient_error: float | None = None

    def facts(self) -> dict[str, Any]:
        """As entries of a trace."""
        known = {"gradient_error": self.gradient_error} if self.gradient_error is not None else {}
        return {"iterations": self.iterations, "solved": self.converged, "slope_error": self.slope_error, **known}


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
        self.solved: Tensor | None = None
        self._made: tuple[bytes, System, Preconditioner] | None = None

    def backward(self, *, measure: bool = False) -> Work:
        """Add the gradient of the loss to the parameters' `.grad`.

        measure: also the error of the whole gradient, from two halves of the probes, by a second pass over the matrix.
        """
        white = whiten(self.data, self.head.noise, self.head.beta)
        system, preconditioner = self._prepared(white)
        solved, iterations, converged = self._solve(white, system, preconditioner)
        target, probes = solved[:, :1], solved[:, 1:]
        fixed = preconditioner.whiten_transposed(self.probes)
        spread = (white.shift.detach()[:, None] * probes * fixed).sum(dim=0)
        error = 0.5 * float(spread.std()) / math.sqrt(len(spread)) / self.n
        rest = white.log_normaliser(self.data, self.head.noise, self.head.beta) + self.head.log_prior()
        whole = self._error(white, probes, fixed) if measure else None
        part = self._bilinear(white, torch.cat([target, -probes / len(spread)], 1), torch.cat([target, fixed], 1))
        (-(part + rest.to(part)) / self.n).backward()
        return Work(iterations, converged, error, whole)

    def value(self) -> Estimate:
        """The loss by stochastic Lanczos quadrature with the same probes."""
        with torch.no_grad():
            white = whiten(self.data, self.head.noise, self.head.beta)
            system, preconditioner = self._prepared(white)
            solved, *_ = self._solve(white, system, preconditioner)
            found = log_evidence(
                system, preconditioner, self._target(white), solved[:, 0], self.probes, dtype=self._dtype(system)
            )
            rest = float(white.log_normaliser(self.data, self.head.noise, self.head.beta) + self.head.log_prior())
        n = self.n
        return Estimate(
            -(found.value + rest) / n,
            found.standard_error / n,
            found.above / n,
            found.below / n,
            found.probes,
            found.steps,
        )

    @torch.no_grad()
    def _prepared(self, white: Whitening) -> tuple[System, Preconditioner]:
        """The system and its preconditioner at the present hyperparameters; made once for each of these."""
        key = b"".join(p.detach().cpu().numpy().tobytes() for p in self.head.parameters())
        if self._made is None or self._made[0] != key:
            self._made = None  # before the next one is made: it keeps blocks
            system: Any = KernelSystem(
                self.head.kernel, self.x, white.scale.detach(), white.shift.detach(), keep=self.effort.keep
            )
            if self.pivots is None:
                rank = CG(rank=self.effort.rank).ranks_for(self.n)[0]
                self.pivots = randomly_pivoted(system, rank, generator=self.generator).pivots
            self._made = key, system, nystrom(system, self.pivots)
        return self._made[1:]

    def _target(self, white: Whitening) -> Tensor:
        return white.scale.detach() * (self.data.train.y.double() - self.head.prior_mean)

    @torch.no_grad()
    def _solve(self, white: Whitening, system: System, preconditioner: Preconditioner) -> tuple[Tensor, int, bool]:
        """`B⁻¹ [y, ξ]` from where the last call ended, its iterations, and whether every column met the tolerance."""
        rhs = torch.cat([self._target(white)[:, None], preconditioner.unwhiten(self.probes)], dim=1)
        goal, dtype = self.effort.tolerance * rhs.norm(dim=0), self._dtype(system)
        start = torch.zeros_like(rhs) if self.solved is None else self.solved
        left = rhs - system.product(start.to(dtype)).double() if self.solved is not None else rhs
        if bool((left.norm(dim=0) > rhs.norm(dim=0)).any()):  # the hyperparameters have gone far: begin anew
            start, left = torch.zeros_like(rhs), rhs
        cycle = block_cg(
            system.product, preconditioner, left.to(dtype),
            Goal(goal, left.norm(dim=0) <= goal, torch.zeros_like(left), math.inf), floor=1e-7, limit=self.effort.limit,
        )  # fmt: skip
        self.solved = start + cycle.value.double()
        if not bool(torch.isfinite(self.solved).all()):
            self.solved = None
            raise SolverError("a solve for the gradient of the evidence did not stay finite; raise the noise")
        return self.solved, cycle.iterations, bool(cycle.met.all())

    def _bilinear(self, white: Whitening, left: Tensor, right: Tensor) -> Tensor:
        """`½ Σ_t leftᵀ B right`, differentiable in B, 0-dim float64."""
        scale = white.scale.detach()[:, None]
        rest = float(scale.square().max() * self.head.kernel.diagonal(self.x[:1]).detach().double().max())
        dtype = torch.float32 if self._rounds(rest) else torch.float64
        kernel = symmetric_bilinear(
            self.head.kernel, self.x.to(dtype), (scale * left).to(dtype), (scale * right).to(dtype)
        )
        return 0.5 * (kernel.double() + (white.shift[:, None] * left * right).sum())

    def _error(self, white: Whitening, probes: Tensor, fixed: Tensor) -> float:
        """Norm of the standard errors of the gradient, from the difference between two halves of the probes."""
        count = probes.shape[1]
        signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0).to(probes) / (count * self.n)
        parameters = [p for p in self.head.parameters() if p.requires_grad]
        part = self._bilinear(white, signs * probes, fixed)
        found = torch.autograd.grad(part, parameters, allow_unused=True, retain_graph=True)
        return math.sqrt(sum(float(g.double().square().sum()) for g in found if g is not None))

    def _dtype(self, system: System) -> torch.dtype:
        return torch.float32 if self._rounds(float((system.diagonal() - system.shift).max())) else torch.float64

    def _rounds(self, largest: float) -> bool:
        """Whether rounding the entries to float32, the largest being `largest`, moves no eigenvalue by much."""
        return 4 * torch.finfo(torch.float32).eps * largest * math.sqrt(self.n) < LOST


__all__ = ["Effort", "StochasticEvidence", "Work"]
