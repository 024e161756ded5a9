"""A linearised network of several classes: Laplace's approximation of its parameters under the softmax.

The precision is `B = 1 + β Σ ρ_i J̃_iᵀ (diag p_i - p_i p_iᵀ) J̃_i` in whitened parameters. The mode is the network as it was
trained, the prior being centred where that is so, and what moves is the mode.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, with_places
from gp_response.errors import InputError
from gp_response.heads.network_field import NetworkField
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_probe import NetworkProbe
from gp_response.heads.several_classes import SeveralClasses
from gp_response.kernels.look import Look
from gp_response.likelihoods import Categorical
from gp_response.posterior import Certified


class NetworkClassPosterior(SeveralClasses, NetworkField):
    """A linearised classifier conditioned on classes; made by `laplace` with a `Categorical` likelihood.

    As of every posterior of several classes, `mean(x)` is (n, C), `variance(x)` (n, C) and `cov(x, y)` (n, C, m, C), points
    of probes carry the class as a last column, and rows of a covariance run over training rows and classes, (n C,). Where
    a sample is a sequence, rows are its T tokens, and (T, C) stands for C.
    """

    law: Categorical
    change = 0.0

    def __init__(self, model: NetworkModel, data: Dataset):
        model.likelihood.check(data.train.y)
        self.law = model.likelihood  # type: ignore[assignment]
        self.outputs = model.rows(data).outputs().reshape(-1, self.classes)  # (n, C)
        self.probabilities = torch.softmax(self.outputs, dim=-1)
        super().__init__(model, data)

    def _size(self) -> Tensor:
        # No eigenvalue of diag p - ppᵀ is above one half.
        weight = 0.5 * self.beta * self.data.train.weights.double()
        return (weight[:, None] * self.rows.lengths.reshape(-1, self.classes).square()).sum()

    @property
    def residuals(self) -> Certified:
        """`1[y = c] - p(c)` of every row and class, (n, C): the force on each output."""
        value = self.law.indicator(self.data.train.y) - self.probabilities
        lengths = self.rows.lengths.reshape(-1, self.classes)
        off = self.eps * (self.outputs.abs() + lengths * self.origin_length)
        return Certified(value, off.amax(dim=1, keepdim=True).expand_as(value) + self.eps)

    @property
    def row_points(self) -> Tensor:
        return with_places(self.data.train.x, (self.classes,))

    def probe(self, x: Tensor | Look) -> NetworkProbe:
        if isinstance(x, Look) and x.direction is not None:
            raise InputError("slopes are not here for several classes; use value or contrast")
        return super().probe(x)

    def blocks(self, probe: Any) -> Tensor:
        c, p = self.classes, len(probe.points)
        left, right = (part.reshape(-1, p // c, c) for part in (probe.gradients, probe.solution.value))
        found = torch.einsum("kpc,kpd->pcd", left, right)
        return 0.5 * (found + found.mT)


__all__ = ["NetworkClassPosterior"]
