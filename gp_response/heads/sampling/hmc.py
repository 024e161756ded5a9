"""Hamiltonian Monte Carlo around the Laplace approximation: exact, and fast where the posterior is nearly Gaussian.

In coordinates z in which the Laplace approximation is standard normal the energy is `½|z|² + Φ(z)`. The Gaussian part is
moved exactly, by turning z into its velocity, and Φ kicks the velocity in between (Beskos, Pinski, Sanz-Serna & Stuart 2011,
"Hybrid Monte Carlo on Hilbert spaces"). Without Φ a quarter turn gives independent draws and nothing is refused.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.sampling.langevin import Chance, State, Target


@dataclass(frozen=True)
class HMC:
    """Hamiltonian Monte Carlo whose kinetic and Gaussian parts are those of the Laplace approximation; no step size, no bias.

    Energies are compared in the network's own type: where losses add up to 10⁵ or more, give a float64 network.

    Args:
        kicks: gradients a step; more are refused less often.
        turn: angle of a step, over all its kicks: at π/2 draws of a Gaussian are independent; smaller ones are refused less often.
        rank: products with the Gauss-Newton matrix, spent at the start; P or the number of outputs of all rows is as good as all.
    """

    kicks: int = 2
    turn: float = math.pi / 3.0
    rank: int = 100

    def __post_init__(self) -> None:
        for name, count in (("kicks", self.kicks), ("rank", self.rank)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise InputError(f"HMC({name}={count!r}): expected an integer of 1 or more")
        if not 0.0 < self.turn <= math.pi / 2.0:
            raise InputError(f"HMC(turn={self.turn!r}): expected an angle above 0, at most π/2")

    @property
    def refuses(self) -> bool:
        return True

    @property
    def cost(self) -> int:
        return self.kicks

    def move(self, target: Target, state: State, chance: Chance) -> State:
        assert target.around is not None
        assert chance.uniform is not None
        before = state.memory or _start(target, state.theta)
        z, velocity = target.around.white(state.theta), chance.normal
        start = before["energy"] + 0.5 * velocity.square().sum(dim=1)
        angle = self.turn / self.kicks
        theta, energy, force = state.theta, before["energy"], before["force"]
        velocity = velocity - 0.5 * angle * (target.around.pull(force) - z)
        for k in range(1, self.kicks + 1):
            z, velocity = _turned(z, velocity, angle)
            theta = target.around.place(z)
            energy, force = target.energy(theta)
            kick = angle if k < self.kicks else 0.5 * angle
            velocity = velocity - kick * (target.around.pull(force) - z)
        # A comparison with NaN is false: what leaves the finite numbers is refused.
        taken = chance.uniform.log() < start - energy - 0.5 * velocity.square().sum(dim=1)
        after = {"energy": energy, "force": force, "taken": before["taken"] + 1.0}
        memory = {name: torch.where(_like(taken, part), part, before[name]) for name, part in after.items()}
        return State(torch.where(taken[:, None], theta, state.theta), memory, state.steps + 1)


def _start(target: Target, theta: Tensor) -> dict[str, Tensor]:
    energy, force = target.energy(theta)
    return {"energy": energy, "force": force, "taken": torch.zeros_like(energy)}


def _turned(z: Tensor, velocity: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    c, s = math.cos(angle), math.sin(angle)
    return c * z + s * velocity, c * velocity - s * z


def _like(taken: Tensor, part: Tensor) -> Tensor:
    return taken.reshape(-1, *(1,) * (part.ndim - 1))


__all__ = ["HMC"]
