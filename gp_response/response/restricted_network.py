"""Restriction of a linearised network to some of its parameters: all others stay where they are trained to."""

from typing import Any

import torch

from gp_response.errors import InputError
from gp_response.heads.network_field import NetworkField
from gp_response.posterior import Certified
from gp_response.response.component import Component


def restricted_network(posterior: Any, which: Any) -> Any:
    """The posterior of a group of parameters given the rest at θ*: the same data, prior, likelihood and solver.

    It is one of a network like any other; `full` is the posterior it restricts, `which` the number of the group (None for
    parameters that are none), and `name` that of the group.

    Args:
        which: number or name of a group (`posterior.groups`: layers), or any parameters as `gr.laplace` takes them.
    """
    if posterior.move is not None:
        raise InputError("the mean of this posterior is not the trained network; restrict the one that laplace made")
    names = list(posterior.groups)
    number = which if isinstance(which, int) and not isinstance(which, bool) else None
    number = names.index(which) if isinstance(which, str) and which in names else number
    if number is not None and not 0 <= number < len(names):
        raise InputError(f"group {which!r}; there are {', '.join(names)}, numbers 0 to {len(names) - 1}")
    chosen = which if number is None else posterior.groups[names[number]]
    found = type(posterior)(posterior.model.narrowed(chosen), posterior.data).settled()
    found.full, found.which, found.name = posterior, number, str(which) if number is None else names[number]
    return found


def beside(part: NetworkField, x: Any, clamped: bool) -> Certified:
    """What a group is read without, at x (p, d): nothing where it alone responds, as the rest is in the network's own output,
    and in the full posterior the mean of all but the group."""
    full = part.full
    x = full.points(x)
    if clamped:
        zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Certified(zero, zero)
    whole = full.mean_of(full.look(x))
    mine = full.mean_of(full.look(Component(x, part.which).under(full).look()))
    return Certified(whole.value - mine.value, whole.error + mine.error)


__all__ = ["beside", "restricted_network"]
