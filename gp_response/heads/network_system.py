"""The posterior precision of a network's parameters, whitened by the prior: `B = 1 + Λ₀^-½ G Λ₀^-½`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError, SolverError
from gp_response.linalg.lanczos import Lanczos
from gp_response.linalg.system import ROUNDING

DENSE, STEPS = 3000, 60  # parameters up to which eigenvalues are had whole, and Lanczos steps beyond
MARGIN = 0.99
SAMPLES, FACTOR = 8, 8.0

Start = Callable[[int, int], Tensor]


class NetworkSystem:
    """B for a curvature G, known by its products; B >= 1 where G is positive semi-definite.

    Args:
        curvature: G, (P, P), with `matmat`, of dtype float64 or float32.
        root: Λ₀^½, 0-dim or (P,) float64.
        size: bound on the trace of `Λ₀^-½ |G| Λ₀^-½`, of which rounding of products is a part.
        start: makes (block, seed) into vectors (P, block) for a Krylov space to begin with; None: random ones.
    """

    def __init__(self, curvature: Any, root: Tensor, *, size: float, start: Start | None = None):
        self.curvature, self.floor, self.start = curvature, 1.0, start
        self.root = (root if root.ndim == 0 else root[:, None]).to(curvature.dtype)
        self.n, self.device, self.dtype = curvature.shape[0], curvature.device, curvature.dtype
        self.shift = torch.ones((), dtype=torch.float64, device=self.device).expand(self.n)
        self.off = ROUNDING * torch.finfo(self.dtype).eps * (1.0 + size)

    def with_floor(self) -> "NetworkSystem":
        """The same for a G that may be indefinite: the floor is the lowest eigenvalue for few parameters, else the lowest Ritz
        value less its residual, which misses an eigenvalue only where a random vector does.

        Raises:
            SolverError: an eigenvalue is not positive.
        """
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(self.n, SAMPLES, generator=generator, dtype=torch.float64).to(self.device)
        # ‖G̃‖_F within a factor of eight, but for chance 1e-5; the trace says nothing where signs differ.
        self.off *= 1.0 + FACTOR * float(self.within(z).square().sum().div(SAMPLES).sqrt())
        lowest = _lowest(self)
        if not lowest > self.off:
            raise SolverError(
                f"the posterior precision is not positive definite: the Hessian takes {1.0 - lowest:.3g} times the prior "
                'precision away along some direction; use a larger prior_precision or localise, or curvature="ggn"'
            )
        self.floor = min(1.0, MARGIN * lowest)
        return self

    def within(self, v: Tensor) -> Tensor:
        """`(B - 1) v` for v (P, t), in the dtype of v."""
        # In the network's own precision throughout, and in place: a float32 network's vectors are long.
        inner = v.to(self.dtype)
        if self.root.ndim:
            return self.curvature.matmat(inner / self.root).div_(self.root).to(v)
        return self.curvature.matmat(inner).div_(self.root).div_(self.root).to(v)

    def product(self, v: Tensor) -> Tensor:
        return v + self.within(v)

    def residual(self, rhs: Tensor, v: Tensor, *, extended: bool = False) -> Tensor:
        return rhs - v - self.within(v)

    def rounding(self, v: Tensor, *, extended: bool = False) -> Tensor:
        return self.off * v.norm(dim=0)

    def diagonal(self) -> Tensor:
        raise InputError("the diagonal of a network's curvature is not kept; use solver=Dense() or CG()")

    def columns(self, index: Tensor) -> Tensor:
        unit = torch.zeros(self.n, len(index), dtype=torch.float64, device=self.device)
        unit[index, torch.arange(len(index), device=self.device)] = 1.0
        return self.within(unit)

    def dense(self, dtype: torch.dtype, *, block: int = 256) -> Tensor:
        """B itself, a block of columns at a time, symmetric to the last digit."""
        every = torch.arange(self.n, device=self.device)
        matrix = torch.cat([self.columns(some) for some in every.split(block)], dim=1)
        matrix = 0.5 * (matrix + matrix.T)
        matrix.diagonal().add_(1.0)
        return matrix.to(dtype)


def _lowest(system: NetworkSystem) -> float:
    if system.n <= DENSE:
        return float(torch.linalg.eigvalsh(system.dense(torch.float64))[0])
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(system.n, 1, generator=generator, dtype=torch.float64).to(system.device)
    run = Lanczos(system.product, start, most=STEPS)
    while not run.exhausted:
        run.step()
    matrix = torch.diag(run.diagonal[0]) + torch.diag(run.beside[0, :-1], 1) + torch.diag(run.beside[0, :-1], -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[0] - run.beside[0, -1] * vectors[-1, 0].abs())


__all__ = ["NetworkSystem", "Start"]
