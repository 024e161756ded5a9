"""How strongly observables depend on groups of inputs or features: their response to the lengthscales of each group."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from gp_response.errors import InputError
from gp_response.response.model_perturbations import hyperparameter
from gp_response.response.observable import Observable
from gp_response.response.result import Susceptibility
from gp_response.response.susceptibility import susceptibility
from gp_response.response.tangent import tangents


def structure(
    posterior: Any,
    observable: Observable,
    groups: Mapping[str, Sequence[int]],
    *,
    parameter: str = "lengthscale",
) -> Susceptibility:
    """`d⟨O⟩/d log s` where the lengthscales of a group are all multiplied by s: one column a group.

    A kernel with one lengthscale a column, or a feature, that is no sum has no components; what a group contributes is told by
    making the field slower along it, until at s → ∞ it does not depend on the group at all. It is the derivative by scaling the
    group's inputs, training rows and the observable's points alike, by 1/s.

    Args:
        groups: positions of lengthscales by name, e.g. {"wind": [1, 2, 3], "hour": [7, 8]}; for a kernel on features, of features.
        parameter: name of the lengthscales, where the kernel has several; as in `hyperparameter`.

    Raises:
        InputError: a position that there is not, an empty group, or a parameter with one entry.
    """
    entries = tangents(posterior.kernel, parameter, posterior.prior_mean)
    if len(entries) < 2:
        raise InputError(f"{parameter!r} has one entry for all inputs; use a kernel with ard=d")
    weights = torch.zeros(len(entries), len(groups), dtype=torch.float64)
    for g, (name, members) in enumerate(groups.items()):
        positions = [int(k) for k in members]
        if not positions or not all(0 <= k < len(entries) for k in positions) or len(set(positions)) < len(positions):
            raise InputError(f"group {name!r} has {positions}; expected distinct positions 0 to {len(entries) - 1}")
        weights[positions, g] = torch.tensor([entries[k].value for k in positions], dtype=torch.float64)
    chi: Any = susceptibility(posterior, observable, hyperparameter(parameter))
    weights = weights.to(chi.matrix)
    rounding = len(entries) * torch.finfo(weights.dtype).eps * chi.matrix.abs() @ weights
    return replace(
        chi, matrix=chi.matrix @ weights, error=chi.error @ weights + rounding, columns=tuple(groups),
        kind="structure", unit=f"{observable.under(posterior).unit} per log lengthscale", source=None,
    )  # fmt: skip


__all__ = ["structure"]
