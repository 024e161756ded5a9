"""What is asked of the field: an `Observable` is a weighted sum of local functionals of the field at points."""

import itertools
from abc import ABC, abstractmethod
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, vmap

from gp_response.arguments import as_tensor
from gp_response.data import Dataset, with_places
from gp_response.errors import InputError
from gp_response.kernels.look import Look

ROUNDING = 32.0 * torch.finfo(torch.float64).eps  # of a function of a few operations, relative to its value


class Marginals(NamedTuple):
    """The field at p points: mean (p,), variance (p,), and the model's noise variance σ² (0-dim)."""

    mean: Tensor
    variance: Tensor
    noise: Tensor


class Observable(ABC):
    """m functionals `O_k[f] = Σ_a weights[k, a] · functional(f_a)` read at p points.

    A subclass gives `local`, the posterior expectation of the functional in closed form, and `functional`, the
    functional itself, by which `gp_response.testing.check_observable` proves the first. Derivatives of `local` are taken
    by automatic differentiation.

    Attributes:
        points: (p, d).
        direction: (p, d), where the functional is of the field's slope along it; None: of its value.
        component: (p,) long, where it is of a term of an additive field; None: of the field.
        weights: (m, p), or None for one functional a point (m = p).
        reads_variance: derivatives of `local` depend on the variance; where they do not, it need not be known.
        unit: unit of the expectation, in terms of the target's unit y.
    """

    points: Tensor
    direction: Tensor | None = None
    component: Tensor | None = None
    weights: Tensor | None = None
    reads_variance: bool = True
    unit: str = "y"

    @abstractmethod
    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        """⟨functional⟩ under N(mean, variance), elementwise. `data` are the per-point tensors of `local_data`."""

    @abstractmethod
    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        """The functional of field values (s, p) → (s, p)."""

    def local_data(self) -> tuple[Tensor, ...]:
        """Per-point tensors (p,) that `local` needs beside the marginals, such as labels."""
        return ()

    def under(self, posterior: Any) -> "Observable":
        """The same observable as a posterior's likelihood makes it."""
        if hasattr(posterior, "classes"):
            raise InputError(
                f"{type(self).__name__.lower()} cannot be asked of several classes; use value, contrast, average or loss"
            )
        return every_label(self, posterior.data)

    def look(self) -> Look:
        """What is read of the field."""
        return Look(self.points, self.direction, self.component)

    def resolved(self, kernel: Any) -> "Observable":
        """The same observable once the kernel is known."""
        return self

    @property
    def kind(self) -> str:
        """Short name, kept with every result."""
        return type(self).__name__.lower()

    def names(self) -> list[str]:
        m = len(self.points) if self.weights is None else len(self.weights)
        return [f"{self.kind}[{k}]" for k in range(m)]

    def expectation(self, at: Marginals) -> Tensor:
        """⟨O⟩, (m,)."""
        return self.collect(self.local(at.mean, at.variance, at.noise, *self.local_data()))

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        """Exact change of ⟨functional⟩ (p, c) for finite changes (p, c) of the marginals, before `collect`.

        Override where the difference can be written without subtracting nearly equal numbers.
        """
        data = tuple(t[:, None] for t in self.local_data())
        old = self.local(at.mean[:, None], at.variance[:, None], at.noise, *data)
        return self.local(at.mean[:, None] + by_mean, at.variance[:, None] + by_variance, at.noise, *data) - old

    def change_by_noise(self, after: Marginals, noise: Tensor) -> Tensor:
        """What ⟨functional⟩ changes by, (p, c), where σ² does after the marginals (p, c) have."""
        data = tuple(t[:, None] for t in self.local_data())
        old = self.local(after.mean, after.variance, after.noise, *data)
        return self.local(after.mean, after.variance, noise, *data) - old

    def collect(self, local: Tensor) -> Tensor:
        """Sum local values (p, …) into observables (m, …)."""
        return local if self.weights is None else self.weights.to(local) @ local

    def collect_error(self, local: Tensor) -> Tensor:
        """Sum absolute errors (p, …) into bounds (m, …)."""
        return local if self.weights is None else self.weights.abs().to(local) @ local

    def derivatives(self, at: Marginals, where: Tensor | None = None) -> "Derivatives":
        """First and second derivatives of `local` by mean and variance at every point, each (p,).

        where: indices (q,) of the points that `at` (q,) belongs to; None for all of them.
        """
        data = self.local_data() if where is None else tuple(t[where] for t in self.local_data())

        def one(pair: Tensor, *rest: Tensor) -> Tensor:
            return self.local(pair[0], pair[1], at.noise, *rest)

        pairs = torch.stack([at.mean, at.variance], dim=1)
        first = vmap(grad(one))(pairs, *data)
        second = vmap(torch.func.jacfwd(grad(one)))(pairs, *data)
        return Derivatives(first[:, 0], first[:, 1], second[:, 0, 0], second[:, 0, 1], second[:, 1, 1])

    def rounding_of_derivatives(self, at: Marginals) -> tuple[Tensor, Tensor] | None:
        """What first derivatives by mean and variance may lose as sums of terms of either sign, (p,) each; None: nothing."""
        return None

    def derivatives_after(self, at: Marginals, after: Marginals) -> "Derivatives":
        """The same where the field has gone from `at` (p,) to `after` (p, c), each (p, c), or (p, 1) where all columns agree."""
        where = torch.arange(len(at.mean), device=at.mean.device).repeat_interleave(after.mean.shape[1])
        flat = Marginals(after.mean.flatten(), after.variance.flatten(), after.noise)
        return Derivatives(*(part.reshape(after.mean.shape) for part in self.derivatives(flat, where)))

    def rounding_of_change(self, at: Marginals, after: Marginals) -> Tensor:
        """What `change` and `change_by_noise` may lose by subtracting nearly equal numbers, (p, c) or 0-dim."""
        data = tuple(t[:, None] for t in self.local_data())
        old = self.local(at.mean[:, None], at.variance[:, None], at.noise, *data)
        return ROUNDING * (old.abs() + self.local(*after, *data).abs())

    def require_smooth(self, at: Marginals) -> None:  # noqa: B027 - most observables are smooth everywhere
        """Refuse points at which derivatives of `local` by automatic differentiation are not those of the expectation."""

    def noise_slope(self, at: Marginals, where: Tensor | None = None) -> Tensor:
        """∂/∂σ² of `local` at fixed marginals, and the derivatives of that by mean and variance, (3, p)."""
        data = self.local_data() if where is None else tuple(t[where] for t in self.local_data())

        def slope(pair: Tensor, *rest: Tensor) -> Tensor:
            return grad(lambda noise: self.local(pair[0], pair[1], noise, *rest))(at.noise)

        pairs = torch.stack([at.mean, at.variance], dim=1)
        bend = vmap(grad(slope))(pairs, *data)
        return torch.stack([vmap(slope)(pairs, *data), bend[:, 0], bend[:, 1]])


