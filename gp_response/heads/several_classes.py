"""Posteriors of several classes, read through points that carry one: (x, c), the class as a last column.

With that a class is a column like any other, and everything that reads a posterior through probes reads these.
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.class_points import with_classes
from gp_response.heads.sites import Pull
from gp_response.likelihoods import Categorical
from gp_response.linalg.transforms import inside_transform
from gp_response.posterior import Posterior


class SeveralClasses(Posterior):
    """C fields that meet in the softmax.

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

    def points(self, x: Any) -> Tensor:
        """x as (p, d + 1) points, the class last."""
        like, width = self.data.train.x, self.data.dim + 1
        x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
        if x.ndim != 2 or x.shape[1] != width:
            raise InputError(
                f"points of shape {tuple(x.shape)}; expected (n, {width}): {width - 1} columns and the class"
            )
        c = x[:, -1]
        if not inside_transform() and not bool(((c == c.round()) & (c >= 0) & (c < self.classes)).all()):
            raise InputError(f"points whose last column is no class; expected 0 to {self.classes - 1}")
        return x

    def every_class(self, x: Any) -> Tensor:
        """Points x (n, d) once for each class, (n C, d + 1)."""
        return with_classes(super().points(x), self.classes)

    def mean(self, x: Tensor) -> Tensor:
        """The mode of every field at x (n, d), (n, C)."""
        return self._like(self.mean_of(self.look(self.every_class(x))).value.reshape(-1, self.classes))

    def variance(self, x: Tensor) -> Tensor:
        """Predictive variances of the fields at x (n, d), (n, C)."""
        return self._like(self.probe(self.every_class(x)).variance.value.reshape(-1, self.classes))

    def cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Covariance of the fields that responds to data, (n, C, m, C)."""
        left = self.probe(self.every_class(x))
        right = left if y is None else self.probe(self.every_class(y))
        c = self.classes
        return self._like(left.to(right).value.reshape(len(left.points) // c, c, len(right.points) // c, c))

    def predictive(self, x: Tensor, *, samples: int = 4000, seed: int = 0) -> Tensor:
        """Probabilities of the classes at x (n, d), (n, C), averaged over draws of the fields at each point."""
        c, found = self.classes, []
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(samples, c, generator=generator, dtype=torch.float64).to(self.data.train.x.device)
        for part in super().points(x).split(256):
            probe = self.probe(with_classes(part, c))
            within = self.blocks(probe)
            root = torch.linalg.cholesky(within + 1e-12 * torch.eye(c).to(within))
            draws = probe.mean.value.reshape(-1, 1, c) + noise @ root.mT
            found.append(torch.softmax(draws, dim=-1).mean(dim=1))
        return self._like(torch.cat(found))

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
