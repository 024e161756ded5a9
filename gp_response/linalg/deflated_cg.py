"""`(A + 1)⁻¹ g` for an operator with a Krylov basis: block conjugate gradients preconditioned by the upper side of its bracket.

As `M = upper⁻¹ <= A + 1` is known, the preconditioned residual `‖M^-½ r‖ = (rᵀUr)^½` bounds the error in the norm of A + 1,
and an entry's by Cauchy-Schwarz: `|aᵀ(z - S g)| <= (aᵀS a)^½ (rᵀU r)^½`. It is what the iteration stops by. The residual is
computed anew after each cycle, by a more precise product if there is one; its own rounding counts as residual.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.errors import InputError
from gp_response.linalg.block_cg import Goal, block_cg
from gp_response.linalg.bracket import Bracket
from gp_response.linalg.evidence_estimate import Estimate, log_determinant, spherical_probes

Product = Callable[[Tensor], Tensor]
FLOOR = {torch.float64: 1e-11, torch.float32: 1e-5}  # what one cycle is asked to gain at most
AIM = 0.5  # of the tolerance: a cycle's residual is only estimated
GAIN = 0.5  # a cycle that leaves more than this of every residual was the last
CYCLES = 8


@dataclass(frozen=True)
class Deflated:
    """An approximate `z = (A + 1)⁻¹ g` for each of t columns.

    Attributes:
        value: (n, t) float64.
        residual: `‖g - (A + 1)z‖ / ‖g‖`, measured, (t,).
        energy: bound of `(rᵀ(A + 1)⁻¹r)^½`, rounding of the measurement included: `|aᵀ(value - z)| <= (aᵀSa)^½ energy`.
        variance: `gᵀ(A + 1)⁻¹g` from below. spread: how much more it may be.
        converged: `energy <= tolerance · variance^½`.
        iterations: products with blocks.
        left: `g - (A + 1)z`, (n, t) float64.
    """

    value: Tensor
    residual: Tensor
    energy: Tensor
    variance: Tensor
    spread: Tensor
    converged: Tensor
    iterations: int
    left: Tensor


@dataclass(frozen=True)
class PlusIdentity:
    """The operator `A + 1` of a product with A."""

    multiply: Product
    n: int

    def product(self, v: Tensor) -> Tensor:
        return self.multiply(v).to(v.dtype) + v


def deflated_cg(
    product: Product,
    rhs: Tensor,
    bracket: Bracket,
    *,
    tolerance: float,
    reference: Product | None = None,
    precision: torch.dtype | None = None,
    limit: int = 1000,
    progress: bool = False,
) -> Deflated:
    """Solve `(A + 1) z = rhs`.

    Args:
        product: v (n, t) -> A v, in `precision`, with the rounding that the basis was told of.
        rhs: (n, t), t <= n.
        bracket: of A.
        tolerance: on `energy / variance^½`, the relative error in the norm of A + 1.
        reference: A in float64, for residuals that the product's rounding would hide.
        precision: of the vectors that `product` is given; that of the basis when None.
        limit: products with blocks at most.

    Raises:
        InputError: shapes that do not fit, or a tolerance that is not between 0 and 1.
    """
    n = bracket.basis.n
    if rhs.ndim != 2 or len(rhs) != n or not 1 <= rhs.shape[1] <= n:
        raise InputError(f"rhs of shape {tuple(rhs.shape)}; expected ({n}, t) with 1 <= t <= {n}")
    if not 0.0 < tolerance < 1.0:
        raise InputError(f"tolerance={tolerance!r}; expected a number between 0 and 1")
    work = precision or bracket.basis.precision
    solve = _Solve(PlusIdentity(product, n), rhs, bracket, tolerance, reference, work)
    with tqdm(desc="deflated cg", unit=" products", disable=not progress, leave=False) as bar:
        return solve.run(limit, bar)


class _Solve:
    def __init__(
        self, system: PlusIdentity, rhs: Tensor, bracket: Bracket, tolerance: float, reference: Product | None, work: torch.dtype
    ):  # fmt: skip
        self.system, self.rhs, self.bracket, self.tolerance, self.work = system, rhs, bracket, tolerance, work
        self.reference = None if reference is None else PlusIdentity(reference, system.n)
        rounding = bracket.basis.small.rounding if reference is None else 8.0 * torch.finfo(torch.float64).eps
        self.rounding = 2.0 * rounding * bracket.norm  # twice: the vector is rounded before the product, too
        self.known = bracket.diagonal(bracket.coordinates(rhs))

    def run(self, limit: int, bar: tqdm) -> Deflated:
        value, left = torch.zeros_like(self.rhs, dtype=torch.float64), self.rhs.double()
        found, iterations = self._measured(value, left, 0), 0
        for _ in range(CYCLES):
            if bool(found.converged.all()) or iterations >= limit:
                break
            step, count = self._cycle(left, found, limit - iterations, bar)
            iterations += count
            tried = value + step
            left_tried = self._residual(tried)
            better = self._measured(tried, left_tried, iterations)
            improved = better.energy < found.energy
            gained = bool((better.energy < GAIN * found.energy).any())
            value, left = torch.where(improved, tried, value), torch.where(improved, left_tried, left)
            found = self._measured(value, left, iterations)
            if not gained:
                break
        return found

    def _cycle(self, left: Tensor, found: Deflated, room: int, bar: tqdm) -> tuple[Tensor, int]:
        """Columns that are done ride along as zeros."""
        scale = torch.where(found.converged | (found.residual == 0), 0.0, 1.0 / left.norm(dim=0).clamp_min(1e-300))
        target = AIM * self.tolerance * found.variance.sqrt() / found.energy.clamp_min(1e-300)
        floor = torch.where(
            found.variance > 0, target.clamp(FLOOR[self.work], 1.0), max(self.tolerance**2, FLOOR[self.work])
        )
        block = (left * scale).to(self.work)

        def watch(iteration: int, worst: float) -> None:
            bar.update()
            bar.set_postfix(residual=f"{worst:.1e}")

        cycle = block_cg(
            self.system.product, self.bracket.preconditioner, block, Goal.none(block), floor=floor, limit=room,
            precision=self.work, watch=watch,
        )  # fmt: skip
        step = cycle.value.double() / torch.where(scale > 0, scale, 1.0)
        return torch.where(scale > 0, step, 0.0), cycle.iterations

    def _residual(self, value: Tensor) -> Tensor:
        if self.reference is not None:
            return self.rhs.double() - self.reference.product(value)
        image = self.system.multiply(value.to(self.work)).double()
        return self.rhs.double() - image - value

    def _measured(self, value: Tensor, left: Tensor, iterations: int) -> Deflated:
        size = self.rhs.double().norm(dim=0)
        unsure = self.rounding * value.norm(dim=0)
        energy = self.bracket.energy(left) + unsure / self.bracket.shift**0.5
        # Whatever z is, gᵀSg = 2gᵀz - zᵀ(A + 1)z + rᵀSr.
        own = ((self.rhs.double() + left) * value).sum(dim=0)
        off = unsure * value.norm(dim=0)
        lower = torch.maximum(own - off, self.known[0])
        upper = torch.minimum(own + off + energy.square(), self.known[1])
        residual = left.norm(dim=0) / torch.where(size > 0, size, 1.0)
        converged = energy <= self.tolerance * lower.sqrt()
        return Deflated(value, residual, energy, lower, (upper - lower).clamp_min(0.0), converged, iterations, left)


def estimate_logdet(
    product: Product,
    bracket: Bracket,
    *,
    probes: int = 8,
    most: int = 20,
    seed: int = 0,
    precision: torch.dtype | None = None,
) -> Estimate:
    """`log det(A + 1)` by stochastic Lanczos quadrature on what the basis leaves of it.

    Args:
        probes: random vectors, two or more, multiplied together.
        most: Lanczos steps; they take `8 n · probes · most` bytes.
    """
    n = bracket.basis.n
    vectors = spherical_probes(n, probes, torch.Generator().manual_seed(seed), bracket.inner.device)
    return log_determinant(
        PlusIdentity(product, n), bracket.preconditioner, vectors, most=most, dtype=precision or bracket.basis.precision
    )


__all__ = ["Deflated", "PlusIdentity", "deflated_cg", "estimate_logdet"]
