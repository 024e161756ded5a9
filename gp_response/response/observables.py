"""The observables: value, loss, variance, contrast, average."""

import math
from collections.abc import Callable, Iterator
from copy import copy
from math import prod
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_tensor, shown
from gp_response.curvature.loss import IGNORED
from gp_response.data import Dataset, same_labels, with_places
from gp_response.errors import InputError
from gp_response.linalg.transforms import inside_transform
from gp_response.response.class_observables import ClassField, ClassLoss
from gp_response.response.expectations import RULES, Size, settled, sizes, smoothed, terms_of_slopes
from gp_response.response.observable import (
    ROUNDING,
    Derivatives,
    Marginals,
    Observable,
    as_labels,
    as_points,
    every_label,
    refuse_unlabelled,
)

TOGETHER = 256  # points whose functions are integrated at once by the finest rule


class Linear(Observable):
    """An observable that is linear in the marginals: its derivatives are the same everywhere, and its change subtracts nothing."""

    reads_variance = False

    def derivatives_after(self, at: Marginals, after: Marginals) -> Derivatives:
        return Derivatives(*(part[:, None] for part in self.derivatives(at)))

    def rounding_of_change(self, at: Marginals, after: Marginals) -> Tensor:
        return at.mean.new_zeros(())


class Value(Linear):
    """The field at each point, `f(x_a)`; see `value`."""

    def __init__(self, x: Any):
        self.points = as_points(x, "value")

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return mean

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return field

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        return by_mean

    def under(self, posterior: Any) -> Observable:
        asked, classes = every_label(self, posterior.data), getattr(posterior, "classes", None)
        if classes is None or asked.points.shape[1] > posterior.data.dim:  # which says the class itself
            return asked
        return ClassField(asked, classes)


