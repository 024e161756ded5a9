"""The training rows as a linearised network sees them: sweeps over batches, of which only sums or rows are kept."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from gp_response.data import with_places
from gp_response.heads.tangent_map import TangentMap
from gp_response.linalg.blocks import block_size, byte_budget

BATCH = 512  # rows swept together where nobody says
COPIES = 4  # of the gradients of some rows while they are computed
AT_ONCE, MOST = 2**28, 4096  # bytes and number of vectors that are worth computing together


class NetworkRows:
    """n training rows and their C outputs; gradients are by whitened parameters `u = Λ₀^½ θ`.

    Args:
        tangent: the linearised network.
        x: (n, d).
        root: Λ₀^½, 0-dim or (P,) float64.
        batch: rows swept together; None: 512.
    """

    def __init__(self, tangent: TangentMap, x: Tensor, root: Tensor, *, batch: int | None = None):
        self.tangent, self.x, self.root, self.batch = tangent, x, root, batch or BATCH

    def __len__(self) -> int:
        return len(self.x)

    def spread(self, directions: Tensor, rows: Tensor | None = None) -> Tensor:
        """`J v` at the rows asked for (all when None), (k, C, t) float64, for whitened v (P, t): one forward-mode sweep."""
        x = self.x if rows is None else self.x[rows]
        found = []
        for some in directions.split(self.at_once, dim=1):
            inner = torch.empty_like(some, dtype=self.tangent.network.dtype)
            torch.div(some, self._roots(), out=inner)  # and rounded, without a vector between
            found.append(torch.cat([self.tangent.push(part, inner).double() for part in x.split(self.batch)]))
        return found[0] if len(found) == 1 else torch.cat(found, dim=-1)

    def at(self, directions: Tensor, which: Tensor) -> Tensor:
        """`J v` at the rows and outputs `which` (k,), counted row by row and output by output, (k, t)."""
        c = self.tangent.outputs
        rows, place = (which // c).unique(return_inverse=True)
        return self.spread(directions, rows)[place, which % c]

    def gather(self, forces: Tensor) -> Tensor:
        """`Jᵀ u` for forces u (n, C, t), whitened, (P, t) float64."""
        total = torch.zeros(self.tangent.count, forces.shape[-1], dtype=torch.float64, device=self.x.device)
        for x, some in zip(self.x.split(self.batch), forces.split(self.batch), strict=True):
            total += self.tangent.pull(x, some).double()
        return self.whiten(total)

    def outputs(self, rows: Tensor | None = None) -> Tensor:
        """f(x_i; θ*), (k, C) float64."""
        x = self.x if rows is None else self.x[rows]
        return torch.cat([self.tangent.every(some).double() for some in x.split(self.batch)])

    def gradients(self, points: Tensor) -> Iterator[Tensor]:
        """Whitened gradients of readings at points, a block (b, P) of them at a time."""
        step = min(self.at_once, self.batch)
        return (self.tangent.gradient(some).double().div_(self.root) for some in points.split(step))

    @cached_property
    def lengths(self) -> Tensor:
        """`‖g_i‖` of every row and output in whitened parameters, (n C,), by one reverse sweep an output."""
        points = with_places(self.x, self.tangent.axes)
        return torch.cat([block.norm(dim=1) for block in self.gradients(points)])

    @cached_property
    def at_once(self) -> int:
        """Vectors of P numbers that are worth computing together."""
        return block_size(COPIES * 8 * self.tangent.count, min(AT_ONCE, byte_budget(None, self.x.device)), most=MOST)

    def whiten(self, v: Tensor) -> Tensor:
        """`Λ₀^-½ v` for v (P, t)."""
        return v / self._roots()

    def _roots(self) -> Tensor:
        return self.root if self.root.ndim == 0 else self.root[:, None]


__all__ = ["NetworkRows"]
