"""Restriction of a linearised network to some of its parameters: all others stay where they are trained to."""

from typing import Any

import torch

from gp_response.errors import InputError
from gp_response.heads.network_field import NetworkField
from gp_response.posterior import Certified
from gp_response.response.component import Component


class RestrictedNetwork:
    """Mixed into a network's posterior: its parameters alone respond.

    Attributes:
        full: the posterior it restricts. which: number of the group, None for other parameters. name: of the group.
    """

    full: Any
    which: int | None
    name: str

    def beside(self, x: Any, clamped: bool) -> Certified:
        """What a component is read without, at x (p, d): nothing where it alone responds, as the rest is in the network's own
        output, and in the full posterior the mean of all but the component."""
        x = self.full.points(x)
        if clamped:
            zero = torch.zeros(len(x), dtype=torch.float64, device=x.device)
            return Certified(zero, zero)
        whole = self.full.mean_of(self.full.look(x))
        part = self.full.mean_of(self.full.look(Component(x, self.which).under(self.full).look()))
        return Certified(whole.value - part.value, whole.error + part.error)


def restricted_network(posterior: NetworkField, which: Any) -> Any:
    """The posterior of a group of parameters given the rest at θ*: the same data, prior, likelihood and solver.

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
    kind = type(f"Restricted{type(posterior).__name__}", (RestrictedNetwork, type(posterior)), {})
    found = kind(posterior.model.narrowed(chosen), posterior.data).settled()
    found.full, found.which, found.name = posterior, number, str(which) if number is None else names[number]
    return found


__all__ = ["RestrictedNetwork", "restricted_network"]
