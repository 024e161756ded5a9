"""Groups of a network's parameters: the terms into which its tangent kernel and its linearisation fall."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gp_response.curvature import Network
from gp_response.errors import InputError

Groups = dict[str, tuple[str, ...]]


def layers(network: Network) -> Groups:
    """The layers that hold the parameters chosen: their names, and the names of the parameters in each."""
    found: dict[str, list[str]] = {}
    for name in network.names:
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return {layer: tuple(names) for layer, names in found.items()}


def groups_of(network: Network, chosen: Mapping[str, Any]) -> Groups:
    """Groups `{name: parameters}`, each a selection as `gr.select` has it, with the names of their parameters.

    Raises:
        InputError: no groups, a selection that is empty, or a parameter in two of them.
    """
    if not isinstance(chosen, Mapping) or not chosen:
        raise InputError(f"groups={chosen!r}; expected {{name: parameters}}, at least one")
    found = {str(name): network.narrowed(some).names for name, some in chosen.items()}
    every = [name for names in found.values() for name in names]
    twice = next((name for name in every if every.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"groups share the parameter {twice!r}; let each parameter be in one of them at most")
    return found


def masks(network: Network, groups: Groups) -> Tensor:
    """Ones at the parameters of each group, (P, G) float64."""
    like = network.tree(torch.zeros(network.count, dtype=torch.float64, device=network.device))
    columns = [
        torch.cat([torch.full_like(part, float(name in names)).reshape(-1) for name, part in like.items()])
        for names in groups.values()
    ]
    return torch.stack(columns, dim=1)


__all__ = ["Groups", "groups_of", "layers", "masks"]
