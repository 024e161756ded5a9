"""The linear inverse problem: the least change of sample weights that a first-order response says has a wanted effect.

With `χ root⁻¹ = U S V` (root: square roots of the columns' sizes), the conditions are `V u = S⁻¹Uᵀ aim` for `u = root · change`:
orthonormal rows, however alike the observables. Where columns share rows, u belongs to the parts they cut the rows into and is
confined to what columns can make of it (`overlap`). Without mass, bounds and strengths the answer is the pseudo-inverse
`χ⁺ aim`, with `rank` the truncated one.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.box_program import BoxProgram, solve_box
from gp_response.linalg.span_program import solve_within
from gp_response.response.weight_room import WeightRoom

EPS = torch.finfo(torch.float64).eps
FAINT = 1e-9  # curvature of the change where only the distance to the target matters, in units of the largest response²
OFF_SPAN = 1e-8  # of the aim, outside what the responses span, from which it is out of reach


class Strengths(NamedTuple):
    """ridge (0: the target is a condition), sparsity (in units of weight), rank (None: all)."""

    ridge: float = 0.0
    sparsity: float = 0.0
    rank: int | None = None


class Nearest(NamedTuple):
    """Change of each column, (c,), and whether some change within mass and bounds has the whole effect."""

    change: Tensor
    feasible: bool


def nearest(room: WeightRoom, matrix: Tensor, aim: Tensor, strengths: Strengths) -> Nearest:
    """The least change with `matrix @ change = aim`; where none is within mass and bounds, the least-squares nearest.

    With a ridge, the minimiser of `½ ‖matrix @ change - aim‖² + ridge (½ ‖Δρ‖² + sparsity ‖Δρ‖₁)`; else that of
    `½ ‖Δρ‖² + sparsity ‖Δρ‖₁` under the condition. Δρ is the change of all rows.

    Args:
        matrix: (m, c), float64. aim: (m,).
    """
    rows, values, wanted, within = _conditions(room, matrix, aim, strengths.rank)
    if strengths.ridge > 0:
        found = _soft(room, rows, values, wanted, strengths.ridge, strengths.sparsity)
        feasible = within and _hard(room, rows, wanted, 0.0) is not None
        return Nearest(_change(room, found), feasible)
    met = _hard(room, rows, wanted, strengths.sparsity) if within else None
    if met is not None:
        return Nearest(_change(room, met), True)
    faint = FAINT * float(values[0]) ** 2 if len(values) else 1.0
    return Nearest(_change(room, _soft(room, rows, values, wanted, faint, strengths.sparsity)), False)


def _conditions(
    room: WeightRoom, matrix: Tensor, aim: Tensor, rank: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """V, S, what V u should be, and whether the aim lies in the span of the responses."""
    left, values, right = torch.linalg.svd(room.by_u(matrix), full_matrices=False)
    floor = EPS * max(matrix.shape) * float(values[0]) if len(values) else 0.0
    count = int((values > floor).sum())
    lost = aim - left[:, :count] @ (left[:, :count].T @ aim)
    within = float(lost.norm()) <= OFF_SPAN * float(aim.norm())
    kept = count if rank is None else min(count, rank)
    wanted = (left[:, :kept].T @ aim) / values[:kept]
    return right[:kept].numpy(), values[:kept].numpy(), wanted.numpy(), within


def _hard(room: WeightRoom, rows: np.ndarray, wanted: np.ndarray, sparsity: float) -> np.ndarray | None:
    return _solved(room, _program(room, rows, wanted, np.zeros(len(wanted)), 1.0, sparsity))


def _soft(
    room: WeightRoom, rows: np.ndarray, values: np.ndarray, wanted: np.ndarray, ridge: float, sparsity: float
) -> np.ndarray:  # fmt: skip
    """Squares of what is missed, each in units of the largest response so that the numbers stay near one."""
    scale = float(values[0]) ** 2 if len(values) else 1.0
    found = _solved(room, _program(room, rows, wanted, scale / values**2, ridge / scale, sparsity))
    if found is None:  # the room is not empty, and nothing else is asked for
        raise SolverError("the bounds leave next to no weights to choose from; widen them, or use mass='free'")
    return found


def _solved(room: WeightRoom, program: BoxProgram) -> np.ndarray | None:
    """The minimising u, (k,), or None where the conditions exclude each other."""
    if room.overlap is not None and room.overlap.span is not None:
        return solve_within(program, room.overlap.span.numpy())
    found = solve_box(program)
    return None if found is None else found.value


def _program(
    room: WeightRoom, rows: np.ndarray, wanted: np.ndarray, slack: np.ndarray, curvature: float, sparsity: float
) -> BoxProgram:  # fmt: skip
    root = room.root
    low, high = (part * root for part in room.box())
    return BoxProgram(
        rows,
        wanted,
        slack,
        low.numpy(),
        high.numpy(),
        root.numpy(),
        0.0 if room.conserve else None,
        curvature,
        sparsity,
    )


def _change(room: WeightRoom, found: np.ndarray) -> Tensor:
    return room.change(torch.from_numpy(found))


__all__ = ["Nearest", "Strengths", "nearest"]