class EveryLabel(Observable):
    """An observable asked of every label of a sample: observables (m Q), a place after the other.

    Args:
        asked: at p inputs.
        data: with several labels a sample.
    """

    def __init__(self, asked: Observable, data: Dataset):
        shape, places = data.label_shape, data.names[data.input_dim :]
        self.asked, self.unit, self.each = asked, asked.unit, prod(shape)
        self.reads_variance = asked.reads_variance
        self.points = with_places(asked.points, shape)
        if asked.direction is not None:
            still = torch.nn.functional.pad(asked.direction, (0, len(shape)))
            self.direction = still.repeat_interleave(self.each, dim=0)
        if asked.component is not None:
            self.component = asked.component.repeat_interleave(self.each)
        if asked.weights is not None:
            eye = torch.eye(self.each, dtype=asked.weights.dtype, device=asked.weights.device)
            self.weights = torch.kron(asked.weights, eye)
        every = itertools.product(*(range(size) for size in shape))
        self.places = [", ".join(f"{name} {k}" for name, k in zip(places, place, strict=True)) for place in every]

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return self.asked.local(mean, variance, noise, *data)

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return self.asked.functional(field, at)

    def local_data(self) -> tuple[Tensor, ...]:
        return tuple(part.repeat_interleave(self.each, dim=0) for part in self.asked.local_data())

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        if self.asked.local_data():  # which are those of p inputs
            return super().change(at, by_mean, by_variance)
        return self.asked.change(at, by_mean, by_variance)

    def derivatives(self, at: Marginals, where: Tensor | None = None) -> "Derivatives":
        return super().derivatives(at, where) if self.asked.local_data() else self.asked.derivatives(at)

    def rounding_of_derivatives(self, at: Marginals) -> tuple[Tensor, Tensor] | None:
        return self.asked.rounding_of_derivatives(at)

    def derivatives_after(self, at: Marginals, after: Marginals) -> "Derivatives":
        if self.asked.local_data():
            return super().derivatives_after(at, after)
        return self.asked.derivatives_after(at, after)

    def rounding_of_change(self, at: Marginals, after: Marginals) -> Tensor:
        if self.asked.local_data():
            return super().rounding_of_change(at, after)
        return self.asked.rounding_of_change(at, after)

    def require_smooth(self, at: Marginals) -> None:
        self.asked.require_smooth(at)

    @property
    def kind(self) -> str:
        return self.asked.kind

    def names(self) -> list[str]:
        return [f"{name}, {place}" for name in self.asked.names() for place in self.places]


