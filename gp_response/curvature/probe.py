"""Which way of taking derivatives a network has, found by trying it and looking for what must hold."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import grad, vmap

from gp_response.curvature.modes import Function, Mode, Parts
from gp_response.errors import InputError

STEP = 1e-3  # of a parameter
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}


def choose_mode(f: Function, at: Parts, modes: Sequence[Mode]) -> Mode:
    """The first mode that works on f and in which J and Jᵀ are each other's transpose, two directions at once.

    Raises:
        InputError: none does; the message tells what each said.
    """
    return _first(partial(_adjoint_gap, f, at), modes, "J and Jᵀ disagree")


def choose_bending_mode(f: Function, at: Parts, modes: Sequence[Mode]) -> Mode:
    """The first mode that works on the scalar f and in which its Hessian is symmetric, two directions at once.

    Raises:
        InputError: none does; the message tells what each said.
    """
    return _first(partial(_symmetry_gap, f, at), modes, "the Hessian is not symmetric")


def refuse_detached(f: Function, at: Parts, mode: Mode) -> None:
    """Raise InputError where f moves with its parameters and torch sees no derivative by any."""
    directions = {name: _directions(part)[:1] for name, part in at.items()}
    with torch.no_grad():
        output, pushed = mode.push(f, at, directions)
        if bool(pushed.any()):
            return
        moved = f({name: part + STEP * directions[name][0] for name, part in at.items()})
    if not torch.equal(moved, output):
        raise InputError(
            "the network's output moves with the parameters chosen but has no gradient by them; keep torch.no_grad(), detach "
            "and numpy out of its forward"
        )


def rows_batch(f: Callable[[Parts, Tensor], Tensor], at: Parts, x: Tensor) -> bool:
    """Whether one vmap over rows x gives the gradients of f that each row has by itself: not for recurrent layers, nor for a
    forward that branches on numbers or writes them over others."""

    def one(row: Tensor) -> Parts:
        return grad(lambda parts: f(parts, row[None]).sum())(at)

    alone = [one(row) for row in x]
    try:
        together = vmap(one)(x)
    except (RuntimeError, NotImplementedError, ValueError):
        return False
    found = torch.cat([together[name].reshape(len(x), -1) for name in at], dim=1)
    expected = torch.stack([torch.cat([parts[name].reshape(-1) for name in at]) for parts in alone])
    gap, scale = float((found - expected).abs().max()), float(expected.abs().max())
    return gap <= TOLERANCE[found.dtype] * scale


def _first(gap_of: Callable[[Mode], float | None], modes: Sequence[Mode], wrong: str) -> Mode:
    said = []
    for mode in modes:
        try:
            with torch.no_grad():  # a likelihood's parameters may require gradients
                gap = gap_of(mode)
            if gap is None:
                return mode
            said.append(f"{type(mode).__name__}: {wrong} by {gap:.1e}")
        except (RuntimeError, NotImplementedError) as error:
            said.append(f"{type(mode).__name__}: {str(error).strip().splitlines()[0][:160]}")
    raise InputError(f"the network cannot be differentiated in its parameters ({'; '.join(said)}); see its forward")


def _adjoint_gap(f: Function, at: Parts, mode: Mode) -> float | None:
    """None where `uᵀ(J v) = (Jᵀu)ᵀv` to rounding; else the relative gap. A broken rule of forward mode gives zeros silently."""
    directions = {name: _directions(part) for name, part in at.items()}
    output, pushed = mode.push(f, at, directions)
    cotangents = _directions(output)
    pulled = mode.pull(f, at, cotangents)
    left = (cotangents * pushed).flatten(1)
    return _gap(left, _products(pulled, directions))


def _symmetry_gap(f: Function, at: Parts, mode: Mode) -> float | None:
    """None where `vᵀ(H w) = wᵀ(H v)` to rounding; else the relative gap."""
    directions = {name: _directions(part) for name, part in at.items()}
    bent = mode.bend(f, at, directions)
    swapped = {name: part.flip(0) for name, part in directions.items()}
    crossed = _products(bent, swapped)  # wᵀ(H v) and vᵀ(H w)
    return _gap(crossed[:1], crossed[1:])


def _products(one: Parts, other: Parts) -> Tensor:
    return torch.cat([(part * other[name]).reshape(len(part), -1) for name, part in one.items()], dim=1)


def _gap(left: Tensor, right: Tensor) -> float | None:
    """The difference of two sums along rows, relative to the sizes of their terms; None where it is rounding."""
    dtype, left, right = left.dtype, left.double(), right.double()
    scale = left.abs().sum(dim=1) + right.abs().sum(dim=1)
    gap = (left.sum(dim=1) - right.sum(dim=1)).abs() / scale.clamp_min(torch.finfo(torch.float64).tiny)
    worst = float(gap.max())
    return None if worst <= TOLERANCE[dtype] else worst


def _directions(like: Tensor) -> Tensor:
    """Two of them, full of different numbers of about size one."""
    steps = torch.arange(1, 2 * like.numel() + 1, dtype=torch.float64, device=like.device)
    return torch.cos(steps**1.5).reshape(2, *like.shape).to(like.dtype)


__all__ = ["choose_bending_mode", "choose_mode", "refuse_detached", "rows_batch"]
