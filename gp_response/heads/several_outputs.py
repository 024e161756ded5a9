"""Posteriors of several outputs a sample, read through points that carry the place of one in their last columns.

With that a place is a column like any other, and everything that reads a posterior through probes reads these.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import with_places
from gp_response.errors import InputError
from gp_response.linalg.transforms import inside_transform
from gp_response.posterior import Posterior


class SeveralOutputs(Posterior):
    """A field for each output of a sample: `mean(x)` is (n, *axes), `variance(x)` too, and `cov(x, y)` (n, *axes, m, *axes)."""

    @property
    def axes(self) -> tuple[int, ...]:
        """Shape of a sample's outputs."""
        return self.data.label_shape

    @property
    def places(self) -> tuple[str, ...]:
        """What the columns of a place are called, one for each axis."""
        return self.data.names[self.data.input_dim :]

    def points(self, x: Any) -> Tensor:
        """x as (p, d + q) points, the place of an output last."""
        like, d, q = self.data.train.x, self.data.input_dim, len(self.axes)
        x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
        what = " and the ".join(self.places)
        if x.ndim != 2 or x.shape[1] != d + q:
            raise InputError(f"points of shape {tuple(x.shape)}; expected (n, {d + q}): {d} columns and the {what}")
        at, most = x[:, d:], torch.tensor(self.axes, dtype=x.dtype, device=x.device)
        if not inside_transform() and not bool(((at == at.round()) & (at >= 0) & (at < most)).all()):
            last = " and ".join(str(size - 1) for size in self.axes)
            raise InputError(f"points whose last columns are no {what}; expected 0 to {last}")
        return x

    def every(self, x: Any) -> Tensor:
        """Inputs x (n, d) once for each output, as points."""
        like, d = self.data.train.x, self.data.input_dim
        x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
        if x.ndim != 2 or x.shape[1] != d:
            raise InputError(f"points of shape {tuple(x.shape)}; expected (n, {d})")
        return with_places(x, self.axes)

    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean of every output at x (n, d), (n, *axes)."""
        return self._like(self.mean_of(self.look(self.every(x))).value.reshape(-1, *self.axes))

    def variance(self, x: Tensor) -> Tensor:
        """Predictive variance of every output at x (n, d), (n, *axes)."""
        found = torch.cat([self.probe(part).variance.value for part in self.every(x).split(self._step())])
        return self._like(found.reshape(-1, *self.axes))

    def cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Covariance of the outputs that responds to data, (n, *axes, m, *axes)."""
        left = self.probe(self.every(x))
        right = left if y is None else self.probe(self.every(y))
        return self._like(left.to(right).value.reshape(-1, *self.axes, len(x if y is None else y), *self.axes))


__all__ = ["SeveralOutputs"]
