"""What sample weights may become: the rows that each column moves, the bounds, and the mass that is kept."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.response.perturbations import Reweight

MASS = ("conserve", "free")


@dataclass(frozen=True)
class WeightRoom:
    """Weights `start + Σ_c change_c 1[row in column c]` within bounds. All on the CPU in float64.

    Attributes:
        start: (n,), the weights before.
        at, column: (s,) rows moved and the column that moves each.
        sizes: (c,) rows in each column.
        lower, upper: (n,) bounds on the new weights.
        conserve: whether their sum stays.
    """

    start: Tensor
    at: Tensor
    column: Tensor
    sizes: Tensor
    lower: Tensor
    upper: Tensor
    conserve: bool

    @property
    def root(self) -> Tensor:
        """√sizes: `u = root · change` has the norm of the change of all rows."""
        return self.sizes.sqrt()

    def box(self) -> tuple[Tensor, Tensor]:
        """Bounds on the change of each column, (c,): those of the tightest of its rows."""
        low, high = ((bound - self.start)[self.at] for bound in (self.lower, self.upper))
        wide = torch.full_like(self.sizes, float("inf"))
        return (
            (-wide).scatter_reduce(0, self.column, low, "amax"),
            wide.scatter_reduce(0, self.column, high, "amin"),
        )

    def weights(self, change: Tensor, dtype: torch.dtype) -> Tensor:
        """The new weights (n,) in a precision: within the bounds exactly, what rounding takes from one row given to the next."""
        exact = self.start.clone()
        exact[self.at] = (exact[self.at] + change[self.column]).clamp(self.lower[self.at], self.upper[self.at])
        if dtype == torch.float64:
            return exact
        moved = self.at[change[self.column] != 0]
        short = exact.to(dtype)
        short[moved] = _rounded_sum(exact[moved], self.lower[moved], self.upper[moved], dtype)
        return short


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
        InputError: bounds of the wrong form, or that no weights of this mass meet; a row in two columns.
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
    rows, times = at.unique(return_counts=True)
    if bool((times > 1).any()):
        raise InputError(f"row {int(rows[times > 1][0])} is in two columns; pattern needs disjoint ones")
    lower, upper = _bounds(bounds, len(start))
    room = WeightRoom(
        start, at, column, torch.bincount(column, minlength=count).double(), lower, upper, mass == "conserve"
    )
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
    fixed[room.at] = False
    outside = fixed & ((room.start < room.lower) | (room.start > room.upper))
    if bool(outside.any()):
        row = int(torch.nonzero(outside)[0])
        raise InputError(
            f"row {row} has weight {float(room.start[row]):g}, is outside the bounds and in no column; widen the bounds"
        )
    low, high = room.box()
    if bool((low > high).any()):
        worst = int(torch.nonzero(low > high)[0])
        raise InputError(f"no change of column {columns[worst]!r} brings all its rows within the bounds; widen them")
    least, most = float((room.sizes * low).sum()), float((room.sizes * high).sum())
    if room.conserve and (least > 0 or most < 0):
        total = float(room.start.sum())
        raise InputError(
            f"the bounds exclude every weight vector of mass {total:g}: within them it lies between {total + least:g} and "
            f"{total + most:g}; widen the bounds or use mass='free'"
        )


__all__ = ["MASS", "WeightRoom", "weight_room"]
