"""Observables of several classes: the fields at the mode, class by class, and what the softmax makes of them."""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import with_places
from gp_response.errors import InputError
from gp_response.response.observable import Derivatives, Marginals, Observable


class ClassField(Observable):
    """Values, contrasts or averages of every class's field: observables (m C), a class after the other."""

    def __init__(self, asked: Observable, classes: int):
        self.asked, self.unit = asked, "of the field"
        self.points = with_places(asked.points, (classes,))
        eye = torch.eye(classes, dtype=asked.points.dtype, device=asked.points.device)
        self.weights = None if asked.weights is None else torch.kron(asked.weights.to(eye), eye)
        self.classes = classes

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return mean

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return field

    @property
    def kind(self) -> str:
        return self.asked.kind

    def names(self) -> list[str]:
        return [f"{name}, class {c}" for name in self.asked.names() for c in range(self.classes)]


class ClassLoss(Observable):
    """`-log softmax(f(x_a))_{y_a}` at the mode, one observable a point, or as the weights of the loss sum them.

    Args:
        asked: the loss, with its points and labels, a point a label.
        posterior: of several classes; where its mode is gives the derivatives.
    """

    unit = "nat"

    def __init__(self, asked: Any, posterior: Any):
        classes = posterior.classes
        self.points, self.labels = with_places(asked.points, (classes,)), asked.labels
        self.one = posterior.law.indicator(asked.labels)
        self.sums = torch.eye(len(asked.points)) if asked.weights is None else asked.weights
        self.weights = self.sums.to(asked.points).repeat_interleave(classes, dim=1)
        look = posterior.look(posterior.every_class(asked.points))
        field = posterior.mean_of(look).value.reshape(-1, classes)
        p = torch.softmax(field, dim=-1)
        self.slopes = (p - self.one).reshape(-1)
        # Of the softmax's curvature the diagonal stands for the whole in the error bound.
        self.bends = (p * (1.0 - p)).reshape(-1) * classes

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        raise InputError("the loss of several classes is no sum over fields; use `expectation`")

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        raise InputError("the loss of several classes is read at the mode; it has no functional of one field")

    def expectation(self, at: Marginals) -> Tensor:
        field = at.mean.reshape(len(self.one), -1)
        return -self.sums.to(field) @ (self.one.to(field) * torch.log_softmax(field, dim=-1)).sum(dim=-1)

    def derivatives(self, at: Marginals, where: Tensor | None = None) -> Derivatives:
        slopes, bends = (part if where is None else part[where] for part in (self.slopes, self.bends))
        zero = torch.zeros_like(slopes)
        return Derivatives(slopes, zero, bends, zero, zero)

    kind = "loss"


__all__ = ["ClassField", "ClassLoss"]
