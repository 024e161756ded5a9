"""The precision of a network's parameters on a Krylov space, and rigorous bounds of its inverse from both sides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError, unknown_name
from gp_response.linalg.bracket import Bracket
from gp_response.linalg.krylov import KrylovBasis
from gp_response.solvers.solution import Solution, as_columns

STORAGE = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Lanczos:
    """A block Lanczos basis of the curvature once, and then no products any more: every answer is the middle of an interval, the
    truncated inverse from below and the completed one from above, and its error half the width.

    Attributes:
        rank: vectors the curvature is multiplied with; `rank + block` are kept.
        block: vectors a product.
        storage: of the basis, "float64", "float32" or "bfloat16": 8, 4 or 2 bytes a number and vector.
        tolerance: an answer whose interval is wider than this fraction of it is flagged in `converged`; `CG()` closes it.
        checkpoint: a folder that holds the state while the basis is built, from which an interrupted run goes on.
        progress: show a bar.
        seed: of the random start.
    """

    rank: int = 64
    block: int = 8
    storage: str = "float32"
    tolerance: float = 0.1
    checkpoint: Path | str | None = None
    progress: bool = False
    seed: int = 0

    def __post_init__(self):
        for name in ("rank", "block"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"Lanczos({name}={value!r}): expected an integer of 1 or more")
        if self.storage not in STORAGE:
            raise unknown_name("storage", str(self.storage), STORAGE)
        if not 0.0 < self.tolerance < 1.0:
            raise InputError(f"Lanczos(tolerance={self.tolerance!r}): expected a number between 0 and 1")

    def factor(self, system: Any) -> "FactoredLanczos":
        """Build the basis of a system `B = 1 + A` given by its products.

        Raises:
            SolverError: a product is not finite, or A more negative than the system's floor says.
        """
        return FactoredLanczos(self, system, bracketed(system, self))


def bracketed(system: Any, how: Lanczos) -> Bracket:
    """Both sides of the inverse of `B = 1 + A`, on a Krylov basis of A."""
    block = min(how.block, system.n)
    basis = KrylovBasis(
        system.within, system.n, rank=min(how.rank, system.n), block=block, storage=getattr(torch, how.storage),
        precision=system.dtype, start=None if system.start is None else system.start(block, how.seed), seed=how.seed,
        device=system.device,
    )  # fmt: skip
    basis.build(progress=how.progress, checkpoint=how.checkpoint)
    return Bracket(basis, floor=1.0 - system.floor)


@dataclass(frozen=True)
class FactoredLanczos:
    """A system bracketed on a Krylov space."""

    solver: Lanczos
    system: Any
    bracket: Bracket

    def solve(self, rhs: Tensor) -> Solution:
        """The truncated inverse times rhs (P, t), whose error in the norm of B is at most `Solution.energy`.

        Its residual is orthogonal to the basis (Galerkin), so that `left` is zero where it would be multiplied with another of
        these, and that is what it is given as.
        """
        columns = as_columns(rhs, self.system.n).double()
        coordinates = self.bracket.coordinates(columns)
        low, high = self.bracket.diagonal(coordinates)
        energy = (high - low).sqrt()
        relative = energy / high.sqrt().clamp_min(1e-300)
        far = torch.full_like(energy, float("inf"))
        return Solution(
            self.bracket.lower(columns), relative, 0, relative <= self.solver.tolerance, far,
            torch.zeros_like(columns), far.expand_as(columns), {"rank": self.bracket.basis.k}, energy,
        )  # fmt: skip

    def logdet(self) -> Tensor:
        raise InputError("Lanczos() gives no log determinant; use Dense() or posterior.estimate_log_evidence()")


__all__ = ["FactoredLanczos", "Lanczos", "bracketed"]
