"""The least change within a box that meets a few linear conditions: a quadratic program with many columns and few dense rows.

    minimise   κ (½ ‖u‖² + λ Σ a_j |u_j|) + ½ Σ e_k²/s_k
    subject to V u - e = c,   aᵀu = moved,   lower <= u <= upper

with V (r, c) orthonormal, slack s_k (zero: the condition is hard, e_k = 0) and `moved` None where the sum is free. Clarabel's
interior-point method (Goulart & Chen 2024) solves it or certifies that no u exists. Its solution is then sharpened on the dual,
which has r + 1 unknowns: `u = clip(soft(Vᵀy + aν, κλa)/κ, lower, upper)` is what multipliers y, ν ask for, and Newton's method
makes it meet the conditions to rounding (semismooth, as of Qi & Sun 1993), so that the sum is kept and bounds hold exactly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import clarabel
import numpy as np
import scipy.sparse as sparse

from gp_response.errors import SolverError

TOLERANCE = 1e-9  # of the interior-point method, in gap and feasibility
NEWTON, HALVINGS = 60, 30
ROUNDING = 1e-13  # of the conditions, that Newton's method may leave
BISECTIONS = 200


@dataclass(frozen=True)
class BoxProgram:
    """See the module. All arrays float64.

    Attributes:
        rows: V, (r, c). aim: c, (r,). slack: s, (r,).
        lower, upper: (c,), may be infinite.
        along: a, (c,), positive. moved: number, or None.
        curvature: κ > 0. sparsity: λ >= 0.
    """

    rows: np.ndarray
    aim: np.ndarray
    slack: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    along: np.ndarray
    moved: float | None
    curvature: float = 1.0
    sparsity: float = 0.0

    def conditions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, right-hand sides and slacks with that of the sum, scaled to length one, as the last."""
        if self.moved is None:
            return self.rows, self.aim, self.slack
        length = np.linalg.norm(self.along)
        rows = np.concatenate([self.rows, self.along[None] / length])
        return rows, np.append(self.aim, self.moved / length), np.append(self.slack, 0.0)

    def cost(self, u: np.ndarray) -> float:
        """What is minimised."""
        soft = self.slack > 0
        missed = self.rows[soft] @ u - self.aim[soft]
        own = 0.5 * u @ u + self.sparsity * self.along @ np.abs(u)
        return float(self.curvature * own + 0.5 * np.sum(missed**2 / self.slack[soft]))

    def response(self, multipliers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The u that multipliers of the conditions ask for, and which of its entries would move with them."""
        pull = multipliers @ self.conditions()[0]
        shrunk = np.sign(pull) * np.maximum(np.abs(pull) / self.curvature - self.sparsity * self.along, 0.0)
        free = (shrunk > self.lower) & (shrunk < self.upper) & ((shrunk != 0.0) | (self.sparsity == 0.0))
        return np.clip(shrunk, self.lower, self.upper), free


class Optimum(NamedTuple):
    """The minimiser u, (c,), and multipliers of the conditions."""

    value: np.ndarray
    multipliers: np.ndarray


def solve_box(program: BoxProgram) -> Optimum | None:
    """The minimiser, or None where no u meets the hard conditions.

    Raises:
        SolverError: the interior-point method gave up.
    """
    found = interior_point(program)
    return None if found is None else _sharpened(program, found)


class Interior(NamedTuple):
    """A near-minimiser u, (c,), multipliers of the conditions, and the force on each entry, (c,): κu where it is free."""

    value: np.ndarray
    multipliers: np.ndarray
    force: np.ndarray


def interior_point(program: BoxProgram, span: np.ndarray | None = None) -> Interior | None:
    """The minimiser to `TOLERANCE`, or None where there is none. span: (c, p), whose range u is confined to; None: all.

    Raises:
        SolverError: the interior-point method gave up.
    """
    rows, aim, slack = program.conditions()
    if _exclude_each_other(rows[slack == 0] if span is None else rows[slack == 0] @ span, aim[slack == 0]):
        return None
    blocks, lower, upper, linear = _variables(program)
    soft = np.flatnonzero(slack > 0)
    equal = _equalities(rows, blocks, soft, span)
    (r, c), count, total = rows.shape, len(lower), equal.shape[1]
    eye = sparse.identity(total, format="csc")
    below, above = np.flatnonzero(np.isfinite(lower)), np.flatnonzero(np.isfinite(upper))
    matrix = sparse.vstack([equal, -eye[below], eye[above]], format="csc")
    right = np.concatenate([aim, np.zeros(equal.shape[0] - r), -lower[below], upper[above]])
    weight = np.concatenate([np.full(count, program.curvature), 1.0 / slack[soft], np.zeros(total - count - len(soft))])
    linear = np.concatenate([linear, np.zeros(total - count)])
    sizes = ((clarabel.ZeroConeT, equal.shape[0]), (clarabel.NonnegativeConeT, len(below) + len(above)))
    cones = [kind(size) for kind, size in sizes if size]
    solver = clarabel.DefaultSolver(sparse.diags(weight, format="csc"), linear, matrix, right, cones, _settings())
    found = solver.solve()
    status = str(found.status)
    if "PrimalInfeasible" in status:
        return None
    if status not in ("Solved", "AlmostSolved"):
        raise SolverError(
            f"the quadratic program of {c} columns and {r} conditions ended as {status}; widen the bounds"
        )
    value, multipliers = np.asarray(found.x)[:count], -np.asarray(found.z)[: equal.shape[0]]
    value = value if len(blocks) == 1 else value[:c] - value[c:]
    force = multipliers[:r] @ rows + (0.0 if span is None else multipliers[r:])
    return Interior(np.clip(value, program.lower, program.upper), multipliers[:r], force)


def _exclude_each_other(rows: np.ndarray, aim: np.ndarray) -> bool:
    """Whether conditions cannot all be met, bounds aside. The interior-point method may take long to see it, or not see it."""
    if not len(aim):
        return False
    missed = rows @ np.linalg.lstsq(rows, aim, rcond=None)[0] - aim
    return bool(np.linalg.norm(missed) > TOLERANCE * (1.0 + np.linalg.norm(aim)))


def _equalities(rows: np.ndarray, blocks: list, soft: np.ndarray, span: np.ndarray | None) -> sparse.csc_matrix:
    """`rows u - e` and, with a span, `u - span z`, of the unknowns u (in blocks), e of soft conditions, z."""
    pick = sparse.csc_matrix((-np.ones(len(soft)), (soft, np.arange(len(soft)))), shape=(len(rows), len(soft)))
    parts = [sparse.csc_matrix(rows if block is None else rows @ block) for block in blocks]
    if span is None:
        return sparse.hstack([*parts, pick], format="csc")
    itself = [sparse.identity(len(span)) if block is None else block for block in blocks]
    return sparse.bmat(
        [[*parts, pick, None], [*itself, None, -sparse.csc_matrix(span)]], format="csc"
    )  # fmt: skip


def _variables(program: BoxProgram) -> tuple[list, np.ndarray, np.ndarray, np.ndarray]:
    """u itself or, where its size costs, its positive and its negative part: blocks of the rows, bounds, linear costs."""
    c = len(program.along)
    if program.sparsity == 0.0:
        return [None], program.lower, program.upper, np.zeros(c)
    minus = -sparse.identity(c, format="csc")
    lower = np.concatenate([np.maximum(program.lower, 0.0), np.maximum(-program.upper, 0.0)])
    upper = np.concatenate([np.maximum(program.upper, 0.0), np.maximum(-program.lower, 0.0)])
    return [None, minus], lower, upper, np.tile(program.curvature * program.sparsity * program.along, 2)


def _settings() -> clarabel.DefaultSettings:
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1  # the same digits on any machine
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    return settings


def _sharpened(program: BoxProgram, found: Interior) -> Optimum:
    """Newton's method on the multipliers from those found; the interior point where it does not come nearer."""
    rows, aim, slack = program.conditions()

    def left(multipliers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        value, free = program.response(multipliers)
        return aim - slack * multipliers - rows @ value, value, free

    y = found.multipliers
    rest, value, free = left(y)
    for _ in range(NEWTON):
        if np.abs(rest).max(initial=0.0) <= 4e-16 * (1.0 + np.abs(aim).max(initial=0.0)):
            break
        moving = rows[:, free]
        step = np.linalg.lstsq(np.diag(slack) + moving @ moving.T / program.curvature, rest, rcond=1e-14)[0]
        size, now = 1.0, np.linalg.norm(rest)
        for _ in range(HALVINGS):
            trial = left(y + size * step)
            if np.linalg.norm(trial[0]) < now:
                break
            size *= 0.5
        else:
            break
        y, (rest, value, free) = y + size * step, trial
    own = aim - slack * found.multipliers - rows @ found.value
    # The interior point meets linear conditions to rounding, but is only near the bounds and near zero where it should be there.
    sharper = np.linalg.norm(rest) <= max(np.linalg.norm(own), ROUNDING * (1.0 + np.linalg.norm(aim)))
    return Optimum(_on_the_sum(program, value if sharper else found.value), y if sharper else found.multipliers)


def _on_the_sum(program: BoxProgram, value: np.ndarray) -> np.ndarray:
    """The nearest point of the box with `aᵀu = moved`: a shift along a, clipped, found by bisection."""
    if program.moved is None:
        return value
    off = program.along @ value - program.moved
    if abs(off) <= 1e-15 * (1.0 + np.abs(program.along) @ np.abs(value)):
        return value
    span = abs(off) / float(np.square(program.along).min()) + 1.0
    low, high = -span, span
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        shifted = np.clip(value + middle * program.along, program.lower, program.upper)
        low, high = (middle, high) if program.along @ shifted < program.moved else (low, middle)
    return np.clip(value + 0.5 * (low + high) * program.along, program.lower, program.upper)


__all__ = ["BoxProgram", "Interior", "Optimum", "interior_point", "solve_box"]
