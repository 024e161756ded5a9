"""Derivatives of a function of named tensors along many directions: by forward mode where it exists, else by reverse alone.

Directions and cotangents carry their number t as the first axis.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

Parts: TypeAlias = dict[str, Tensor]
Function: TypeAlias = Callable[[Parts], Tensor]


@runtime_checkable
class Mode(Protocol):
    """How products with the Jacobian J of `f` and with the Hessian of a scalar `f` are taken."""

    def push(self, f: Function, at: Parts, directions: Parts) -> tuple[Tensor, Tensor]:
        """f itself, and J v for each direction v, (t, *outputs)."""

    def pull(self, f: Function, at: Parts, cotangents: Tensor) -> Parts:
        """Jᵀ u for each cotangent u of (t, *outputs); every part (t, *shape)."""

    def bend(self, f: Function, at: Parts, directions: Parts) -> Parts:
        """∇²f v for each direction v; every part (t, *shape)."""


class ForwardMode:
    """torch.func: J v by forward mode; all directions share the forward pass."""

    def push(self, f: Function, at: Parts, directions: Parts) -> tuple[Tensor, Tensor]:
        if _count(directions) == 1:
            output, tangent = jvp(f, (at,), (_only(directions),))[:2]
            return output, tangent[None]
        return vmap(lambda v: jvp(f, (at,), (v,))[:2], out_dims=(None, 0))(directions)  # type: ignore[arg-type]

    def pull(self, f: Function, at: Parts, cotangents: Tensor) -> Parts:
        pullback = vjp(f, at)[1]
        if len(cotangents) == 1:
            return {name: part[None] for name, part in pullback(cotangents[0])[0].items()}
        return vmap(lambda u: pullback(u)[0])(cotangents)

    def bend(self, f: Function, at: Parts, directions: Parts) -> Parts:
        slope = grad(f)
        if _count(directions) == 1:
            return {name: part[None] for name, part in jvp(slope, (at,), (_only(directions),))[1].items()}
        return vmap(lambda v: jvp(slope, (at,), (v,))[1])(directions)


class ReverseMode:
    """Plain autograd, a direction at a time: for what has no forward mode or what torch.func cannot transform.

    J v is the derivative of the pullback `u ↦ Jᵀu`, which is linear, so that the point u does not matter.
    """

    def push(self, f: Function, at: Parts, directions: Parts) -> tuple[Tensor, Tensor]:
        leaves = _leaves(at)
        with torch.enable_grad():
            output = f(leaves)
            u = torch.zeros_like(output, requires_grad=True)
            pulled = _gradients(output, leaves, u, create_graph=True)
        return output.detach(), torch.stack([_along(pulled, u, v) for v in _each(directions)])

    def pull(self, f: Function, at: Parts, cotangents: Tensor) -> Parts:
        leaves = _leaves(at)
        with torch.enable_grad():
            output = f(leaves)
        return _stacked([_gradients(output, leaves, u, retain_graph=True) for u in cotangents])

    def bend(self, f: Function, at: Parts, directions: Parts) -> Parts:
        leaves = _leaves(at)
        with torch.enable_grad():
            value = f(leaves)
            slopes = _gradients(value, leaves, None, create_graph=True)
        return _stacked([_bent(slopes, leaves, v) for v in _each(directions)])


def _count(directions: Parts) -> int:
    return len(next(iter(directions.values())))


def _only(directions: Parts) -> Parts:
    return {name: part[0] for name, part in directions.items()}


def _each(directions: Parts) -> list[Parts]:
    return [{name: part[k] for name, part in directions.items()} for k in range(_count(directions))]


def _stacked(columns: list[Parts]) -> Parts:
    return {name: torch.stack([column[name] for column in columns]).detach() for name in columns[0]}


def _leaves(at: Parts) -> Parts:
    return {name: part.detach().requires_grad_() for name, part in at.items()}


def _gradients(output: Tensor, leaves: Parts, u: Tensor | None, **how: bool) -> Parts:
    """Zero where the output does not depend on a leaf."""
    if not output.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(output, list(leaves.values()), u, materialize_grads=True, **how)
    return dict(zip(leaves, found, strict=True))


def _along(pulled: Parts, u: Tensor, v: Parts) -> Tensor:
    moving = [name for name, part in pulled.items() if part.requires_grad]
    if not moving:
        return torch.zeros_like(u)
    parts, weights = [pulled[name] for name in moving], [v[name] for name in moving]
    return torch.autograd.grad(parts, u, weights, retain_graph=True, materialize_grads=True)[0]


def _bent(slopes: Parts, leaves: Parts, v: Parts) -> Parts:
    moving = [name for name, part in slopes.items() if part.requires_grad]
    if not moving:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    parts, weights = [slopes[name] for name in moving], [v[name] for name in moving]
    found = torch.autograd.grad(parts, list(leaves.values()), weights, retain_graph=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


__all__ = ["ForwardMode", "Function", "Mode", "Parts", "ReverseMode"]