class Loss(Observable):
    """The negative log likelihood of a label at each point; see `loss`."""

    reads_variance = False
    unit = "nat"

    def __init__(self, x: Any, y: Any, noise: Any = None):
        self.points = as_points(x, "loss")
        self.labels = as_labels(y, self.points, "loss")
        self.known = torch.zeros_like(self.labels) if noise is None else self._variances(noise)
        if self.known.shape not in (self.labels.shape, self.labels.shape[:1]):
            raise InputError(f"loss got noise of shape {tuple(self.known.shape)}; expected {tuple(self.labels.shape)}")
        if bool((self.known < 0).any()):
            raise InputError(f"loss got a noise variance of {float(self.known.min()):g}; expected 0 or more")

    def _variances(self, noise: Any) -> Tensor:
        """Of each label, or of each point; a number stands for all."""
        given = as_tensor(noise, "loss's noise", f"a variance or ({len(self.points)},) variances")
        return as_labels(given.expand(len(self.points)) if given.ndim == 0 else given, self.points, "loss's noise")

    def local_data(self) -> tuple[Tensor, ...]:
        return (self.labels, self.known)

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        label, known = data
        total = known.to(mean) + noise
        return 0.5 * ((2.0 * math.pi * total).log() + ((label - mean) ** 2 + variance) / total)

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        total = self._noise(at)
        return 0.5 * ((2.0 * math.pi * total).log() + (self.labels - field) ** 2 / total)

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        residual = (self.labels - at.mean)[:, None]
        return (by_mean * (by_mean - 2.0 * residual) + by_variance) / (2.0 * self._noise(at)[:, None])

    def derivatives_after(self, at: Marginals, after: Marginals) -> Derivatives:
        total = self._noise(after)[:, None]
        off, zero = (after.mean - self.labels[:, None]) / total, torch.zeros_like(total)
        return Derivatives(off, 0.5 / total, 1.0 / total, zero, zero)

    def rounding_of_change(self, at: Marginals, after: Marginals) -> Tensor:
        """`change` subtracts nothing; `change_by_noise` does."""
        if torch.equal(at.noise, after.noise):
            return at.mean.new_zeros(())
        square = (self.labels[:, None] - after.mean) ** 2 + after.variance.abs()
        each = [self._noise(one)[:, None] for one in (at, after)]
        sizes = [0.5 * ((2.0 * math.pi * total).log().abs() + square / total) for total in each]
        return ROUNDING * (sizes[0] + sizes[1])

    def _noise(self, at: Marginals) -> Tensor:
        return self.known.to(at.mean) + at.noise

    def under(self, posterior: Any) -> Observable:
        likelihood = posterior.likelihood
        asked = self.of_rows(posterior.data, likelihood is not None and likelihood.discrete)
        if likelihood is None:
            return asked
        if bool((asked.known > 0).any()):
            raise InputError(f"loss got noise variances, which {likelihood!r} has no use for; leave noise out")
        likelihood.check(asked.labels)
        if hasattr(posterior, "classes"):
            return ClassLoss(asked, posterior)
        return LikelihoodLoss(asked, likelihood)

    def of_rows(self, data: Dataset, discrete: bool) -> "Loss":
        """The same of a point for each label, where samples have several: a sum over them, but for those of -100."""
        whole = self.points.shape[1] == data.input_dim
        shape = data.label_shape if whole else ()
        if not same_labels(self.labels.shape[1:], shape):
            expected = (len(self.points), *shape)
            raise InputError(f"loss got labels of shape {tuple(self.labels.shape)}; expected {expected}")
        if not shape:
            return self
        found, each, flat = copy(self), prod(shape), self.labels.flatten()
        kept = torch.nonzero(flat != IGNORED).flatten() if discrete else torch.arange(len(flat), device=flat.device)
        refuse_unlabelled(kept // each, len(self.points), "loss")
        found.points, found.labels = with_places(self.points, shape)[kept], flat[kept]
        known = self.known if self.known.ndim > 1 else self.known.repeat_interleave(each)
        found.known = known.flatten()[kept]
        weights = torch.eye(len(self.points)) if self.weights is None else self.weights
        found.weights = weights.to(self.points)[:, kept // each]
        found.component = None if self.component is None else self.component[kept // each]
        return found


class LikelihoodLoss(Observable):
    """The loss `-log p(y | f)` under a likelihood that is not Gaussian."""

    unit = "nat"

    def __init__(self, loss: Loss, likelihood: Any):
        self.points, self.labels, self.likelihood, self.weights = loss.points, loss.labels, likelihood, loss.weights

    def local_data(self) -> tuple[Tensor, ...]:
        return (self.labels,)

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return self.likelihood.expected_loss(mean, variance, data[0].to(mean))

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return -self.likelihood.log_prob(field, self.labels.to(field))

    kind = "loss"


class Variance(Linear):
    """The variance of the field at each point; see `variance`."""

    unit = "y^2"

    def __init__(self, x: Any):
        self.points = as_points(x, "variance")

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return variance

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return (field - at.mean) ** 2

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        return by_variance


class Contrast(Value):
    """Differences of the field, `f(x_a) - f(x'_a)`; see `contrast`."""

    def __init__(self, x: Any, other: Any):
        x, other = as_points(x, "contrast"), as_points(other, "contrast")
        if x.shape != other.shape:
            raise InputError(
                f"contrast got points of shapes {tuple(x.shape)} and {tuple(other.shape)}; expected equal shapes"
            )
        one = torch.eye(len(x), dtype=x.dtype, device=x.device)
        self.points, self.weights = torch.cat([x, other.to(x)]), torch.cat([one, -one], dim=1)


class Gradient(Value):
    """The slopes of the field at each point along each column of its inputs, `∂f/∂x_j(x_a)`; see `gradient`."""

    unit = "y per unit of x"

    def __init__(self, x: Any):
        x = as_points(x, "gradient")
        p, d = x.shape
        self.points = x.repeat_interleave(d, dim=0)
        self.direction = torch.eye(d, dtype=x.dtype, device=x.device).repeat(p, 1)

    def names(self) -> list[str]:
        d = self.points.shape[1]
        return [f"gradient[{k // d},{k % d}]" for k in range(len(self.points))]

    def under(self, posterior: Any) -> Observable:
        return Observable.under(self, posterior)


class Average(Value):
    """A weighted mean of the field over points; see `average`."""

    def __init__(self, x: Any, weights: Any = None):
        self.points = as_points(x, "average")
        given = torch.ones(len(self.points))
        if weights is not None:
            given = as_tensor(weights, "average's weights", f"({len(self.points)},) numbers")
        given = given.to(self.points)
        if given.shape != self.points.shape[:1] or not bool(torch.isfinite(given).all()):
            raise InputError(
                f"average got weights of shape {tuple(given.shape)}; expected ({len(self.points)},) finite numbers"
            )
        # Unweighted, the mean over the points; weights are taken as they are, so that an integral keeps its measure.
        self.weights = (given / len(given) if weights is None else given)[None]


class Pointwise(Observable):
    """A function of the field at each point; see `pointwise`."""

    unit = "of the function"

    def __init__(self, x: Any, function: Callable[[Tensor], Tensor]):
        self.points = as_points(x, "pointwise")
        if not callable(function):
            raise InputError(f"pointwise got {shown(function)}; expected an elementwise function such as torch.sigmoid")
        probe = function(torch.linspace(-1.0, 1.0, 5, dtype=torch.float64))
        if not isinstance(probe, Tensor) or probe.shape != (5,) or not probe.is_floating_point():
            raise InputError("pointwise got a function that is not elementwise; expected tensors (n,) -> (n,)")
        self.function = function

    def local(self, mean: Tensor, variance: Tensor, noise: Tensor, *data: Tensor) -> Tensor:
        return smoothed(self.function, mean, variance, RULES[-1])

    def functional(self, field: Tensor, at: Marginals) -> Tensor:
        return self.function(field)

    def expectation(self, at: Marginals) -> Tensor:
        if not inside_transform():
            settled(self.function, at.mean, at.variance)
        return super().expectation(at)

    def require_smooth(self, at: Marginals) -> None:
        settled(self.function, at.mean, at.variance)

    def derivatives(self, at: Marginals, where: Tensor | None = None) -> Derivatives:
        self.require_smooth(at)
        parts = zip(at.mean.split(TOGETHER), at.variance.split(TOGETHER), strict=True)
        found = [super(Pointwise, self).derivatives(Marginals(*part, at.noise)) for part in parts]
        return Derivatives(*(torch.cat(part) for part in zip(*found, strict=True)))

    def change(self, at: Marginals, by_mean: Tensor, by_variance: Tensor) -> Tensor:
        """By the coarsest rule that is exact where the field was and where it goes farthest."""
        mean, variance = at.mean[:, None] + by_mean, at.variance[:, None] + by_variance
        count = self._rule(at, mean, variance)
        old = smoothed(self.function, at.mean, at.variance, count)[:, None]
        pairs = self._parts(count, mean, variance)
        return torch.cat([smoothed(self.function, m, v, count) for m, v in pairs], dim=1) - old

    def rounding_of_derivatives(self, at: Marginals) -> tuple[Tensor, Tensor]:
        parts = zip(at.mean.split(TOGETHER), at.variance.split(TOGETHER), strict=True)
        found = [terms_of_slopes(self.function, *part) for part in parts]
        by_mean, by_variance = (ROUNDING * torch.cat(part) for part in zip(*found, strict=True))
        return by_mean, by_variance

    def derivatives_after(self, at: Marginals, after: Marginals) -> Derivatives:
        return Derivatives(*self._sizes(at, after)[1:])

    def rounding_of_change(self, at: Marginals, after: Marginals) -> Tensor:
        """Of the function's values, and of its arguments."""
        still = Marginals(at.mean[:, None], at.variance[:, None], at.noise)
        here, there = self._sizes(at, still), self._sizes(at, after)
        arguments = here.mean.abs() * still.mean.abs() + there.mean.abs() * after.mean.abs()
        return ROUNDING * (here.absolute + there.absolute + arguments)

    def _rule(self, at: Marginals, mean: Tensor, variance: Tensor) -> int:
        row = torch.arange(len(mean), device=mean.device)
        far = [
            (part - old[:, None]).abs().argmax(dim=1)
            for part, old in ((mean, at.mean), (variance, at.variance))
        ]  # fmt: skip
        return settled(
            self.function,
            torch.cat([at.mean, *(mean[row, c] for c in far)]),
            torch.cat([at.variance, *(variance[row, c] for c in far)]),
        )

    def _sizes(self, at: Marginals, after: Marginals) -> Size:
        count = self._rule(at, after.mean, after.variance)
        scale = after.mean.abs() + at.mean.abs()[:, None] + torch.maximum(after.variance, at.variance[:, None]).sqrt()
        parts = self._parts(count, after.mean, after.variance, scale)
        found = [sizes(self.function, m, v, s, count) for m, v, s in parts]
        return Size(*(torch.cat(part, dim=1) for part in zip(*found, strict=True)))

    def _parts(self, count: int, *each: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Columns of tensors (p, c), as many as are integrated at once."""
        step = max(1, TOGETHER * RULES[-1] // (count * len(each[0])))
        return zip(*(part.split(step, dim=1) for part in each), strict=True)


def value(x: Any) -> Value:
    """The prediction `f(x_a)`: one observable a point of x (p, d). Unit: that of `data.train.y`."""
    return Value(x)


def loss(x: Any, y: Any, *, noise: Any = None) -> Loss:
    """The negative log likelihood of labels y (p,) at x (p, d), in nats: `½ log 2πσ² + (y_a - f(x_a))²/2σ²` for Gaussian
    noise, `-log p(y_a | f(x_a))` for a posterior with another likelihood.

    noise: known variances of these labels, (p,) or one for all, which come on top of the model's σ²; None: none. A model of known
    noise alone (σ² = 0) needs them: without, the loss is infinite.

    Where samples have several labels y is (p, *label_shape), and the loss of a sample is the sum over them; -100 is none, where
    labels are classes or counts, so that a row of all -100 but one is the loss of a single token.
    """
    return Loss(x, y, noise)


def variance(x: Any) -> Variance:
    """The variance of the field `⟨(f(x_a) - ⟨f(x_a)⟩)²⟩` at x (p, d), noise excluded. Unit: that of y squared."""
    return Variance(x)


def contrast(x: Any, other: Any) -> Contrast:
    """The difference `f(x_a) - f(x'_a)` of the field between x (p, d) and other (p, d), pair by pair."""
    return Contrast(x, other)


def gradient(x: Any) -> Gradient:
    """The input gradient `∂f/∂x_j` at x (p, d): p·d observables, point by point, in the units of `data.train.x`.

    The field needs a slope: Matérn-1/2 has none, and asking for it is refused.
    """
    return Gradient(x)


def average(x: Any, weights: Any = None) -> Average:
    """`Σ_a w_a f(x_a)`, one observable. weights (p,) are used as given; None takes the mean (w = 1/p)."""
    return Average(x, weights)


def pointwise(x: Any, function: Callable[[Tensor], Tensor]) -> Pointwise:
    """`⟨g(f(x_a))⟩` of an elementwise, smooth g at x (p, d), by a rule of up to 2,048 nodes; e.g. `torch.sigmoid`.

    A function with a step or a kink where the field may be, or one steeper than the rule resolves, is refused once the field's
    spread is known: its derivatives by automatic differentiation are then not those of its expectation.
    """
    return Pointwise(x, function)


__all__ = [
    "Average", "Contrast", "Gradient", "LikelihoodLoss", "Loss", "Pointwise", "Value", "Variance",
    "average", "contrast", "gradient", "loss", "pointwise", "value", "variance",
]  # fmt: skip
