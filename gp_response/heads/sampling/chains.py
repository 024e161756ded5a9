"""What a sampler gives: chains of parameters, or of outputs at points, with what they cost and how they were made."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gp_response.heads.sampling.readings import Call


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of a sampler, taken as samples by `gr.draws`.

    Attributes:
        theta: (chains, draws, P) parameters; None where outputs were kept instead.
        values: (chains, draws, p) or (chains, draws, p, C) outputs at the points `at` (p, d); None where parameters were kept.
        call: call(theta, x), the field at parameters.
        likelihood, beta: of the Gibbs measure sampled, `exp(-β Σ ρ_i ℓ_i)` times its prior.
        gradients: evaluations of the gradient of the whole loss, minibatches counted by their share, all chains together.
        settings: what else was asked for, by name.
        acceptance: share of steps that were taken, of a method that may refuse one; None of others.
        twin: draws of the linearised network, moved by the same random numbers; None where not asked for.
    """

    theta: Tensor | None
    values: Tensor | None
    call: Call | None
    at: Tensor | None
    likelihood: Any
    beta: float
    gradients: float
    settings: dict[str, Any] = field(default_factory=dict)
    acceptance: float | None = None
    twin: "Chains | None" = None

    def __repr__(self) -> str:
        kept = self.theta if self.theta is not None else self.values
        assert kept is not None
        what = "parameters" if self.theta is not None else "points"
        return f"Chains({kept.shape[0]} of {kept.shape[1]} draws, {kept.shape[2]} {what}, {self.gradients:g} gradients)"


__all__ = ["Chains"]
