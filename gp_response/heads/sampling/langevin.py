"""Stochastic-gradient Langevin dynamics on a localised Gibbs measure, several chains at once.

The measure is `p(θ) ∝ exp(-nβ L(θ) - ½ Σ λ_p (θ_p - c_p)²)` with L the mean loss; Lau et al. 2023 write λ = γ and c = θ* for the
pull that keeps a chain where the network is. A step is

    θ ← θ - ½ ε m ∘ [nβ ∇L(θ) + λ (θ - c)] + √(ε m) ∘ η,    η ~ N(0, I),

m = 1 for SGLD (Welling & Teh 2011), `m = 1/(√v + floor)` for RMSprop's running mean v of squared gradients (Li et al. 2016, without
their Γ term, as in the papers on susceptibilities; what is sampled is then off by more than the step's bias).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gp_response.errors import InputError

Gradient = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Target:
    """What is sampled: `exp(-nβ L - ½ Σ λ (θ - c)²)`.

    Attributes:
        gradient: gradient(θ (chains, P), rows) -> ∇L, (chains, P), of the rows (chains, b) of a minibatch, or of all where None.
        n_beta: nβ. precision: λ, a number or (P,). centre: c, (P,).
    """

    gradient: Gradient
    n_beta: float
    precision: Tensor | float = 0.0
    centre: Tensor | float = 0.0


@dataclass(frozen=True, eq=False)
class State:
    """Where chains are: θ (chains, P), the running mean of squared gradients (as θ; SGLD leaves it alone), steps taken."""

    theta: Tensor
    squares: Tensor
    steps: int


@runtime_checkable
class Method(Protocol):
    """A sampler: given ∇L and the force at θ, and normal numbers, the next state."""

    def move(self, state: State, gradient: Tensor, force: Tensor, noise: Tensor) -> State:
        """The next state; `force` is `nβ ∇L + λ (θ - c)`."""


def _checked(name: str, step: float) -> None:
    if not 0.0 < step < float("inf"):
        raise InputError(f"{name}(step={step!r}): expected a positive finite number; gr.plan_sampling finds one")


@dataclass(frozen=True)
class SGLD:
    """Langevin dynamics with step size ε; see `gr.plan_sampling` for what ε does."""

    step: float

    def __post_init__(self) -> None:
        _checked("SGLD", self.step)

    def move(self, state: State, gradient: Tensor, force: Tensor, noise: Tensor) -> State:
        theta = state.theta - 0.5 * self.step * force + self.step**0.5 * noise
        return replace(state, theta=theta, steps=state.steps + 1)


@dataclass(frozen=True)
class PreconditionedSGLD:
    """SGLD with a step of its own for each parameter, `ε/(√v + floor)`, v a running mean of squared minibatch gradients ∇L.

    Args:
        decay: of the running mean, whose start at zero is corrected for.
    """

    step: float
    decay: float = 0.99
    floor: float = 0.1

    def __post_init__(self) -> None:
        _checked("PreconditionedSGLD", self.step)
        if not (0.0 < self.decay < 1.0 and self.floor > 0.0):
            raise InputError(f"{self!r}: expected decay between 0 and 1 and a positive floor")

    def move(self, state: State, gradient: Tensor, force: Tensor, noise: Tensor) -> State:
        squares = self.decay * state.squares + (1.0 - self.decay) * gradient.square()
        level = squares / (1.0 - self.decay ** (state.steps + 1))
        step = self.step / (level.sqrt() + self.floor)
        return State(state.theta - 0.5 * step * force + step.sqrt() * noise, squares, state.steps + 1)


def advance(
    method: Method, targets: tuple[Target, ...], states: tuple[State, ...], steps: int, *, rows: tuple[int, int] | None,
    generator: torch.Generator,
) -> tuple[State, ...]:  # fmt: skip
    """Every state moved by so many steps on its own target; all see the same rows and the same normal numbers.

    Args:
        rows: (n, b), minibatches of b of n rows drawn with replacement, each chain its own; None: full gradients.

    Raises:
        InputError: a chain left every finite number.
    """
    like = states[0].theta
    for _ in range(steps):
        noise = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
        chosen = None
        if rows is not None:
            chosen = torch.randint(rows[0], (len(like), rows[1]), generator=generator).to(like.device)
        states = tuple(_moved(method, *both, chosen, noise) for both in zip(targets, states, strict=True))
    lost = ~torch.isfinite(states[0].theta).all(dim=1)
    if bool(lost.any()):
        raise InputError(
            f"chain {int(torch.nonzero(lost)[0])} diverged within {states[0].steps} steps; take a smaller step (gr.plan_sampling) "
            "or localise more"
        )
    return states


def _moved(method: Method, target: Target, state: State, rows: Tensor | None, noise: Tensor) -> State:
    gradient = target.gradient(state.theta, rows)
    force = target.n_beta * gradient + target.precision * (state.theta - target.centre)
    return method.move(state, gradient, force, noise)


def langevin(
    target: Target, start: Tensor, *, method: Method, draws: int, chains: int = 4, burn_in: int = 0, thin: int = 1,
    rows: tuple[int, int] | None = None, twin: Target | None = None, seed: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Draws (chains, draws, P) from a target, and with `twin` those of another target moved by the same random numbers.

    Args:
        start: (P,) where all chains begin. burn_in: steps before the first draw. thin: steps between draws.
    """
    targets = (target,) if twin is None else (target, twin)
    first = start.expand(chains, -1).clone()
    states: tuple[State, ...] = tuple(State(first, torch.zeros_like(first), 0) for _ in targets)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"rows": rows, "generator": generator}
    states = advance(method, targets, states, burn_in, **options)
    kept = [start.new_empty(chains, draws, len(start)) for _ in targets]
    for k in range(draws):
        states = advance(method, targets, states, thin, **options)
        for into, state in zip(kept, states, strict=True):
            into[:, k] = state.theta
    return tuple(kept)


__all__ = ["Method", "PreconditionedSGLD", "SGLD", "State", "Target", "advance", "langevin"]
