"""What sample weights may become: the rows that columns move, the bounds, and the mass that is kept."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.response.overlap import EPS, Overlap, atoms
from gp_response.response.perturbations import Reweight

MASS = ("conserve", "free")
ROUNDINGS = 16.0  # of the terms of a sum, within which it is on a bound


@dataclass(frozen=True)
class WeightRoom:
    """Weights `start + Σ_c change_c 1[row in column c]` within bounds. All on the CPU in float64.

    What moves as one are atoms: the columns or, where these overlap, sets of rows that are in the same columns.

    Attributes:
        start: (n,), the weights before.
        rows, atom: (r,) rows that move and the atom that each is in.
        sizes: (k,) rows in each atom.
        lower, upper: (n,) bounds on the new weights.
        conserve: whether their sum stays.
        overlap: how columns move atoms; None: atoms are the columns.
    """

    start: Tensor
    rows: Tensor
    atom: Tensor
    sizes: Tensor
    lower: Tensor
    upper: Tensor
    conserve: bool
    overlap: Overlap | None = None

    @property
    def root(self) -> Tensor:
        """√sizes: `u = root · moves` has the norm of the change of all rows."""
        return self.sizes.sqrt()

    def moves(self, change: Tensor) -> Tensor:
        """By how much a change of the columns moves each atom's rows, (k,)."""
        return change if self.overlap is None else self.overlap.moves(change)

    def change(self, u: Tensor) -> Tensor:
        """The change of the columns (c,) for `u = root · moves`, (k,); of several that of least norm."""
        return u / self.root if self.overlap is None else self.overlap.inverse @ u

    def by_u(self, matrix: Tensor) -> Tensor:
        """Responses to columns (m, c) as those to u, (m, k)."""
        return matrix / self.root if self.overlap is None else matrix @ self.overlap.inverse

    def box(self) -> tuple[Tensor, Tensor]:
        """Bounds on the move of each atom, (k,): those of the tightest of its rows."""
        low, high = ((bound - self.start)[self.rows] for bound in (self.lower, self.upper))
        wide = torch.full_like(self.sizes, float("inf"))
        return (
            (-wide).scatter_reduce(0, self.atom, low, "amax"),
            wide.scatter_reduce(0, self.atom, high, "amin"),
        )

    def mass_range(self) -> tuple[float, float] | None:
        """Least and largest change of the mass within the bounds, or None where nothing is within them."""
        low, high = self.box()
        if self.overlap is not None:
            return self.overlap.mass_range(self.sizes, low, high)
        return float((self.sizes * low).sum()), float((self.sizes * high).sum())

    def weights(self, change: Tensor, dtype: torch.dtype) -> Tensor:
        """The new weights (n,) in a precision: within the bounds exactly, and on them where only rounding is between; what
        rounding takes from one row is given to the next."""
        exact, moves = self.start.clone(), self.moves(change)[self.atom]
        exact[self.rows] = self._within(exact[self.rows] + moves, self._terms(change)[self.atom])
        if dtype == torch.float64:
            return exact
        moved = self.rows[moves != 0]
        short = exact.to(dtype)
        short[moved] = _rounded_sum(exact[moved], self.lower[moved], self.upper[moved], dtype)
        return short

    def _terms(self, change: Tensor) -> Tensor:
        """Size of the terms that `moves` sums, (k,)."""
        return change.abs() if self.overlap is None else self.overlap.incidence @ change.abs()

    def _within(self, weights: Tensor, terms: Tensor) -> Tensor:
        """Weights of `rows`, (r,), that sums of terms of a size, (r,), have led to: on a bound where rounding alone is between."""
        rounding = ROUNDINGS * EPS * (self.start[self.rows].abs() + terms)
        for bound in (self.lower[self.rows], self.upper[self.rows]):
            weights = torch.where((weights - bound).abs() <= rounding, bound, weights)
        return weights.clamp(self.lower[self.rows], self.upper[self.rows])


