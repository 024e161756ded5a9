"""Which way of taking derivatives a network has, found by trying."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gp_response.curvature.modes import Function, Mode, Parts
from gp_response.errors import InputError

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-9}


def choose_mode(f: Function, at: Parts, modes: Sequence[Mode]) -> Mode:
    """The first mode that works on f and in which J and Jᵀ are each other's transpose, two directions at once.

    Raises:
        InputError: none does; the message tells what each said.
    """
    said = []
    for mode in modes:
        try:
            if (gap := _adjoint_gap(f, at, mode)) is None:
                return mode
            said.append(f"{type(mode).__name__}: J and Jᵀ disagree by {gap:.1e}")
        except (RuntimeError, NotImplementedError) as error:
            said.append(f"{type(mode).__name__}: {str(error).strip().splitlines()[0][:160]}")
    raise InputError(f"the network cannot be differentiated in its parameters ({'; '.join(said)}); see its forward")


def _adjoint_gap(f: Function, at: Parts, mode: Mode) -> float | None:
    """None where `uᵀ(J v) = (Jᵀu)ᵀv` to rounding; else the relative gap. A broken rule of forward mode gives zeros silently."""
    directions = {name: _directions(part) for name, part in at.items()}
    output, pushed = mode.push(f, at, directions)
    cotangents = _directions(output)
    pulled = mode.pull(f, at, cotangents)
    left = (cotangents * pushed).flatten(1).double()
    right = torch.cat([(pulled[name] * v).flatten(1).double() for name, v in directions.items()], dim=1)
    gap = (left.sum(dim=1) - right.sum(dim=1)).abs()
    scale = left.abs().sum(dim=1) + right.abs().sum(dim=1)
    worst = float((gap / scale.clamp_min(torch.finfo(output.dtype).tiny)).max())
    return None if worst <= TOLERANCE[output.dtype] else worst


def _directions(like: Tensor) -> Tensor:
    """Two of them, full of different numbers of about size one."""
    steps = torch.arange(1, 2 * like.numel() + 1, dtype=torch.float64, device=like.device)
    return torch.cos(steps**1.5).reshape(2, *like.shape).to(like.dtype)


__all__ = ["choose_mode"]
