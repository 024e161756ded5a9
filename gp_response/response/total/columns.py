"""From gradients by the training tensors to derivatives by the columns of a perturbation, and the same for observables."""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.total.objective import MOVABLE, Along, Marginal


class Columns:
    """c amplitudes of a perturbation at zero, and what they move.

    Attributes:
        data: the training rows at h = 0 as the perturbation leaves them; new rows have weight zero.
        moved: names of the training tensors that h moves.
    """

    def __init__(self, perturbation: Perturbation, data: Dataset):
        count = len(perturbation.columns(data))
        self.amplitude = torch.zeros(count, dtype=torch.float64, device=data.train.x.device, requires_grad=True)
        with torch.enable_grad():
            self.data = perturbation.apply(data, self.amplitude)
        tensors = {name: getattr(self.data.train, name) for name in MOVABLE}
        self.tensors = {name: t for name, t in tensors.items() if t is not None and t.requires_grad}
        self.moved = tuple(self.tensors)
        if not self.moved:
            raise InputError(
                f"{perturbation.kind} moves nothing of the training rows (x, y, weights, noise), so hyperparameters have "
                "nothing to respond to; use gr.susceptibility"
            )

    def pull(self, cotangents: dict[str, Tensor]) -> Tensor:
        """Derivatives by every column, (c,), of what has these gradients by the training tensors."""
        found = torch.autograd.grad(
            list(self.tensors.values()), self.amplitude, [cotangents[name] for name in self.moved], retain_graph=True
        )
        return found[0]


class Read:
    """What an observable reads of the field: slopes of its local expectations by mean, variance and σ², (p,) each."""

    def __init__(self, observable: Observable, at: Marginal):
        self.observable = observable
        with torch.enable_grad():
            parts = [part.detach().clone().requires_grad_(True) for part in (*at[:2], at.noise.expand_as(at.mean))]
            local = observable.local(*parts, *observable.local_data())
            found = torch.autograd.grad(local.sum(), parts, allow_unused=True)
        self.slopes = [torch.zeros_like(at.mean) if slope is None else slope for slope in found]

    def along(self, along: Along) -> Tensor:
        """Derivatives of the m observables along a direction, (m,)."""
        by_mean, by_variance, by_noise = self.slopes
        return self.observable.collect(by_mean * along.mean + by_variance * along.variance + by_noise * along.noise)

    def __len__(self) -> int:
        return len(self.slopes[0]) if self.observable.weights is None else len(self.observable.weights)

    def cotangent(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """By mean (p,), variance (p,) and σ² (0-dim) of observable k."""
        weights: Any = self.observable.weights
        one = torch.zeros_like(self.slopes[0])
        if weights is None:
            one[k] = 1.0
        else:
            one = weights[k].to(one)
        by_mean, by_variance, by_noise = (one * slope for slope in self.slopes)
        return by_mean, by_variance, by_noise.sum()


__all__ = ["Columns", "Read"]