def _rounded_sum(exact: Tensor, lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to numbers within bounds whose sum is that of the exact ones to one rounding."""
    low, high = (_inwards(bound, sign, dtype).double().tolist() for bound, sign in ((lower, 1.0), (upper, -1.0)))
    rounded, carry = torch.empty(len(exact), dtype=dtype), 0.0
    for i, value in enumerate(exact.tolist()):
        wanted = min(max(value + carry, low[i]), high[i])
        rounded[i] = wanted
        carry += value - float(rounded[i])
    return rounded


def _inwards(bound: Tensor, sign: float, dtype: torch.dtype) -> Tensor:
    """Bounds in a shorter precision, rounded to the inside."""
    short = bound.to(dtype)
    inside = torch.nextafter(short, torch.full_like(short, sign * float("inf")))
    return torch.where((short.double() - bound) * sign < 0, inside, short)


def weight_room(
    start: Tensor, perturbation: Reweight | None, data: Any, columns: tuple[str, ...], *, bounds: Any, mass: str
) -> WeightRoom:
    """The room of a reweighting's columns. perturbation, data: None where the columns are all samples, in order.

    Raises:
        InputError: bounds of the wrong form, or that no weights of this mass meet; overlapping columns beyond memory.
    """
    if mass not in MASS:
        raise InputError(f"mass={mass!r}: expected 'conserve' (the sum of all weights stays) or 'free'")
    start = start.detach().double().cpu()
    if perturbation is None:
        at = column = torch.arange(len(start))
        count = len(start)
    else:
        at, column, count = perturbation.groups(data)
        at, column = at.cpu(), column.cpu()
    found = atoms(at, column, count)
    sizes = torch.bincount(found.atom, minlength=count if found.incidence is None else 0).double()
    overlap = None if found.incidence is None else Overlap.of(found.incidence, sizes)
    lower, upper = _bounds(bounds, len(start))
    room = WeightRoom(start, found.rows, found.atom, sizes, lower, upper, mass == "conserve", overlap)
    _refuse_empty(room, columns)
    return room


def _bounds(bounds: Any, n: int) -> tuple[Tensor, Tensor]:
    try:
        pair = [torch.as_tensor(bound, dtype=torch.float64).detach().cpu() for bound in bounds]
    except (TypeError, ValueError) as error:
        raise InputError(f"bounds={bounds!r}: expected a pair of numbers or of tensors ({n},)") from error
    if len(pair) != 2 or any(part.ndim > 1 or part.numel() not in (1, n) for part in pair):
        shapes = [tuple(part.shape) for part in pair]
        raise InputError(f"bounds of shapes {shapes}; expected a pair of numbers or of tensors ({n},)")
    lower, upper = (part.reshape(-1).expand(n).clone() for part in pair)
    if not bool((lower <= upper).all()):  # NaN is caught here, too
        bad = int(torch.nonzero(~(lower <= upper))[0])
        raise InputError(
            f"bounds ({float(lower[bad]):g}, {float(upper[bad]):g}) of row {bad} leave no number between them"
        )
    return lower, upper


def _refuse_empty(room: WeightRoom, columns: tuple[str, ...]) -> None:
    fixed = torch.ones(len(room.start), dtype=torch.bool)
    fixed[room.rows] = False
    outside = (room.start < room.lower) | (room.start > room.upper)
    if not bool(outside.any()):
        return
    if bool((fixed & outside).any()):
        row = int(torch.nonzero(fixed & outside)[0])
        raise InputError(
            f"row {row} has weight {float(room.start[row]):g}, is outside the bounds and in no column; widen the bounds"
        )
    low, high = room.box()
    if bool((low > high).any()):
        named = _named(room, int(torch.nonzero(low > high)[0]), columns)
        raise InputError(f"no change of {named} brings all its rows within the bounds; widen them")
    ends = room.mass_range()
    if ends is None:
        raise InputError("no change of these overlapping columns brings all their rows within the bounds; widen them")
    if room.conserve and (ends[0] > 0 or ends[1] < 0):
        total = float(room.start.sum())
        raise InputError(
            f"the bounds exclude every weight vector of mass {total:g}: within them it lies between {total + ends[0]:g} and "
            f"{total + ends[1]:g}; widen the bounds or use mass='free'"
        )


def _named(room: WeightRoom, atom: int, columns: tuple[str, ...]) -> str:
    if room.overlap is None:
        return f"column {columns[atom]!r}"
    shared = [columns[c] for c in torch.nonzero(room.overlap.incidence[atom]).flatten().tolist()]
    return (
        f"the part that columns {shared} alone have"
        if len(shared) > 1
        else f"the part that column {shared[0]!r} alone has"
    )


__all__ = ["MASS", "WeightRoom", "weight_room"]
