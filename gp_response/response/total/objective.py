"""What is asked of an objective: second derivatives along a direction of its parameters, and how the field follows."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.response.total.tiles import gradients, inner

MOVABLE = ("x", "y", "weights", "noise")


class Along(NamedTuple):
    """Derivatives along one direction.

    parameters: of the objective's gradient by the parameters, a list of tensors (a row of the Hessian).
    data: of its gradient by each training tensor that a perturbation moves, by name.
    mean, variance: of the field's marginals at the points, (p,). noise: of σ², 0-dim.
    """

    parameters: list[Tensor]
    data: dict[str, Tensor]
    mean: Tensor
    variance: Tensor
    noise: Tensor


class Marginal(NamedTuple):
    """Mean and variance of the field at the points, (p,), and σ², 0-dim."""

    mean: Tensor
    variance: Tensor
    noise: Tensor


class Objective(ABC):
    """The log evidence, or its bound, plus log priors, of a head on data, in float64.

    Args:
        head: a copy in float64 whose parameters are written to between calls of `settle`.
        data: the training rows.
        parameters: tensors of the head that move.
        points: (p, d) where the field is looked at.
        moved: names of the training tensors by which derivatives are wanted.
    """

    def __init__(self, head: Any, data: Dataset, parameters: list[Tensor], points: Tensor, moved: tuple[str, ...] = ()):
        self.head, self.data, self.parameters, self.points, self.moved = head, data, parameters, points, moved
        train = data.train
        tensors = {name: getattr(train, name) for name in MOVABLE if getattr(train, name) is not None}
        self.leaves = {name: t.detach().double().requires_grad_(name in moved) for name, t in tensors.items()}

    @abstractmethod
    def value(self) -> float:
        """The objective at the head's present parameters, in nats."""

    @abstractmethod
    def settle(self) -> None:
        """Take the head's present parameters; to be called before the others."""

    @abstractmethod
    def gradient(self) -> list[Tensor]:
        """By the parameters."""

    @abstractmethod
    def along(self, direction: list[Tensor]) -> Along:
        """Second derivatives along a direction of the parameters."""

    @abstractmethod
    def marginal(self) -> Marginal:
        """The field at the points."""

    @abstractmethod
    def pullback(self, mean: Tensor, variance: Tensor, noise: Tensor) -> list[Tensor]:
        """The gradient by the parameters of `⟨mean, μ⟩ + ⟨variance, s⟩ + noise σ²`, for cotangents (p,), (p,), 0-dim."""

    def prior(self, direction: list[Tensor] | None = None) -> list[Tensor]:
        """The gradient of the log priors, or its derivative along a direction."""
        with torch.enable_grad():
            value = self.head.log_prior() if hasattr(self.head, "log_prior") else torch.zeros(())
            if direction is None:
                return gradients(value, self.parameters)
            return gradients(inner(gradients(value, self.parameters, graph=True), direction), self.parameters)

    def log_prior(self) -> float:
        return float(self.head.log_prior()) if hasattr(self.head, "log_prior") else 0.0


__all__ = ["MOVABLE", "Along", "Marginal", "Objective"]
