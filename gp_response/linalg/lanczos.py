"""Lanczos tridiagonalisation of many vectors at once, and the Gauss quadrature that comes with it.

Each start vector has its own Krylov space. The basis is kept orthogonal by two passes of Gram-Schmidt against all of it:
without them converged eigenvalues appear again and again and a quadrature of few nodes is no longer one (Meurant & Strakoš
2006). Golub & Meurant, "Matrices, Moments and Quadrature" (2010), chapters 4 and 6.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError

# A new direction smaller than this, relative to the largest seen, is rounding: the Krylov space is exhausted.
BREAKDOWN = 1e-13
HALVINGS = 60


class Rule(NamedTuple):
    """Quadrature nodes and weights per column, both (t, k); the weights of a column add up to one."""

    nodes: Tensor
    weights: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """`uᵀ f(A) u` for each normalised start vector u, (t,). Nodes without weight are not looked at."""
        used = torch.where(self.weights > 0, self.nodes, torch.ones_like(self.nodes))
        return (torch.where(self.weights > 0, function(used), 0.0) * self.weights).sum(dim=1)


class Lanczos:
    """`A Q = Q T + (rest)` for each of t start vectors, one step at a time, in float64.

    Args:
        product: v (n, t) -> A v for a symmetric A, in float64.
        start: (n, t), no zero columns.
        most: no more than so many steps are asked for; their memory is n t numbers each.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor, *, most: int):
        n, t = start.shape
        self.product, self.steps = product, 0
        self.basis = start.new_zeros(t, min(most, n), n)
        self.basis[:, 0] = (start / start.norm(dim=0)).T
        self.diagonal = start.new_ones(t, 0)
        self.beside = start.new_zeros(t, 0)  # beside[:, k] couples node k to the next one; zero where the space ended
        self.scale = start.new_zeros(t)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to find: the rule is exact, or no step is allowed any more."""
        ended = self.steps > 0 and bool((self.beside[:, -1] == 0).all())
        return ended or self.steps == self.basis.shape[1]

    def step(self) -> None:
        """One product; a column whose Krylov space has ended stays as it is.

        Raises:
            SolverError: the product returned NaN or inf.
        """
        here, known = self.basis[:, self.steps], self.basis[:, : self.steps + 1]
        image = self.product(here.T.contiguous()).T
        if not bool(torch.isfinite(image).all()):
            raise SolverError("a product with the matrix holds NaN or inf; check the kernel's values on this data")
        alive = here.abs().amax(dim=1) > 0
        middle = torch.where(alive, (here * image).sum(dim=1), 1.0)
        for _ in range(2):
            image = image - torch.bmm(torch.bmm(known, image[:, :, None]).mT, known)[:, 0]
        size = image.norm(dim=1)
        self.scale = torch.maximum(self.scale, torch.maximum(middle.abs() * alive, size))
        size = torch.where(alive & (size > BREAKDOWN * self.scale), size, 0.0)
        self.diagonal = torch.cat([self.diagonal, middle[:, None]], dim=1)
        self.beside = torch.cat([self.beside, size[:, None]], dim=1)
        self.steps += 1
        if self.steps < self.basis.shape[1]:
            self.basis[:, self.steps] = (
                torch.where(size > 0, 1.0 / torch.where(size > 0, size, 1.0), 0.0)[:, None] * image
            )

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values (t, k), ascending, and their vectors in coordinates of the basis, (t, k, k)."""
        return torch.linalg.eigh(_tridiagonal(self.diagonal, self.beside[:, :-1]))

    def gauss(self) -> Rule:
        """The Gauss rule of the steps so far: an upper bound for `f = log`."""
        return _rule(_tridiagonal(self.diagonal, self.beside[:, :-1]))

    def radau(self, floor: float) -> Rule:
        """The Gauss-Radau rule with a node at `floor`, a lower bound of the spectrum: a lower bound for `f = log`."""
        nodes, vectors = self.ritz()
        # Rounding may put a node at the floor itself, which then has to be left of it to have a rule at all.
        gap = (nodes - floor).clamp_min(1e-12 * floor)
        last = floor + (self.beside[:, -1, None].square() * vectors[:, -1].square() / gap).sum(dim=1)
        return _rule(_tridiagonal(torch.cat([self.diagonal, last[:, None]], dim=1), self.beside))

    def above(self, chance: float) -> Tensor:
        """A bound of A's largest eigenvalue λ from above, (t,), that fails with no more than this chance each where the starts'
        directions are uniform.

        The next vector of the basis is `p(A) u` for the Lanczos polynomial p and has length one, so `|p(λ)|` is at most one over
        the part of u along λ's eigenvector, below `ε` with a chance of at most `ε (2n/π)^½`; and p grows beyond its zeros, the
        Ritz values (van Dorsselaer, Hochstenbach & van der Vorst 2000).
        """
        nodes = self.gauss().nodes
        most = math.log(2.0 * self.basis.shape[2] / math.pi) / 2.0 - math.log(chance)
        size = (
            self.beside.log().sum(dim=1) + most
        )  # of log p(λ) + Σ log β; -inf where the space has ended and λ is known
        low, gap = torch.zeros_like(size), (size / nodes.shape[1]).exp()
        for _ in range(HALVINGS):
            middle = 0.5 * (low + gap)
            beyond = (middle[:, None] + nodes[:, -1:] - nodes).log().sum(dim=1) >= size
            low, gap = torch.where(beyond, low, middle), torch.where(beyond, middle, gap)
        return nodes[:, -1] + gap


def _tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)


def _rule(matrix: Tensor) -> Rule:
    nodes, vectors = torch.linalg.eigh(matrix)
    return Rule(nodes, vectors[:, 0].square())


__all__ = ["Lanczos", "Rule"]
