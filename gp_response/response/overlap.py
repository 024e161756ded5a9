"""Columns that share rows: the atoms they cut the rows into, and the least change of columns that moves the atoms as wanted.

Rows of the same columns move as one. With B (k, c), 0 or 1, the columns of each such atom, a change of the columns moves the
rows of atom j by `(B change)_j`. In `u_j = √size_j (B change)_j`, whose norm is that of the moves of all rows, columns reach
the range of `√size B` and no more; where several changes move every row alike, that of least norm stands for them.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from gp_response.errors import InputError

EPS = torch.finfo(torch.float64).eps
LARGEST = 2**27  # entries of B, which is factored densely
INFEASIBLE = 2  # linprog's status
BORDER = 1e-9  # of a linear program's mass, in units of the terms of its sum


class Atoms(NamedTuple):
    """Rows that move (r,), the atom of each (r,), and the columns of each atom (k, c); None: atoms are the columns."""

    rows: Tensor
    atom: Tensor
    incidence: Tensor | None


def atoms(at: Tensor, column: Tensor, count: int) -> Atoms:
    """The atoms of columns, in the order of their first rows. at, column: (s,) rows and the column that moves each.

    Raises:
        InputError: more atoms and columns than can be factored.
    """
    rows, place, times = at.unique(return_inverse=True, return_counts=True)
    if not bool((times > 1).any()):
        return Atoms(at, column, None)
    order = np.lexsort((column.numpy(), place.numpy()))
    members = np.split(column.numpy()[order], times.cumsum(0)[:-1].numpy())
    known: dict[bytes, int] = {}
    atom = torch.tensor([known.setdefault(some.tobytes(), len(known)) for some in members])
    if len(known) * count > LARGEST:
        raise InputError(
            f"{count} overlapping columns cut their rows into {len(known)} parts that differ in which columns they are in, "
            f"more than patterning can factor ({LARGEST} = columns x parts); use fewer columns, or disjoint ones"
        )
    incidence = torch.zeros(len(known), count, dtype=torch.float64)
    incidence[atom[place], column] = 1.0
    return Atoms(rows, atom, incidence)


class Overlap(NamedTuple):
    """How c columns move k atoms.

    Attributes:
        incidence: B, (k, c).
        inverse: pseudo-inverse of `√size B`, (c, k): the change of least norm for moves u.
        span: orthonormal basis of the u that columns reach, (k, p); None: all of them.
    """

    incidence: Tensor
    inverse: Tensor
    span: Tensor | None

    @classmethod
    def of(cls, incidence: Tensor, sizes: Tensor) -> "Overlap":
        left, values, right = torch.linalg.svd(sizes.sqrt()[:, None] * incidence, full_matrices=False)
        rank = int((values > EPS * max(incidence.shape) * values[0]).sum())
        left, right = left[:, :rank], right[:rank]
        return cls(incidence, (right.T / values[:rank]) @ left.T, None if rank == len(sizes) else left)

    def moves(self, change: Tensor) -> Tensor:
        """`B change`, (k,): exactly zero where the terms cancel to rounding."""
        moved = self.incidence @ change
        return torch.where(moved.abs() <= 8.0 * EPS * (self.incidence @ change.abs()), 0.0, moved)

    def mass_range(self, sizes: Tensor, low: Tensor, high: Tensor) -> tuple[float, float] | None:
        """Least and largest sum of all rows' moves, those of atoms within (low, high), (k,); None where there are no such moves.

        A number within rounding of zero is zero.
        """
        mass = (self.incidence.T @ sizes).numpy()
        above, below = high.isfinite(), low.isfinite()
        rows = torch.cat([self.incidence[above], -self.incidence[below]]).numpy()
        room = {"A_ub": rows, "b_ub": torch.cat([high[above], -low[below]]).numpy(), "bounds": (None, None)}
        if linprog(np.zeros_like(mass), **room).status == INFEASIBLE:
            return None
        ends = []
        for sign in (1.0, -1.0):
            found = linprog(sign * mass, **room)
            end = float(mass @ found.x) if found.success else -sign * float("inf")
            scale = BORDER * float(mass @ np.abs(found.x)) if found.success else 0.0
            ends.append(0.0 if abs(end) <= scale else end)
        return ends[0], ends[1]


__all__ = ["Atoms", "Overlap", "atoms"]
