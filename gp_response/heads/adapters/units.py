"""The units a BoTorch model computes in, undone: from its inputs and outcomes back to those of its user."""

from typing import Any, NamedTuple

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.heads.adapters.kernels import own_copy

SAMPLES = (0.0, 1.0, 2.0, -3.0)


class Outcome(NamedTuple):
    """y = shift + scale * (what the model computes with)."""

    shift: float = 0.0
    scale: float = 1.0


def outcome_of(model: Any) -> Outcome:
    """The affine outcome transform of a BoTorch model; nothing for a model without one.

    Raises:
        InputError: a transform that is not affine, or not the same everywhere.
    """
    transform = getattr(model, "outcome_transform", None)
    if transform is None:
        return Outcome()
    name, at = type(transform).__name__, torch.tensor(SAMPLES, dtype=torch.float64)
    try:
        back = own_copy(transform).untransform(at[:, None])[0].detach()
    except Exception as error:
        raise InputError(f"outcome transform {name} cannot be undone without inputs: {error}".splitlines()[0]) from None
    if back.shape != (len(SAMPLES), 1):
        raise InputError(f"outcome transform {name} gives {tuple(back.shape)[1:]} outputs; give a model of one output")
    back = back[:, 0]
    shift, scale = float(back[0]), float(back[1] - back[0])
    if not torch.allclose(back, shift + scale * at, rtol=1e-9, atol=1e-9 * abs(scale)) or scale <= 0.0:
        raise InputError(
            f"outcome transform {name} is not affine, so the field is not Gaussian in the units of y; train with Standardize"
        )
    return Outcome(shift, scale)


class Inputs(nn.Module):
    """A BoTorch input transform as features: points in the user's units to those of the model, in evaluation mode."""

    transform: Any

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(x)


def inputs_of(model: Any, x: Tensor) -> Inputs | None:
    """The input transform of a BoTorch model, None where it has none.

    Args:
        x: (n, d) training points in the user's units.

    Raises:
        InputError: one that treats training points differently, or changes their number.
    """
    transform = getattr(model, "input_transform", None)
    if transform is None:
        return None
    found = Inputs(own_copy(transform))
    with torch.no_grad():
        here, there = found(x.double()), found.transform.preprocess_transform(x.double())
    if here.shape[:-1] != x.shape[:-1] or here.shape != there.shape or not torch.equal(here, there):
        raise InputError(
            f"input transform {type(transform).__name__} treats training and new points differently; "
            "give a model with a plain transform such as Normalize"
        )
    return found


class Mean(nn.Module):
    """`shift + scale * mean(inputs(x))`."""

    def __init__(self, mean: nn.Module, inputs: nn.Module | None, outcome: Outcome) -> None:
        super().__init__()
        self.mean, self.inputs, self.outcome = mean, inputs, outcome

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.inputs is None else self.inputs(x)
        return self.outcome.shift + self.outcome.scale * self.mean(z)


def translate_mean(mean: nn.Module, inputs: nn.Module | None, outcome: Outcome) -> float | nn.Module:
    """A number where the mean is one, else a module of points in the user's units."""
    if isinstance(mean, gpytorch.means.ZeroMean):
        return outcome.shift
    own = own_copy(mean)
    if type(mean) is gpytorch.means.ConstantMean:
        return outcome.shift + outcome.scale * float(own.constant.detach())
    return Mean(own, inputs, outcome)


__all__ = ["Inputs", "Mean", "Outcome", "inputs_of", "outcome_of", "translate_mean"]
