"""Responses through the features' weights, `gᵀ S⁻¹ b` for every observable and column, from one Krylov basis.

The basis begins with the observables' gradients g and is shared by all of them; each of its products also gives `bᵀq` for every
column, so that columns have coordinates without gradients of their own. What they have beside the basis is known in length
alone, from readings along a few random vectors. Then both sides of the inverse (`Bracket`) give `gᵀ S⁻¹ b` an interval
(`gr.Lanczos`), or conjugate gradients deflated by the basis go on to a tolerance (`gr.CG`).
"""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.bracket import Bracket, Coordinates
from gp_response.posterior import Certified
from gp_response.response.total.localised import CHANCE, Localised
from gp_response.solvers import CG, DeflatedCG, FactoredLanczos, Lanczos
from gp_response.solvers.deflated import RANK
from gp_response.solvers.lanczos import bracketed

DEFAULT = CG(tolerance=1e-10)
SAME = 1e-8  # of the largest: gradients of observables that are combinations of the others
MANY, FEW = 16, 4  # random vectors for lengths: of intervals, and of solves, whose tolerance leaves room for loose ones
SEED = 1  # of theirs: not that of any basis


class Responses(NamedTuple):
    """Of r observables to c columns: values with bounds (r, c), and which met the solver's tolerance, bool (r,)."""

    found: Certified
    converged: Tensor


class Scaled:
    """`S/δ = 1 + A` by its products, as solvers ask for it; keeps what they read of the columns.

    Args:
        right: (W, r) what will be asked of its inverse.
    """

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, inside: Localised, right: Tensor):
        self.inside, self.right, self.floor, self.n = inside, right, inside.floor, inside.width
        self.read: list[Tensor] = []

    def within(self, v: Tensor) -> Tensor:
        """`A v` for v (W, t)."""
        found = self.inside.image(v)
        self.read.append(found.read)
        return found.curved.div_(-self.inside.damping)

    def start(self, block: int, seed: int) -> Tensor | None:
        """The directions in which the right-hand sides differ most, (W, <= block)."""
        size = self.right.norm(dim=0)
        if not bool((size > 0).any()):
            return None
        vectors, values, _ = torch.linalg.svd(self.right[:, size > 0] / size[size > 0], full_matrices=False)
        return vectors[:, values > SAME * values[0]][:, :block]


def require_solver(solver: CG | Lanczos | None) -> CG | Lanczos:
    """The solver asked for, or the default.

    Raises:
        InputError: another kind.
    """
    if solver is None:
        return DEFAULT
    if isinstance(solver, CG | Lanczos):
        return solver
    raise InputError(
        f"solver={solver!r}: the features' part is known by products alone; expected gr.CG(...), gr.Lanczos(...) or None"
    )


def responses(inside: Localised, hyper: Tensor, weights: Tensor, solver: CG | Lanczos) -> Responses:
    """Of observables with gradients by coordinates (r, a) and by weights (r, W)."""
    system = Scaled(inside, inside.right(hyper, weights))
    bracket = bracketed(system, _how(solver, system.right.shape[1]))
    if isinstance(solver, Lanczos):
        found, converged = _enclosed(solver, system, _Columns(system, bracket, MANY))
    else:
        found, converged = _refined(solver, system, _Columns(system, bracket, FEW))
    value = inside.direct(hyper) + found.value / inside.damping
    return Responses(Certified(value, found.error / inside.damping), converged)


def _how(solver: CG | Lanczos, count: int) -> Lanczos:
    """The basis for so many right-hand sides: all of them at once, where half as many products and more can follow. Measured on
    a network of 866 weights, that gives intervals a thousand times as narrow as blocks of eight."""
    if isinstance(solver, CG):
        solver = Lanczos(rank=solver.rank or RANK, storage="float64", progress=solver.progress, seed=solver.seed)
    return replace(solver, block=max(solver.block, min(count, 2 * solver.rank // 3)))


class _Columns:
    """What is known of the columns' gradients b, as `Coordinates` for a bracket: `Q b` as read, and bounds of lengths.

    Attributes:
        beside: (c,) bounds of the length of b beside the basis, but for a chance of 1e-6 in all.
    """

    def __init__(self, system: Scaled, bracket: Bracket, probes: int):
        self.bracket, basis = bracket, bracket.basis
        # A basis gone on with from a checkpoint was read in part only, or not at all.
        known = system.read if sum(len(part) for part in system.read) == basis.k else []
        count = sum(len(part) for part in known)
        generator = torch.Generator().manual_seed(SEED)
        random = torch.randn(system.n, probes, generator=generator, dtype=torch.float64)
        unread = basis.rows.data[count : basis.m].double().T
        fresh = system.inside.image(torch.cat([unread, random], dim=1)).read
        self.low = torch.cat([*known, fresh[:-probes]])
        self.root = torch.linalg.cholesky(basis.small.gram)
        beside = fresh[-probes:] - self.inside(random).T @ self.low
        self.beside = (beside.square().sum(dim=0) / _least(probes, CHANCE / beside.shape[1])).sqrt()
        within = (self.low * torch.cholesky_solve(self.low, self.root)).sum(dim=0)
        self.coordinates = Coordinates(self.low, within + self.beside.square())

    def inside(self, v: Tensor) -> Tensor:
        """Combinations of the basis nearest to v (W, t), (m, t)."""
        return torch.cholesky_solve(self.bracket.basis.project(v), self.root)


def _enclosed(solver: Lanczos, system: Scaled, columns: _Columns) -> tuple[Certified, Tensor]:
    """The middle of the interval and half its width."""
    bracket, right = columns.bracket, system.right
    own, within = bracket.coordinates(right), columns.inside(right)
    value, error = bracket.between(own, columns.coordinates, within.T @ columns.low)
    rest = (right - bracket.basis.lift(within)).norm(dim=0)
    error = error + 0.5 * rest[:, None] * columns.beside / bracket.shift
    return Certified(value, error), FactoredLanczos(solver, system, bracket).solve(right).converged


def _refined(solver: CG, system: Scaled, columns: _Columns) -> tuple[Certified, Tensor]:
    """`|bᵀ(z - B⁻¹g)| <= (bᵀB⁻¹b)^½ (ρᵀB⁻¹ρ)^½` with the residual ρ of z."""
    solution = DeflatedCG(solver, system, columns.bracket).solve(system.right)
    assert solution.energy is not None
    reach = columns.bracket.diagonal(columns.coordinates)[1].sqrt()
    value = system.inside.image(solution.value).read
    return Certified(value, solution.energy[:, None] * reach), solution.converged


def _least(count: int, chance: float) -> float:
    """A sum of so many squares of standard normals is less than this with no more than this chance."""
    return 2.0 * math.exp(2.0 / count * (math.log(chance) + math.lgamma(0.5 * count + 1.0)))


__all__ = ["DEFAULT", "Responses", "require_solver", "responses"]
