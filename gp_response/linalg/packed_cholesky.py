"""A Cholesky factor in single precision as a preconditioner: half of a matrix, for systems that are hard and many-sided.

Where so many directions matter that no low rank will do, block CG takes hundreds of products; a factor costs n³/3 once, in
single precision half the time, and needs two thirds of a product's work to apply. Only the lower triangle is kept, by
panels of columns: 2 n² bytes. It need not be accurate: the solver above measures residuals in float64.
"""

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.memory import free_bytes
from gp_response.linalg.system import System

WIDTH = 1024  # columns in a panel
JITTER = 4.0  # added to the diagonal, in units of what rounded entries move eigenvalues by
TRIES = 4  # each with ten times more on the diagonal: a factor of a matrix nearby is still a preconditioner


class PackedCholesky:
    """`M = L Lᵀ`, a rounded B, with L kept in float32 by panels of columns.

    Args:
        system: B, (n, n), with a positive shift.

    Raises:
        SolverError: the panels do not fit into memory, or rounding leaves no positive definite matrix.
    """

    below = False

    def __init__(self, system: System):
        self.n, self.rank = system.n, system.n
        self.pivots = torch.arange(0, system.n, max(1, system.n // 512), device=system.device)
        free, need = free_bytes(system.device), 2 * system.n**2 + 16 * system.n * WIDTH
        if free is not None and need > free:
            raise SolverError(
                f"a float32 factor of {system.n} rows needs {need / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
                "use preconditioner='pivoted'"
            )
        self.root_diagonal = system.shift.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        added = JITTER * torch.finfo(torch.float32).eps * system.n**0.5 * float(system.diagonal().max())
        for attempt in range(TRIES):
            self.panels: list[Tensor] = []
            if self._factor(system, added * 10.0**attempt):
                return
        raise SolverError("not positive definite in float32, whatever little is added to the diagonal; use 'pivoted'")

    def _factor(self, system: System, added: float) -> bool:
        """Left-looking: a panel is finished before the next is evaluated, so that one panel of float64 is all there is."""
        for at in torch.arange(system.n, device=system.device).split(WIDTH):
            start, width = int(at[0]), len(at)
            panel = system.columns(at)[start:].float()
            panel.diagonal().add_((system.shift[at] + added).float())
            for before, left in zip(range(0, start, WIDTH), self.panels, strict=False):
                rows = left[start - before :]
                panel.addmm_(rows, rows[:width].T, alpha=-1.0)
            lower, info = torch.linalg.cholesky_ex(panel[:width])
            if bool(info):
                return False
            panel[:width] = lower
            if width < len(panel):
                panel[width:] = torch.linalg.solve_triangular(lower.T, panel[width:], upper=True, left=False)
            self.panels.append(panel)
        return True

    def whiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻¹ v` for v (n, t), in `precision`, returned in float64; panels are widened one at a time."""
        out = v.to(precision, copy=True)
        for start, panel in self._each(precision):
            width = panel.shape[1]
            here = torch.linalg.solve_triangular(panel[:width], out[start : start + width], upper=False)
            out[start : start + width] = here
            out[start + width :].addmm_(panel[width:], here, alpha=-1.0)
        return out.double()

    def whiten_transposed(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L⁻ᵀ v`."""
        out = v.to(precision, copy=True)
        for start, panel in self._each(precision, backwards=True):
            width = panel.shape[1]
            here = out[start : start + width].addmm_(panel[width:].T, out[start + width :], alpha=-1.0)
            out[start : start + width] = torch.linalg.solve_triangular(panel[:width].T, here, upper=True)
        return out.double()

    def unwhiten(self, v: Tensor, precision: torch.dtype = torch.float64) -> Tensor:
        """`L v`."""
        v = v.to(precision)
        out = torch.zeros_like(v)
        for start, panel in self._each(precision):
            out[start:].addmm_(panel, v[start : start + panel.shape[1]])
        return out.double()

    def solve(self, v: Tensor) -> Tensor:
        """`M⁻¹ v`."""
        return self.whiten_transposed(self.whiten(v))

    def logdet(self) -> Tensor:
        """`log det M`, 0-dim, float64."""
        parts = [panel[: panel.shape[1]].diagonal().double().log().sum() for panel in self.panels]
        return 2.0 * torch.stack(parts).sum()

    def inverse_diagonal(self) -> Tensor:
        """Bound on the diagonal of M⁻¹, (n,): M is at least the system's shift."""
        return self.root_diagonal.square().reciprocal()

    def _each(self, precision: torch.dtype, *, backwards: bool = False):
        starts = range(0, self.n, WIDTH)
        pairs = list(zip(starts, self.panels, strict=True))
        for start, panel in reversed(pairs) if backwards else pairs:
            yield start, panel.to(precision)


__all__ = ["PackedCholesky"]
