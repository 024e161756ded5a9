"""What draws know of a field: its values where they were read, or anywhere if the field can be computed from them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError

Call = Callable[[Tensor, Tensor], Tensor]


class Readings(ABC):
    """Draws of a field: `chains`, `draws` a chain."""

    chains: int
    draws: int

    @abstractmethod
    def at(self, x: Tensor) -> Tensor:
        """The field at points x (q, d): (chains, draws, q), of several classes (chains, draws, q, C)."""

    def losses_at(self, x: Tensor, y: Tensor) -> Tensor | None:
        """Losses of labelled points (chains, draws, q), where they are known as such; None where they follow from `at`."""
        return None


class Stored(Readings):
    """Values (chains, draws, p) or (chains, draws, p, C) at points (p, d)."""

    def __init__(self, values: Tensor, points: Tensor):
        self.values, self.places = values, _places(points)
        self.chains, self.draws = values.shape[:2]

    def at(self, x: Tensor) -> Tensor:
        return self.values[:, :, _found(self.places, x, "points")].double()


class Called(Readings):
    """Parameters (chains, draws, P) and what computes the field from one of them: call(theta (P,), x) -> (q,) or (q, C)."""

    def __init__(self, theta: Tensor, call: Call):
        self.theta, self.call = theta, call
        self.chains, self.draws = theta.shape[:2]

    def at(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            found = [self.call(theta, x) for theta in self.theta.flatten(0, 1)]
        if not isinstance(found[0], Tensor):
            raise InputError(f"call(theta, x) gave a {type(found[0]).__name__}; expected a tensor, (q,) or (q, C)")
        values = torch.stack(found).double()
        if values.ndim not in (2, 3) or values.shape[1] != len(x):
            raise InputError(
                f"call(theta, x) gave {tuple(values.shape[1:])} for {len(x)} points; expected (q,) or (q, C)"
            )
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        return values.unflatten(0, (self.chains, self.draws))


class Losses(Readings):
    """Loss traces (chains, draws, p) of labelled points (p, d), (p,)."""

    def __init__(self, losses: Tensor, points: Tensor, labels: Tensor):
        self.losses, self.places = losses, _places(_labelled(points, labels))
        self.chains, self.draws = losses.shape[:2]

    def at(self, x: Tensor) -> Tensor:
        raise InputError("these draws are losses, which do not tell the field; ask for gr.loss(x, y) and gr.reweight()")

    def losses_at(self, x: Tensor, y: Tensor) -> Tensor:
        return self.losses[:, :, _found(self.places, _labelled(x, y), "labelled points")].double()


def _labelled(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x.double(), y.double()[:, None]], dim=1)


def _places(points: Tensor) -> dict[bytes, int]:
    return {row: i for i, row in enumerate(_bytes(points))}


def _bytes(points: Tensor) -> list[bytes]:
    # Adding zero makes -0 and 0 the same bytes.
    return [row.tobytes() for row in (points.detach().double() + 0.0).cpu().numpy()]


def _found(places: dict[bytes, int], x: Tensor, what: str) -> Tensor:
    where = [places.get(row, -1) for row in _bytes(x)]
    if (missing := sum(i < 0 for i in where)) > 0:
        row = where.index(-1)
        raise InputError(
            f"the draws were not evaluated at {missing} of {len(where)} {what} (the first is number {row}); samples know the field "
            "only where they were read: give gr.draws(at=...) these points, or parameters with call=f(theta, x)"
        )
    return torch.tensor(where)


def shaped(samples: Any, *, width: int, what: str) -> Tensor:
    """Samples as (chains, draws, width, …); one chain may leave the first dimension out.

    Raises:
        InputError: other shapes, numbers that are not finite, or draws that are all the same one.
    """
    found = as_samples(samples)
    if found.ndim >= 2 and found.shape[1] == width and (found.ndim == 2 or found.shape[2] != width):
        found = found[None]
    depths = (3,) if what == "parameters" else (3, 4)
    if found.ndim not in depths or found.shape[2] != width or not found.numel() or not found.is_floating_point():
        raise InputError(
            f"samples of shape {tuple(found.shape)}, {found.dtype}; expected floating (chains, draws, {width}) for {width} {what}"
        )
    if not bool(torch.isfinite(found).all()):
        chain, draw = torch.nonzero(~torch.isfinite(found))[0].tolist()[:2]
        raise InputError(f"draw {draw} of chain {chain} is NaN or inf; leave it out, or sample with a smaller step")
    if found.shape[0] * found.shape[1] > 1 and bool((found == found[:1, :1]).all()):
        raise InputError(
            f"all {found.shape[0] * found.shape[1]} draws are the same: the sampler has not moved; look at its step"
        )
    return found


def as_samples(samples: Any) -> Tensor:
    try:
        return torch.as_tensor(samples)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"samples of type {type(samples).__name__}; expected a floating tensor or array of draws"
        ) from error


__all__ = ["Call", "Called", "Losses", "Readings", "Stored", "as_samples", "shaped"]
