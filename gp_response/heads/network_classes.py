"""A linearised network of several classes: Laplace's approximation of its parameters under the softmax.

The precision is `B = 1 + β Σ ρ_i J̃_iᵀ (diag p_i - p_i p_iᵀ) J̃_i` in whitened parameters. The mode is the network as it was
trained, the prior being centred where that is so, and what moves is the mode: given other data it is found by Newton's method.
"""

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, with_places
from gp_response.errors import InputError
from gp_response.heads.network_field import NetworkField
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_probe import NetworkProbe
from gp_response.heads.network_softmax import NetworkSoftmax
from gp_response.heads.network_system import NetworkSystem
from gp_response.heads.several_classes import SeveralClasses
from gp_response.heads.softmax_curvature import softmax_curvature
from gp_response.heads.softmax_mode import SoftmaxProblem, gathered, softmax_mode
from gp_response.kernels.look import Look
from gp_response.likelihoods import Categorical
from gp_response.posterior import Certified
from gp_response.solvers import CG, DeflatedCG, Factor, FactoredLanczos, Solution

TIGHT = 1e-6  # of Newton's steps where the solver brackets, and does not solve


class NetworkClassPosterior(SeveralClasses, NetworkField):
    """A linearised classifier conditioned on classes; made by `laplace` with a `Categorical` likelihood.

    As of every posterior of several classes, `mean(x)` is (n, C), `variance(x)` (n, C) and `cov(x, y)` (n, C, m, C), points
    of probes carry the class as a last column, and rows of a covariance run over training rows and classes, (n C,). Where
    a sample is a sequence, rows are its T tokens, and (T, C) stands for C.

    Args:
        model: network, prior, likelihood, solver.
        data: n training rows.
        centre: `Λ₀^½ (θ₀ - θ*)`, (P,), of a prior that is centred already; None: θ* is the mode.
        start: whitened parameters (P,) that the mode is sought from; None: θ*.

    Attributes:
        outputs: of the training rows at the mode, (n, C) float64. probabilities: their softmax.
        change: bound on the distance of the whitened parameters from the mode.
    """

    law: Categorical
    sway = 0.0  # relative bound on what the precision is off by, where the mode is known within `change`

    def __init__(
        self, model: NetworkModel, data: Dataset, *, centre: Tensor | None = None, start: Tensor | None = None
    ):
        model.likelihood.check(data.train.y)
        self.law = model.likelihood  # type: ignore[assignment]
        super().__init__(model, data)
        self.outputs = self.rows.outputs().reshape(-1, self.classes)
        if centre is not None:
            self.centre = centre
            self._to_mode(torch.zeros_like(centre) if start is None else start)
        self.probabilities = torch.softmax(self.outputs, dim=-1)

    def _to_mode(self, start: Tensor) -> None:
        labels = self.law.indicator(self.data.train.y)
        problem = SoftmaxProblem(self.rows, self.outputs, self._off, self._weight, labels, self.centre, self.eps)
        found = softmax_mode(problem, self._newton_factor, start)
        u, zero, far = found.move[:, None], torch.zeros_like(found.move[:, None]), found.change
        none = zero[0]
        self.move = Solution(
            u, none, found.steps, none == 0.0, none, zero, torch.full_like(u, far), {"seconds": 0.0}, energy=none
        )
        self.outputs, self.change = found.outputs, far
        # H(f + d) is within a factor e^±(max d - min d) of H(f) for the softmax: its third derivatives are moments of what H is.
        self.sway = math.expm1(2.0 * far * float(self.rows.lengths.max()))

    @cached_property
    def centre(self) -> Tensor:
        """`Λ₀^½ (θ₀ - θ*)`, where the prior is centred, whitened, (P,)."""
        return -gathered(self.rows, self._weight[:, None] * self.residuals.value)

    @cached_property
    def head(self) -> NetworkSoftmax:
        """The linearised classifier, which conditions again on any data."""
        return NetworkSoftmax(type(self), replace(self.model.anew(), kind="ggn"), self.centre, self.data.dim)

    def reweighted(self, weights: Tensor) -> "NetworkClassPosterior":
        if self.model.kind == "hessian":
            raise InputError(
                "under the Hessian the network itself would be trained again, which a linearised one is not; use "
                'curvature="ggn", or posterior.head, which is the linearised network'
            )
        start = None if self.move is None else self.move.value[:, 0]
        return type(self)(self.model.anew(), self._data_at(weights), centre=self.centre, start=start)

    @cached_property
    def system(self) -> NetworkSystem:
        return super().system if self.move is None else self._precision(self.probabilities)

    def _precision(self, probabilities: Tensor) -> NetworkSystem:
        """B where the softmax has given probabilities."""
        curvature = softmax_curvature(self._curvature, probabilities)
        return NetworkSystem(curvature, self.model.root, size=float(self._size()), start=self._start)

    def _newton_factor(self, probabilities: Tensor) -> Factor:
        factor = self.model.anew().solver.factor(self._precision(probabilities))
        if not isinstance(factor, FactoredLanczos):
            return factor
        return DeflatedCG(CG(tolerance=TIGHT), factor.system, factor.bracket)

    @cached_property
    def _curvature(self) -> Any:
        return self.model.curvature(self.data)

    @property
    def _weight(self) -> Tensor:
        return self.beta * self.data.train.weights.double()

    @property
    def eps(self) -> float:
        return super().eps + self.sway

    @property
    def parts(self) -> list[Any]:
        return super().parts if self.move is None else [*super().parts, self.centre]

    def _size(self) -> Tensor:
        # No eigenvalue of diag p - ppᵀ is above one half.
        return 0.5 * (self._weight[:, None] * self._lengths.square()).sum()

    @property
    def residuals(self) -> Certified:
        """`1[y = c] - p(c)` of every row and class, (n, C): the force on each output."""
        value = self.law.indicator(self.data.train.y) - self.probabilities
        off = self._off
        if self.move is not None:
            off = off + self._lengths * (self.change + self.eps * self.move.value.norm())
        return Certified(value, off.amax(dim=1, keepdim=True).expand_as(value) + self.eps)

    @property
    def _off(self) -> Tensor:
        """Rounding of the network's outputs, as if each of its parameters were rounded, (n, C)."""
        return self.eps * (self.outputs.abs() + self._lengths * self.origin_length)

    @property
    def _lengths(self) -> Tensor:
        return self.rows.lengths.reshape(-1, self.classes)

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
