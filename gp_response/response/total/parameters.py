"""The parameters that respond, by name, with the coordinates in which a unit of each means about the same.

A raw value is about the logarithm of a hyperparameter where it is negative and the hyperparameter itself where it is large.
Coordinates are those of `gp_response.heads.vector`: `v = r` up to one and `1 + log r` beyond, about a logarithm everywhere.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.heads import vector


class Parameters:
    """P numbers spread over a few tensors.

    Args:
        named: pairs (name, parameter), names in natural units (`lengthscale`, not `raw_lengthscale`).
        constraints: what turns each raw tensor into natural units; None where it is natural already.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], constraints: list[Any]):
        self.tensors = [parameter for _, parameter in named]
        self.constraints = constraints
        self.names = tuple(name for one, parameter in named for name in _numbered(one, parameter))

    def __len__(self) -> int:
        return len(self.names)

    def read(self) -> Tensor:
        """Coordinates, (P,)."""
        return vector.read(self.tensors) if self.tensors else torch.zeros(0, dtype=torch.float64)

    def write(self, coordinates: Tensor) -> None:
        vector.write(self.tensors, coordinates)

    def stretch(self) -> Tensor:
        """dr/dv, (P,): raw units a coordinate."""
        return self.raw().clamp_min(1.0)

    def bend(self) -> Tensor:
        """d²r/dv², (P,)."""
        raw = self.raw()
        return torch.where(raw > 1.0, raw, torch.zeros_like(raw))

    def natural(self) -> tuple[Tensor, Tensor]:
        """Values in natural units and their derivatives by the coordinates, both (P,)."""
        values, slopes = [], []
        for tensor, constraint in zip(self.tensors, self.constraints, strict=True):
            raw = tensor.detach().clone().requires_grad_(True)
            value = raw * 1.0 if constraint is None else constraint.transform(raw)
            slopes.append(torch.autograd.grad(value.sum(), raw)[0].flatten())
            values.append(value.detach().flatten())
        if not values:
            return self.read(), self.read()
        return torch.cat(values), torch.cat(slopes) * self.stretch()

    def raw(self) -> Tensor:
        return flat([p.detach() for p in self.tensors])

    def split(self, raw: Tensor) -> list[Tensor]:
        """A vector (P,) in raw units as tensors of the parameters' shapes."""
        pieces = raw.split([p.numel() for p in self.tensors])
        return [piece.reshape(p.shape).to(p) for piece, p in zip(pieces, self.tensors, strict=True)]


def flat(tensors: list[Tensor]) -> Tensor:
    """Tensors as one vector in float64."""
    return torch.cat([t.double().flatten() for t in tensors]) if tensors else torch.zeros(0, dtype=torch.float64)


def hyperparameters(head: Any, *, inducing: bool, features: list[nn.Parameter]) -> Parameters:
    """Everything of a head that `fit` trains, but the features' weights and, unless asked for, the inducing points."""
    apart = {id(p) for p in features}
    seen: set[int] = set()
    named: list[tuple[str, nn.Parameter]] = []
    constraints: list[Any] = []
    for name, parameter, constraint in _of_head(head, inducing):
        if parameter.requires_grad and id(parameter) not in apart | seen:
            seen.add(id(parameter))
            named.append((name, parameter))
            constraints.append(constraint)
    return Parameters(named, constraints)


def _of_head(head: Any, inducing: bool) -> Iterator[tuple[str, nn.Parameter, Any]]:
    for path, module in head.kernel.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            short = f"{path}.{name.removeprefix('raw_')}".lstrip(".")
            yield short, parameter, getattr(module, f"{name}_constraint", None)
    owner = head if "raw_noise" in dict(head.named_parameters(recurse=False)) else head.likelihood
    yield "noise", owner.raw_noise, owner.noise_constraint
    if inducing:
        yield "inducing", head.points, None


def _numbered(name: str, parameter: Tensor) -> list[str]:
    if parameter.numel() == 1:
        return [name]
    shape = [size for size in parameter.shape if size != 1]
    where = torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(parameter.numel(), -1)
    return [f"{name}[{','.join(map(str, at))}]" for at in where.tolist()]


__all__ = ["Parameters", "flat", "hyperparameters"]
