"""Iterative solves by block preconditioned conjugate gradients, certified in float64."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from linear_operator import LinearOperator
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError, unknown_name
from gp_response.linalg.block_cg import Cycle, Goal, block_cg
from gp_response.linalg.packed_cholesky import PackedCholesky
from gp_response.linalg.preconditioner import MARGIN, diagonal_only, nystrom, randomly_pivoted
from gp_response.linalg.refined import Inner, Refined, Sharpness, refined
from gp_response.linalg.split_preconditioner import SplitPreconditioner
from gp_response.linalg.system import System
from gp_response.solvers.deflated import BLOCK, RANK, DeflatedCG
from gp_response.solvers.lanczos import Lanczos, bracketed
from gp_response.solvers.solution import Solution, as_columns, as_system, empty, joined

PRECONDITIONERS = ("pivoted", "nystrom", "cholesky", "none")
# A cycle is not asked for more than the precision can give; the next one starts from the residual it leaves.
FLOOR_FLOAT64 = 1e-11
FLOOR_FLOAT32 = (3e-6, 1e-2, 1e-2)  # at least, at most, and in units of the perturbation by rounded entries
SHARP = 0.5  # the unmeasured part of an error bound, in units of a typical entry's measured part
ONE_RUN = 3.0  # what rounded entries leave of a residual, in units of the tolerance, for one run to do
WIDE = 48  # right-hand sides from which the products, not the kernel's entries, take most of the time
LOST = 0.3  # largest perturbation of the system by float32 entries, against its smallest eigenvalue, to begin with


@dataclass(frozen=True)
class CG:
    """Block preconditioned conjugate gradients on a matrix that is never factored.

    The products run in float32 where that suffices; residuals are recomputed in float64 and refined, so the answer is as
    good as the tolerance says whatever the precision of the products. A column that does not get there is flagged.

    Attributes:
        tolerance: relative residual `‖b - A v‖ / ‖b‖` asked of every column.
        preconditioner: "pivoted" (block randomly pivoted Cholesky), "nystrom" (as many random rows), "none", or "cholesky":
            a packed factor in float32 (2 n² bytes), for hard systems with many right-hand sides.
        rank: of the preconditioner; None chooses by the number of rows. For a network, of the Lanczos basis that deflates.
        sharp: go on after the tolerance is met until the error is measured entry by entry, so that `Solution.error` is
            typically within a factor of 30 of the true error. False stops at the tolerance; the bound then comes from
            the norm of the residual alone.
        precision: of the products: "float32", "float64", or "auto": float32 first where the matrix allows it.
        block: most right-hand sides solved together.
        max_iterations: most products for one block of right-hand sides.
        seed: of the pivots.
        backend: of the products: "auto", "blocked", "dense" or "keops".
        keep: bytes of kernel blocks that may stay in memory between products; None takes a seventh of what is free.
        progress: show a bar.
    """

    tolerance: float = 1e-6
    preconditioner: str = "pivoted"
    rank: int | None = None
    sharp: bool = True
    precision: str = "auto"
    block: int = 128
    max_iterations: int = 2000
    seed: int = 0
    backend: str = "auto"
    keep: int | None = None
    progress: bool = False

    def __post_init__(self):
        if not 0.0 < self.tolerance < 1.0:
            raise InputError(f"CG(tolerance={self.tolerance!r}): expected a number between 0 and 1")
        if self.preconditioner not in PRECONDITIONERS:
            raise unknown_name("preconditioner", str(self.preconditioner), PRECONDITIONERS)
        if self.precision not in ("auto", "float32", "float64"):
            raise unknown_name("precision", str(self.precision), ("auto", "float32", "float64"))
        for name, low in (("rank", 0), ("block", 1), ("max_iterations", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < low):
                raise InputError(f"CG({name}={value!r}): expected an integer of {low} or more")

    def factor(self, matrix: Any) -> "FactoredCG | DeflatedCG":
        """Build the preconditioner of A (n, n), a tensor, LinearOperator or System, for many right-hand sides; of a network's
        system, which is known by its products, a Lanczos basis of the rank."""
        if hasattr(matrix, "within"):
            how = Lanczos(rank=self.rank or RANK, block=BLOCK, seed=self.seed, progress=self.progress)
            return DeflatedCG(self, matrix, bracketed(matrix, how))
        return FactoredCG(self, as_system(matrix))

    def solve(self, matrix: Tensor | LinearOperator | System, rhs: Tensor, *, guess: Tensor | None = None) -> Solution:
        """`A⁻¹ B` for A (n, n) symmetric positive definite and B (n,) or (n, t), from a guess of B's shape."""
        return FactoredCG(self, as_system(matrix)).solve(rhs, guess=guess)

    def ranks_for(self, n: int) -> tuple[int, int]:
        """Rank of the preconditioner, and the most it may grow to where much of the matrix is left.

        Building costs n r² and saves products of n² each: r grows like √n.
        """
        if self.rank is not None:
            return min(self.rank, n), min(self.rank, n)
        usual = min(n // 4, 1024, 64 + 4 * int(n**0.5))
        return usual, min(n // 2, 3 * usual, 2048)

    def precondition(self, system: System) -> SplitPreconditioner:
        """The preconditioner of a system."""
        generator = torch.Generator().manual_seed(self.seed)
        rank, most = self.ranks_for(system.n)
        if self.preconditioner == "none" or rank == 0:
            return diagonal_only(system)
        if self.preconditioner == "cholesky":
            return PackedCholesky(system)
        if self.preconditioner == "nystrom":
            return nystrom(system, torch.randperm(system.n, generator=generator)[:rank].to(system.device))
        return randomly_pivoted(system, rank, most=most, generator=generator)


@dataclass(frozen=True)
class FactoredCG:
    """A system with its preconditioner.

    Attributes:
        solver, system: as given.
        preconditioner: `M <= B`.
    """

    solver: CG
    system: System
    preconditioner: SplitPreconditioner = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "preconditioner", self.solver.precondition(self.system))

    def solve(self, rhs: Tensor, guess: Tensor | None = None) -> Solution:
        """`A⁻¹ rhs` for rhs (n,) or (n, t), from `guess` of the same shape, in the precision of rhs."""
        started = time.perf_counter()
        columns = as_columns(rhs, self.system.n)
        guess = None if guess is None else as_columns(guess, self.system.n).double()
        blocks = torch.arange(columns.shape[1], device=columns.device).split(min(self.solver.block, self.system.n))
        parts = [self._block(columns[:, at].double(), None if guess is None else guess[:, at]) for at in blocks]
        solution = joined(parts) if parts else empty(columns.double())
        solution.diagnostics["seconds"] = time.perf_counter() - started
        if rhs.dtype != torch.float64:
            solution = solution.rounded(self.system, columns, self.solver.tolerance)
        return solution if rhs.ndim == 2 else solution.column()

    def logdet(self) -> Tensor:
        raise InputError("CG gives no log determinant; use Cholesky(), or posterior.estimate_log_evidence()")

    def _block(self, rhs: Tensor, guess: Tensor | None) -> Solution:
        with tqdm(desc="solve", unit=" products", disable=not self.solver.progress, leave=False) as bar:
            found = refined(
                self.system, rhs, self._inner(bar, rhs.shape[1]), self._sharpness, tolerance=self.solver.tolerance, guess=guess,
                limit=self.solver.max_iterations,
            )  # fmt: skip
        size = rhs.norm(dim=0)
        residual = found.norm / torch.where(size > 0, size, torch.ones_like(size))
        diagnostics = {"precision": found.cycles, "history": found.history, "rank": self.preconditioner.rank}
        return Solution(
            found.value, residual, found.iterations, found.met, found.norm + found.rounding, found.value_left,
            self._error(found), diagnostics,
        )  # fmt: skip

    def _inner(self, bar: tqdm, columns: int) -> dict[str, Inner]:
        def watch(iteration: int, worst: float) -> None:
            bar.update()
            bar.set_postfix(residual=f"{worst:.1e}")

        return {name: partial(self._cycle, name, watch) for name in self._precisions(columns)}

    def _cycle(self, precision: str, watch: Callable[[int, float], None], rhs: Tensor, goal: Goal) -> Cycle:
        return block_cg(
            self.system.product, self.preconditioner, rhs, goal, precision=getattr(torch, precision),
            floor=self._floor(precision), limit=self.solver.max_iterations, watch=watch,
        )  # fmt: skip

    @cached_property
    def _sharpness(self) -> Sharpness:
        # A typical entry of the rest is ‖L⁻¹ρ‖ times the root mean square of (M⁻¹)_ii^½, one of d is ‖d‖/√n.
        typical = float(self._leverage.norm())
        spread = SHARP / typical if self.solver.sharp and self.system.floor is not None else float("inf")
        return Sharpness(lambda left: self.preconditioner.whiten(left).norm(dim=0), spread)

    def _precisions(self, columns: int) -> list[str]:
        """Single precision where one run of it will do, or where products in double precision cost much more.

        A run that ends at the floor of its precision begins again without the Krylov space it had: measured, three to
        four times as many products as in one run of double precision.
        """
        if self.solver.precision != "auto":
            return [self.solver.precision]
        one_run = self._moved <= ONE_RUN * self.solver.tolerance
        keeps_float64 = 4 * self.system.n**2 <= getattr(self.system, "keep", 0)
        if self._moved < LOST and (one_run or not (keeps_float64 or columns >= WIDE)):
            return ["float32", "float64"]
        return ["float64"]

    @cached_property
    def _moved(self) -> float:
        """What entries rounded to float32 move eigenvalues by, about eps · √n · the largest entry, against the smallest."""
        largest = float((self.system.diagonal() - self.system.shift).max())
        least = float(self.preconditioner.root_diagonal.min()) ** 2
        return 4 * torch.finfo(torch.float32).eps * largest * self.system.n**0.5 / least

    def _floor(self, precision: str) -> float:
        low, high, unit = FLOOR_FLOAT32
        return FLOOR_FLOAT64 if precision == "float64" else min(max(low, unit * self._moved), high)

    @cached_property
    def _leverage(self) -> Tensor:
        """Bound on `(B⁻¹)_ii^½`, (n, 1)."""
        diagonal = self.preconditioner.inverse_diagonal()[:, None] * (1.0 + MARGIN) + MARGIN**2
        return diagonal.sqrt() if self.system.floor is None else diagonal.clamp_max(1.0 / self.system.floor).sqrt()

    def _error(self, found: Refined) -> Tensor:
        floor = self.system.floor
        if floor is None:
            return torch.full_like(found.value, float("inf"))
        known = (found.better - found.value).abs()
        if not self.preconditioner.below:
            return known + (found.left.norm(dim=0) + found.rounding) / floor
        rest = self.preconditioner.whiten(found.left).norm(dim=0) * (1.0 + MARGIN)
        return known + self._leverage * (rest + self._sharpness.scattered(found.rounding, self.system.n))


__all__ = ["CG", "FactoredCG"]
