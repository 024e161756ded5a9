"""Patterning: sample weights that move observables as wanted, and the proof of what they do.

The published solution inverts a response once, `Δρ = χ⁺ Δ⟨O⟩` (Wang & Murfet 2026), which keeps no mass, leaves weights negative
and is linear. Here the least change within mass and bounds is a quadratic program (`nearest_weights`); the model is then
conditioned on the new weights, its response there inverted for what is missing, and so on: Newton's method on the conditions,
with every iterate inside mass and bounds, as these are convex.
"""

from typing import Any

import torch

from gp_response.response.pattern_question import question
from gp_response.response.pattern_result import Pattern
from gp_response.response.pattern_search import Search
from gp_response.response.pattern_strength import choose_strengths
from gp_response.response.result import Susceptibility
from gp_response.response.stored import StoredSusceptibility


def pattern(
    chi: Susceptibility | StoredSusceptibility,
    target: Any,
    *,
    mass: str = "conserve",
    bounds: Any = (0.0, 3.0),
    ridge: float | str = 0.0,
    sparsity: float | str = 0.0,
    rank: int | str | None = None,
    tolerance: float = 1e-3,
    iterations: int = 10,
    weights: Any = None,
    progress: bool = False,
) -> Pattern:
    """The least change of sample weights that changes observables as wanted, certified by conditioning on it.

    Least is `½ ‖Δρ‖²` of all rows. Where several changes of overlapping groups move every row alike (a group given twice, or
    made up of others), `Pattern.change` is the one of least norm.

    Args:
        chi: a first-order response to `reweight`, (m, c): every sample, some samples, or groups, which then move as one. Groups
            may share rows: a row's weight moves by the sum of the changes of its groups.
        target: (m,) wanted changes ⟨O⟩_new - ⟨O⟩_old, in the observables' unit, or `{name: change}` of some; the others may
            then move (see `Pattern.side_effects`), while a target of 0 holds one still.
        mass: "conserve" keeps the sum of all weights, "free" does not.
        bounds: of all new weights: a pair of numbers or of (n,) tensors.
        ridge: 0 asks for the target itself. Else `½ ‖change of O - target‖² + ridge ½ ‖Δρ‖²` is minimised.
        sparsity: adds `sparsity ‖Δρ‖₁` to `½ ‖Δρ‖²`: weights that would move by less stay.
        rank: leading singular directions of the response that the target is met in; None: all.
            Each of the three may be "auto": chosen by what it predicts of observables left out.
        tolerance: share of each target within which it counts as reached.
        iterations: most linearisations after the first. 0 inverts the given response once; the exact change is still computed.
        weights: (n,) those that the response belongs to, where it no longer knows its posterior (None: ones).
        progress: show a bar over rounds, each of which conditions the model at least once.

    Returns:
        a `Pattern`; `.reached` says whether the exact change meets the target, and where none within mass and bounds does,
        `.feasible` is False and the weights are those nearest in least squares.

    Raises:
        InputError: a response of another kind, a target of the wrong length or not finite, bounds that no weights of this
            mass meet, or negative weights where the model is to be conditioned on them.
    """
    with torch.no_grad():
        asked = question(chi, target, mass, bounds, weights, tolerance, iterations)
        strengths = choose_strengths(
            asked.room, asked.matrix, asked.target, ridge=ridge, sparsity=sparsity, rank=rank
        )  # fmt: skip
        return Search(asked, strengths, progress).result()


__all__ = ["pattern"]
