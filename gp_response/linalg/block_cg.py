"""Block conjugate gradients that cannot break down.

All right-hand sides share one Krylov space, so many converge in far fewer products than each alone. The form is that of
Dubrulle (2001) with the residuals' QR factor carried along, preconditioned by `M = L Lᵀ` (Tichý, Meurant & Šimonová 2025,
"Block CG algorithms revisited", DR-BCG): the block stays orthonormal however dependent the residuals become.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gp_response.linalg.split_preconditioner import SplitPreconditioner

PATIENCE = 250  # iterations without progress before a column counts as stuck


@dataclass(frozen=True)
class Goal:
    """When a column is good enough, and when to stop.

    Attributes:
        norm: (t,) residual norms at which an iterate is set aside.
        met: (t,) columns that have such an iterate from before,
        aside: (n, t) which is this one, relative to where the run starts.
        spread: having one, a column is done when its whitened residual is at most `spread · ‖value - aside‖`.
    """

    norm: Tensor
    met: Tensor
    aside: Tensor
    spread: float

    @classmethod
    def none(cls, rhs: Tensor) -> "Goal":
        """No iterate is set aside: the floor alone ends the run."""
        t = rhs.shape[1]
        return cls(
            torch.zeros(t, dtype=torch.float64, device=rhs.device), torch.zeros(t, dtype=torch.bool, device=rhs.device),
            torch.zeros_like(rhs), 0.0,
        )  # fmt: skip


@dataclass
class Cycle:
    """What one run found, per column of the right-hand side.

    Attributes:
        value: (n, t) the last iterate.
        aside: (n, t) the first iterate whose estimated residual met the goal, or the one that was given.
        met: (t,) whether there is one.
        iterations: products with the matrix.
        history: the largest whitened residual `‖L⁻¹r‖ / ‖L⁻¹b‖` after each.
    """

    value: Tensor
    aside: Tensor
    met: Tensor
    iterations: int = 0
    history: list[float] = field(default_factory=list)


def block_cg(
    product: Callable[[Tensor], Tensor],
    preconditioner: SplitPreconditioner,
    rhs: Tensor,
    goal: Goal,
    *,
    floor: float | Tensor,
    limit: int,
    precision: torch.dtype = torch.float64,
    watch: Callable[[int, float], None] = lambda iteration, worst: None,
) -> Cycle:
    """Solve `B X = rhs` from zero. Products take vectors rounded to `precision`; short sums are in float64.

    The rounded vectors are the ones that the iterates are made of, so that rounding them loses nothing.

    Args:
        product: v (n, t) -> B v.
        rhs: (n, t) float64, t <= n.
        goal: see `Goal`; in float64.
        floor: no column is taken below this fraction of its first whitened residual: the precision gives no more. A
            number, or (t,).
        limit: most iterations.
        watch: called with the iteration and the largest relative whitened residual.
    """
    basis, sigma = _orthonormal(preconditioner.whiten(rhs))
    search = preconditioner.whiten_transposed(basis, precision)
    first = sigma.norm(dim=0)
    size = torch.where(first > 0, first, torch.ones_like(first))
    found = Cycle(torch.zeros_like(rhs), goal.aside.to(rhs), goal.met | (first == 0))
    # ‖L⁻¹r‖ never exceeds ‖r‖/√c: before it is below the goal there is no need to look at true norms.
    near = goal.norm.double() / preconditioner.root_diagonal.min()
    aim, best, since = floor * size, size.clone(), torch.zeros_like(first)
    while found.iterations < limit:
        search = search.to(precision)
        image, search = product(search).to(rhs), search.to(rhs)
        core = _inverse((search.T @ image).double())
        live = _live(sigma, aim, since)
        found.value.addmm_(search, torch.where(live, core @ sigma, 0.0).to(rhs))
        basis, turn = _orthonormal(basis - preconditioner.whiten(image, precision) @ core.to(rhs))
        sigma = torch.where(live, turn @ sigma, sigma)
        search = preconditioner.whiten_transposed(basis, precision) + search @ turn.T.to(rhs)
        found.iterations += 1
        now = sigma.norm(dim=0)
        better = now < 0.9 * best
        best, since = torch.where(better, now, best), torch.where(better, 0.0, since + 1.0)
        if bool((live & (now <= near)).any()) or bool((live & ~_live(sigma, aim, since)).any()):
            true = preconditioner.unwhiten(basis @ sigma.to(rhs), precision).norm(dim=0).double()
            new = (true <= goal.norm) & live & ~found.met
            found.aside[:, new] = found.value[:, new]
            found.met |= new
            aim = torch.maximum(floor * size, _aim(found, goal.spread))
        found.history.append(float((now / size).max()))
        watch(found.iterations, found.history[-1])
        if not bool(_live(sigma, aim, since).any()):
            break
    return found


def _aim(found: Cycle, spread: float) -> Tensor:
    """Whitened residuals at which columns with an iterate set aside are done; 0 for the others."""
    if spread == float("inf"):
        return torch.where(found.met, spread, 0.0).double()
    return torch.where(found.met, spread * (found.value - found.aside).norm(dim=0).double(), 0.0)


def _live(sigma: Tensor, aim: Tensor, since: Tensor) -> Tensor:
    return (sigma.norm(dim=0) > aim) & (since < PATIENCE)


def _orthonormal(block: Tensor) -> tuple[Tensor, Tensor]:
    """QR with Householder reflections: Q is orthonormal even where the block is rank deficient. R in float64."""
    q, r = torch.linalg.qr(block)
    return q, r.double()


def _inverse(core: Tensor) -> Tensor:
    """The inverse of the t x t matrix SᵀBS, without directions that rounding has made non-positive."""
    values, vectors = torch.linalg.eigh(0.5 * (core + core.T))
    keep = values > 1e-14 * values[-1].clamp_min(0.0)
    return (vectors * torch.where(keep, 1.0 / torch.where(keep, values, 1.0), 0.0)) @ vectors.T


__all__ = ["Cycle", "Goal", "block_cg"]
