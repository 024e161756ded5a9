"""The program of `box_program` with u confined to a subspace, `u = U z`, as where more entries move than there are unknowns.

The force on an entry then comes from its neighbours, too, not from the conditions alone, so that Newton's method on the multipliers
of the conditions does not see which entries are held at a bound (or at zero, where size costs). The interior point is sharpened
by a primal-dual active set (Hintermüller, Ito & Kunisch 2003) instead: with the entries held that it says are, the rest is a
least-squares problem in z; multipliers of the wrong sign let go of entries, entries beyond a bound are held. Entries held that
follow from others held (degenerate corners) are left out by a pivoted QR, and of all rounds within bounds and conditions to
rounding the one of least cost is taken.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import qr, solve_triangular

from gp_response.linalg.box_program import BoxProgram, Interior, interior_point

PATIENCE = 5  # rounds without a lower cost
ROUNDING = 1e-12  # of bounds and conditions, in units of one and the largest entry
DEPENDENT = 1e-10  # length of a condition of length one outside the others, from which it follows from them
FREE, LOWER, UPPER, ZERO = 0, 2, 3, 4  # of an entry; where size costs, free ones are 1 or -1, their sign


def solve_within(program: BoxProgram, span: np.ndarray) -> np.ndarray | None:
    """The minimising u = span @ z, or None where none meets the hard conditions. span: (c, p), orthonormal columns.

    To rounding; where no round finds which entries are held, to the tolerance of the interior point.

    Raises:
        SolverError: the interior-point method gave up.
    """
    if program.sparsity == 0.0:
        alone = _held(program, span, np.full(len(span), FREE, dtype=np.int8))
        if alone.off <= ROUNDING:  # no bound is in the way
            return np.clip(alone.value, program.lower, program.upper)
    found = interior_point(program, span)
    return None if found is None else _sharpened(program, span, found)


class Round(NamedTuple):
    """u, the force on each entry beyond κu, and how far bounds or conditions are missed, relative to u."""

    value: np.ndarray
    force: np.ndarray
    off: float


def _sharpened(program: BoxProgram, span: np.ndarray, found: Interior) -> np.ndarray:
    best, least = found.value, np.inf
    now, seen = Round(found.value, found.force - program.curvature * found.value, 0.0), set()
    failed = 0
    while failed < PATIENCE and (state := _state(program, now)).tobytes() not in seen:
        seen.add(state.tobytes())
        now, failed = _held(program, span, state), failed + 1
        cost = program.cost(now.value)
        if now.off <= ROUNDING and cost < least:
            best, least, failed = np.clip(now.value, program.lower, program.upper), cost, 0
    return best


def _state(program: BoxProgram, now: Round) -> np.ndarray:
    """What each entry would do next, (c,) int8: as of the proximal step of the cost along the force."""
    step = max(program.curvature, 1.0)
    wanted = now.value + now.force / step
    price = program.curvature * program.sparsity * program.along / step
    wanted = np.sign(wanted) * np.maximum(np.abs(wanted) - price, 0.0)
    state = np.sign(wanted).astype(np.int8) if program.sparsity else np.zeros(len(wanted), dtype=np.int8)
    if program.sparsity:
        state[wanted == 0.0] = ZERO
    state[wanted <= program.lower] = LOWER
    state[wanted >= program.upper] = UPPER
    return state


def _held(program: BoxProgram, span: np.ndarray, state: np.ndarray) -> Round:
    """The least cost with entries held and signs kept as `state` has them, bounds of the others aside."""
    rows, aim, slack = program.conditions()
    hard, held = slack == 0.0, state >= LOWER
    at = np.where(state == LOWER, program.lower, np.where(state == UPPER, program.upper, 0.0))
    slope = program.sparsity * program.along * np.where(held, 0, state)  # of the size, where signs are known
    kept = np.concatenate([rows[hard] @ span, span[held]])
    soft = rows[~hard] @ span / np.sqrt(slack[~hard])[:, None]
    z, multipliers = _constrained(
        program.curvature, span.T @ slope, soft, aim[~hard] / np.sqrt(slack[~hard]), kept,
        np.concatenate([aim[hard], at[held]]),
    )  # fmt: skip
    value = span @ z
    missed = np.concatenate([
        rows[hard] @ value - aim[hard], (value - at)[held], program.lower - value, value - program.upper
    ])  # fmt: skip
    missed[: hard.sum() + held.sum()] = np.abs(missed[: hard.sum() + held.sum()])
    value[held] = at[held]
    force = program.curvature * slope
    force[held] += multipliers[hard.sum() :]
    return Round(value, force, float(missed.max(initial=0.0)) / (1.0 + np.abs(value).max(initial=0.0)))


def _constrained(
    curvature: float, slope: np.ndarray, soft: np.ndarray, wanted: np.ndarray, kept: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The z of least `κ (½‖z‖² + slopeᵀz) + ½‖soft z - wanted‖²` with `kept z = right`, and multipliers of the latter."""
    length = np.maximum(np.linalg.norm(kept, axis=1), np.finfo(float).tiny)
    basis, factor, pivots = qr((kept / length[:, None]).T, pivoting=True)
    count = int((np.abs(np.diag(factor)) > DEPENDENT).sum())
    factor, pivots = factor[:count, :count], pivots[:count]
    across, along = basis[:, :count], basis[:, count:]
    z = across @ solve_triangular(factor, (right / length)[pivots], trans="T")
    root = np.sqrt(curvature)
    system = np.concatenate([root * np.eye(along.shape[1]), soft @ along])
    z = z + along @ np.linalg.lstsq(system, np.append(-root * (slope @ along), wanted - soft @ z), rcond=None)[0]
    gradient = curvature * (z + slope) + soft.T @ (soft @ z - wanted)
    multipliers = np.zeros(len(kept))
    multipliers[pivots] = solve_triangular(factor, across.T @ gradient) / length[pivots]
    return z, multipliers


__all__ = ["solve_within"]
