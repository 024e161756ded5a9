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
from gp_response.heads.sampling.reference import Reference

Gradient = Callable[[Tensor, Tensor | None], Tensor]
Loss = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Target:
    """What is sampled: `exp(-nβ L - ½ Σ λ (θ - c)²)`.

    Attributes:
        gradient: gradient(θ (chains, P), rows) -> ∇L, (chains, P), of the rows (chains, b) of a minibatch, or of all where None.
        n_beta: nβ. precision: λ, a number or (P,). centre: c, (P,).
        loss: loss(θ) -> L (chains,) and ∇L of all rows, for methods that accept or refuse a step.
        around: the Gaussian that such a method moves along.
    """

    gradient: Gradient
    n_beta: float
    precision: Tensor | float = 0.0
    centre: Tensor | float = 0.0
    loss: Loss | None = None
    around: Reference | None = None

    def force(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """`nβ ∇L + λ (θ - c)`, the gradient of the energy."""
        return self.n_beta * gradient + self.precision * (theta - self.centre)

    def energy(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """`nβ L + ½ Σ λ (θ - c)²`, (chains,), and its gradient (chains, P)."""
        assert self.loss is not None
        value, gradient = self.loss(theta)
        pull = 0.5 * (self.precision * (theta - self.centre).square()).sum(dim=1)
        return self.n_beta * value + pull, self.force(theta, gradient)


@dataclass(frozen=True, eq=False)
class State:
    """Where chains are: θ (chains, P), what their method remembers, each with chains first, and the steps taken."""

    theta: Tensor
    memory: dict[str, Tensor]
    steps: int


@dataclass(frozen=True, eq=False)
class Chance:
    """Random numbers of a step: normal (chains, P), rows of a minibatch (chains, b) or None, uniform (chains,) where asked for."""

    normal: Tensor
    rows: Tensor | None
    uniform: Tensor | None


@runtime_checkable
class Method(Protocol):
    """A sampler.

    Attributes:
        refuses: it may stay where it is, which takes a uniform number a step, all rows, and a target with `loss` and `around`.
        cost: gradients of the loss that a step takes.
    """

    @property
    def refuses(self) -> bool: ...

    @property
    def cost(self) -> int: ...

    def move(self, target: Target, state: State, chance: Chance) -> State:
        """The next state."""


class _Langevin:
    """A method of one gradient a step, never refused."""

    refuses = False
    cost = 1


def _checked(name: str, step: float) -> None:
    if not 0.0 < step < float("inf"):
        raise InputError(f"{name}(step={step!r}): expected a positive finite number; gr.plan_sampling finds one")


@dataclass(frozen=True)
class SGLD(_Langevin):
    """Langevin dynamics with step size ε; see `gr.plan_sampling` for what ε does."""

    step: float

    def __post_init__(self) -> None:
        _checked("SGLD", self.step)

    def move(self, target: Target, state: State, chance: Chance) -> State:
        force = target.force(state.theta, target.gradient(state.theta, chance.rows))
        theta = state.theta - 0.5 * self.step * force + self.step**0.5 * chance.normal
        return replace(state, theta=theta, steps=state.steps + 1)


@dataclass(frozen=True)
class PreconditionedSGLD(_Langevin):
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

    def move(self, target: Target, state: State, chance: Chance) -> State:
        gradient = target.gradient(state.theta, chance.rows)
        squares = self.decay * state.memory.get("squares", torch.zeros_like(gradient))
        squares = squares + (1.0 - self.decay) * gradient.square()
        level = squares / (1.0 - self.decay ** (state.steps + 1))
        step = self.step / (level.sqrt() + self.floor)
        theta = state.theta - 0.5 * step * target.force(state.theta, gradient) + step.sqrt() * chance.normal
        return State(theta, {"squares": squares}, state.steps + 1)


@torch.no_grad()
def advance(
    method: Method, targets: tuple[Target, ...], states: tuple[State, ...], steps: int, *, rows: tuple[int, int] | None,
    generator: torch.Generator,
) -> tuple[State, ...]:  # fmt: skip
    """Every state moved by so many steps on its own target; all see the same rows and the same random numbers.

    Args:
        rows: (n, b), minibatches of b of n rows drawn with replacement, each chain its own; None: full gradients.

    Raises:
        InputError: a chain left every finite number.
    """
    like = states[0].theta
    for _ in range(steps):
        chance = _chance(method, like, rows, generator)
        states = tuple(method.move(*both, chance) for both in zip(targets, states, strict=True))
    lost = ~torch.isfinite(states[0].theta).all(dim=1)
    if bool(lost.any()):
        raise InputError(
            f"chain {int(torch.nonzero(lost)[0])} diverged within {states[0].steps} steps; take a smaller step (gr.plan_sampling) "
            "or localise more"
        )
    return states


def _chance(method: Method, like: Tensor, rows: tuple[int, int] | None, generator: torch.Generator) -> Chance:
    normal = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    chosen = uniform = None
    if rows is not None:
        chosen = torch.randint(rows[0], (len(like), rows[1]), generator=generator).to(like.device)
    if method.refuses:
        uniform = torch.rand(len(like), generator=generator, dtype=like.dtype).to(like.device)
    return Chance(normal, chosen, uniform)


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
    states: tuple[State, ...] = tuple(State(first, {}, 0) for _ in targets)
    generator = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"rows": rows, "generator": generator}
    states = advance(method, targets, states, burn_in, **options)
    kept = [start.new_empty(chains, draws, len(start)) for _ in targets]
    for k in range(draws):
        states = advance(method, targets, states, thin, **options)
        for into, state in zip(kept, states, strict=True):
            into[:, k] = state.theta
    return tuple(kept)


__all__ = ["Chance", "Method", "PreconditionedSGLD", "SGLD", "State", "Target", "advance", "langevin"]
