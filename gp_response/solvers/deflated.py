"""Conjugate gradients in the space of a network's parameters, deflated by a Lanczos basis."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.bracket import Bracket
from gp_response.linalg.deflated_cg import deflated_cg
from gp_response.solvers.solution import Solution, as_columns, empty, joined

RANK, BLOCK = 32, 8  # of the basis where nobody says


@dataclass(frozen=True)
class DeflatedCG:
    """A system `B = 1 + A` given by its products, its Lanczos basis, and the solver that asked for it."""

    solver: Any
    system: Any
    bracket: Bracket

    def solve(self, rhs: Tensor) -> Solution:
        """`B⁻¹ rhs` for rhs (P, t), to `tolerance` relative in the norm of B, which `Solution.energy` bounds."""
        columns = as_columns(rhs, self.system.n).double()
        if not columns.shape[1]:
            return empty(columns)
        width = min(self.solver.block, self.system.n)
        return joined([self._block(some) for some in columns.split(width, dim=1)])

    def _block(self, rhs: Tensor) -> Solution:
        started = time.perf_counter()
        found = deflated_cg(
            self.system.within, rhs, self.bracket, tolerance=self.solver.tolerance, limit=self.solver.max_iterations,
            progress=self.solver.progress, precision=self.system.dtype,
        )  # fmt: skip
        far = torch.full_like(found.energy, float("inf"))
        facts = {
            "precision": [str(self.system.dtype).removeprefix("torch.")], "history": [], "rank": self.bracket.basis.k,
            "seconds": time.perf_counter() - started,
        }  # fmt: skip
        return Solution(
            found.value, found.residual, found.iterations, found.converged, far, found.left, far.expand_as(rhs), facts,
            found.energy,
        )  # fmt: skip

    def logdet(self) -> Tensor:
        raise InputError("CG() gives no log determinant; use Dense() or posterior.estimate_log_evidence()")


__all__ = ["BLOCK", "RANK", "DeflatedCG"]
