"""The mode of a classifier that is linear in its parameters, by Newton's method.

In whitened parameters `u = Λ₀^½ (θ - θ*)` the outputs are `F = f(x; θ*) + J̃ u` and what is minimised is

    E(u) = -β Σ ρ_i log softmax(F_i)[y_i] + ½‖u‖² - aᵀu,    -∇E = a - u + J̃ᵀ βρ (Y - π),

with the prior's centre `a = Λ₀^½ (θ₀ - θ*)`. The Hessian is 1 + G̃ >= 1, so that the mode is no further off than ‖∇E‖.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.heads.network_rows import NetworkRows
from gp_response.solvers import Factor

MOST = 100  # steps
KEEP = 0.01  # of the gradient: a factor whose step left no more serves another one
FALLS = 0.5  # what rounding leaves of a gradient that still falls
ARMIJO, SHORTEST = 1e-4, 1e-6
SLACK = 64.0  # of sums in the energy, in units of eps
SOFTMAX = 4.0 * torch.finfo(torch.float64).eps  # rounding of a probability


class SoftmaxMode(NamedTuple):
    """The mode u (P,), the outputs there (n, C), a bound on the distance of u from it, and the steps that were taken."""

    move: Tensor
    outputs: Tensor
    change: float
    steps: int


@dataclass(frozen=True)
class SoftmaxProblem:
    """What is minimised.

    Attributes:
        rows: the training rows.
        start: f(x_i; θ*), (n, C) float64, rounded by `start_error` (n, C).
        weight: βρ, (n,).
        labels: as indicators, (n, C).
        centre: a, (P,).
        eps: rounding of a gradient or a product with one, relative to its length.
    """

    rows: NetworkRows
    start: Tensor
    start_error: Tensor
    weight: Tensor
    labels: Tensor
    centre: Tensor
    eps: float

    def outputs(self, move: Tensor) -> Tensor:
        return self.start + self.along(move)

    def along(self, direction: Tensor) -> Tensor:
        """What the outputs move by, (n, C)."""
        return self.rows.spread(direction[:, None]).reshape(self.start.shape)

    def downhill(self, move: Tensor, outputs: Tensor) -> Tensor:
        """-∇E, (P,)."""
        return self.centre - move + gathered(self.rows, self._forces(outputs))

    def energy(self, move: Tensor, outputs: Tensor) -> float:
        chosen = (self.labels * torch.log_softmax(outputs, dim=-1)).sum(dim=-1)
        return float(0.5 * move.square().sum() - self.centre.dot(move) - self.weight.dot(chosen))

    def rounding(self, move: Tensor, outputs: Tensor) -> tuple[float, float]:
        """Bounds on the length of what `downhill` is off by, and on how far that moves the mode.

        Outputs off by δ move it by `(1 + J̃ᵀWJ̃)⁻¹ J̃ᵀWδ`, which is no longer than `½ ‖W^½ δ‖`, and W is at most βρ/2.
        """
        off = self.start_error + self.eps * self.lengths * move.norm()
        forces = self.eps * self._forces(outputs).abs() + SOFTMAX * self.weight[:, None]
        product = float((forces * self.lengths).sum() + self.eps * (self.centre.norm() + move.norm()))
        # The softmax is 1-Lipschitz in the largest output.
        through = float((self.weight * off.amax(dim=1) * self.lengths.sum(dim=1)).sum())
        return product + through, product + 0.5 * float((0.5 * self.weight[:, None] * off.square()).sum().sqrt())

    @cached_property
    def lengths(self) -> Tensor:
        return self.rows.lengths.reshape(self.start.shape)

    def _forces(self, outputs: Tensor) -> Tensor:
        return self.weight[:, None] * (self.labels - torch.softmax(outputs, dim=-1))


def gathered(rows: NetworkRows, forces: Tensor) -> Tensor:
    """`J̃ᵀ u` for u (n, C) on the outputs, (P,)."""
    return rows.gather(forces.reshape(len(rows), -1, 1))[:, 0]


def softmax_mode(problem: SoftmaxProblem, factor: Callable[[Tensor], Factor], move: Tensor) -> SoftmaxMode:
    """Newton's method with halved steps from `move` (P,), to where rounding ends it.

    A factor is kept while its steps leave a hundredth of the gradient or less: then it costs more to make than it gains.

    Args:
        factor: of the Hessian, of probabilities (n, C).

    Raises:
        SolverError: the gradient is above its rounding after 100 steps.
    """
    held: Factor | None = None
    last = float("inf")
    for steps in range(MOST):
        outputs = problem.outputs(move)
        down, (least, lost) = problem.downhill(move, outputs), problem.rounding(move, outputs)
        size = float(down.norm())
        if size == 0.0 or FALLS * last < size <= least:
            return SoftmaxMode(move, outputs, size + lost, steps)
        if held is None or size > KEEP * last:
            held = factor(torch.softmax(outputs, dim=-1))
        step = held.solve(down[:, None]).value[:, 0]
        move, last = move + _share(problem, move, outputs, step, down) * step, size
    raise SolverError(
        f"the mode of the linearised classifier was not found in {MOST} Newton steps (gradient {last:.1e}, rounding "
        f"{least:.1e}); ask for a smaller tolerance of the solver, Dense(), or a larger prior_precision"
    )


def _share(problem: SoftmaxProblem, move: Tensor, outputs: Tensor, step: Tensor, down: Tensor) -> float:
    """The longest of 1, ½, ¼, … of a step by which the energy falls as it should."""
    along, before, share = problem.along(step), problem.energy(move, outputs), 1.0
    falls, slack = ARMIJO * float(down.dot(step)), SLACK * problem.eps * (1.0 + abs(before))
    while share > SHORTEST:
        if problem.energy(move + share * step, outputs + share * along) <= before - share * falls + slack:
            break
        share *= 0.5
    return share


__all__ = ["SoftmaxMode", "SoftmaxProblem", "gathered", "softmax_mode"]