def every_label(asked: Observable, data: Any) -> Observable:
    """An observable at inputs (p, d) asked of every label of samples that have several; at points that say which, as it is."""
    if not data.label_shape or asked.points.shape[1] != data.input_dim:
        return asked
    return EveryLabel(asked, data)


class Derivatives(NamedTuple):
    """∂/∂μ, ∂/∂s, ∂²/∂μ², ∂²/∂μ∂s, ∂²/∂s² of a local expectation, s the variance; each (p,)."""

    mean: Tensor
    variance: Tensor
    mean_mean: Tensor
    mean_variance: Tensor
    variance_variance: Tensor


def as_points(x: Any, what: str) -> Tensor:
    """x as a finite (p, d) floating tensor, or a clear error."""
    x = as_tensor(x, what, "points (p, d), an array of numbers")
    x = x if x.is_floating_point() else x.double()
    if x.ndim != 2 or not x.shape[0]:
        raise InputError(f"{what} got points of shape {tuple(x.shape)}; expected (p, d) with p of at least 1")
    if not bool(torch.isfinite(x).all()):
        row, column = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise InputError(f"{what} got {float(x[row, column])} at point {row}, column {column}; expected finite numbers")
    return x


def as_labels(y: Any, points: Tensor, what: str) -> Tensor:
    """y as a finite (p, ...) tensor like the points, or a clear error."""
    y = as_tensor(y, what, f"labels ({len(points)},), an array of numbers").to(points)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim < 1 or len(y) != len(points):
        raise InputError(
            f"{what} got labels of shape {tuple(y.shape)} for {len(points)} points; expected ({len(points)},)"
        )
    if not bool(torch.isfinite(y).all()):
        raise InputError(f"{what} got a label that is NaN or inf at point {int(torch.nonzero(~torch.isfinite(y))[0])}")
    return y


def refuse_unlabelled(labelled: Tensor, count: int, what: str) -> None:
    """Refuse samples, of `count`, that are not among those of a label (s,)."""
    lacking = sorted(set(range(count)) - set(labelled.tolist()))
    if lacking:
        raise InputError(f"{what} got sample {lacking[0]} without a label; leave it out")


__all__ = [
    "Derivatives", "EveryLabel", "Marginals", "Observable", "as_labels", "as_points", "every_label", "refuse_unlabelled",
]  # fmt: skip
