"""Posteriors of several classes, read through points that carry one: (x, c), the class as a last column."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from gp_response.data import with_places
from gp_response.errors import InputError
from gp_response.heads.several_outputs import SeveralOutputs
from gp_response.heads.sites import Pull
from gp_response.likelihoods import Categorical
from gp_response.posterior import Posterior


class SeveralClasses(SeveralOutputs):
    """C fields that meet in the softmax, of every row of data: a sample, or a token of one.

    Attributes:
        law: the likelihood.
        probabilities: of the training rows' classes at the mode, (n, C).
        change: how far from the mode the fields may be.
    """

    conjugate = False
    coupling = None  # the mode knows nothing of variances, and only means are read
    law: Categorical
    probabilities: Tensor
    change: float

    @abstractmethod
    def blocks(self, probe: Any) -> Tensor:
        """The C x C predictive covariance of each point's fields, (p / C, C, C), at points made by `every_class`."""

    @property
    def classes(self) -> int:
        return self.law.classes

    @property
    def likelihood(self) -> Categorical:
        return self.law

    @property
    def axes(self) -> tuple[int, ...]:
        return (*self.data.label_shape, self.classes)

    @property
    def places(self) -> tuple[str, ...]:
        return (*super().places, "class")

    def every_class(self, x: Any) -> Tensor:
        """Rows x (n, d) as data have them once for each class, (n C, d + 1)."""
        return with_places(Posterior.points(self, x), (self.classes,))

    def predictive(self, x: Tensor, *, samples: int = 4000, seed: int = 0) -> Tensor:
        """Probabilities of the classes at x (n, d), (n, *axes), averaged over draws of the fields at each point."""
        c, found = self.classes, []
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(samples, c, generator=generator, dtype=torch.float64).to(self.data.train.x.device)
        for part in self.every(x).split(256 * c):
            probe = self.probe(part)
            within = self.blocks(probe)
            root = torch.linalg.cholesky(within + 1e-12 * torch.eye(c).to(within))
            draws = probe.mean.value.reshape(-1, 1, c) + noise @ root.mT
            found.append(torch.softmax(draws, dim=-1).mean(dim=1))
        return self._like(torch.cat(found).reshape(-1, *self.axes))

    def row_pull(self) -> Pull:
        """Force (n, C) and curvature's diagonal (n, C) of one unit of weight."""
        return Pull(self.residuals.value, self.probabilities * (1.0 - self.probabilities))

    def label_pull(self) -> Pull:
        raise InputError("relabel moves labels by a little, which classes cannot; use delete and insert")

    def new_pull(self, x: Tensor, y: Tensor) -> tuple[Pull, Tensor]:
        """The sites that labels y would be at new points x (k, d), class by class, and the fields there: (k C,) each."""
        field = self.mean_of(self.look(self.every_class(x))).value
        p = torch.softmax(field.reshape(-1, self.classes), dim=-1)
        force, curvature = self.law.indicator(y) - p, p * (1.0 - p)
        return Pull(force.reshape(-1), curvature.reshape(-1)), field


__all__ = ["SeveralClasses"]
