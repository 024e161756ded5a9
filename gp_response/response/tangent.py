"""A direction in the space of a model's hyperparameters, and derivatives along it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from gp_response.errors import InputError, unknown_name
from gp_response.kernels.casting import call_with

MEAN = "mean"


@dataclass(frozen=True)
class Tangent:
    """One entry of one parameter.

    Attributes:
        label: its name in natural units, e.g. "lengthscale[2]".
        raw: the module's name of the unconstrained parameter; `MEAN` for the constant prior mean.
        index: of the entry in the flattened parameter.
        slope: of the natural value by the raw one there.
        value: natural value.
    """

    label: str
    raw: str
    index: int
    slope: float
    value: float

    def of(self, kernel: nn.Module, function: Callable[[Any], Tensor]) -> Tensor:
        """Derivative of `function(kernel)` by the natural value."""
        if self.raw == MEAN:
            return torch.zeros_like(function(kernel))
        raw = dict(kernel.named_parameters())[self.raw].detach()
        direction = torch.zeros_like(raw).flatten()
        direction[self.index] = 1.0 / self.slope

        def moved(value: Tensor) -> Tensor:
            return call_with(kernel, {self.raw: value}, function)

        return jvp(moved, (raw,), (direction.view_as(raw),))[1]

    def of_mean(self, points: Tensor) -> Tensor:
        """Derivative of the prior mean, (p,)."""
        return points.new_full((len(points),), 1.0 if self.raw == MEAN else 0.0)


def natural(kernel: nn.Module) -> dict[str, tuple[str, Tensor, Tensor]]:
    """Every parameter of a kernel by natural name: its raw name, natural values, and their slopes by the raw ones."""
    found = {}
    for name, raw in kernel.named_parameters():
        constraint = _constraint(kernel, name)
        value, slope = raw.detach(), torch.ones_like(raw)
        if constraint is not None:
            value, slope = jvp(constraint.transform, (raw.detach(),), (torch.ones_like(raw),))[:2]
        head, _, last = name.rpartition(".")
        label = last.removeprefix("raw_") if constraint is not None else last
        found[f"{head}.{label}".lstrip(".")] = (name, value.detach(), slope.detach())
    return found


def tangents(kernel: nn.Module, name: str, prior_mean: Any) -> list[Tangent]:
    """The entries that a name stands for: "lengthscale" all of them, "lengthscale[2]" one, "mean" the constant prior mean.

    A name may leave out what comes before its last dots where that is not ambiguous.

    Raises:
        InputError: nothing of that name, or several things.
    """
    if name == MEAN:
        if isinstance(prior_mean, nn.Module):
            raise InputError("the prior mean is a module; only a constant one responds by name")
        return [Tangent(MEAN, MEAN, 0, 1.0, float(prior_mean))]
    known = natural(kernel)
    base, _, index = name.partition("[")
    matching = [full for full in known if full == base] or [full for full in known if full.endswith(f".{base}")]
    if not matching:
        raise unknown_name("hyperparameter", name, [*known, MEAN])
    if len(matching) > 1:
        raise InputError(f"{name!r} stands for {', '.join(matching)}; name one of them")
    raw, value, slope = known[matching[0]]
    entries = range(value.numel()) if not index else [_index(name, index, value.numel())]
    several = value.numel() > 1
    return [
        Tangent(f"{base}[{k}]" if several else base, raw, k, float(slope.flatten()[k]), float(value.flatten()[k]))
        for k in entries
    ]


def set_natural(kernel: nn.Module, tangent: Tangent, value: Tensor | float) -> None:
    """Set one entry of a kernel's parameter to a natural value, in place."""
    raw = dict(kernel.named_parameters())[tangent.raw]
    constraint = _constraint(kernel, tangent.raw)
    new = torch.as_tensor(float(value), dtype=raw.dtype)
    with torch.no_grad():
        raw.view(-1)[tangent.index] = new if constraint is None else constraint.inverse_transform(new)


def _constraint(kernel: nn.Module, name: str) -> Any:
    module, _, last = name.rpartition(".")
    owner = kernel.get_submodule(module) if module else kernel
    known = getattr(owner, "constraint_for_parameter_name", None)
    return None if known is None else known(last)


def _index(name: str, rest: str, size: int) -> int:
    text = rest.removesuffix("]")
    if not text.isdigit() or int(text) >= size:
        raise InputError(f"{name!r}: there are entries 0 to {size - 1}; write for example {name.partition('[')[0]}[0]")
    return int(text)


__all__ = ["MEAN", "Tangent", "natural", "set_natural", "tangents"]
