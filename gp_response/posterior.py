"""The waist: what every model gives and every response reads — a Gaussian field with error bounds.

A `Probe` is a posterior looked at from a set of points. It holds the one solve per point from which the mean, the
variance and the covariance to all training rows and to any other probe follow, each with a bound on its error.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gp_response.arguments import as_tensor
from gp_response.data import Dataset, row_noise
from gp_response.errors import InputError
from gp_response.kernels.look import Look
from gp_response.linalg.blocks import block_size, byte_budget, point_bytes
from gp_response.linalg.inverse_diagonal import Enclosure


class Certified(NamedTuple):
    """A value and an absolute bound on the error of each of its entries."""

    value: Tensor
    error: Tensor

    @classmethod
    def stacked(cls, parts: "Sequence[Certified]", dim: int = -1) -> "Certified":
        """Side by side along a new dimension."""
        return cls(*(torch.stack(part, dim=dim) for part in zip(*parts, strict=True)))

    @classmethod
    def joined(cls, parts: "Sequence[Certified]") -> "Certified":
        """One after the other along the last dimension."""
        return cls(*(torch.cat(part, dim=-1) for part in zip(*parts, strict=True)))

    @classmethod
    def summed(cls, parts: "Sequence[Certified]") -> "Certified":
        """The sum, and that of the bounds."""
        return cls(*(reduce(torch.add, part) for part in zip(*parts, strict=True)))


def rounded(certified: Certified, dtype: torch.dtype) -> Certified:
    """In another precision, with what that rounds off added to the bound, which is itself rounded up."""
    value, error = certified
    if value.dtype == dtype:
        return certified
    short = value.to(dtype)
    bound = (error + (short.to(value) - value).abs()).to(dtype)
    return Certified(short, torch.nextafter(bound, torch.full_like(bound, float("inf"))))


class Probe(ABC):
    """A posterior seen from p points, in float64 whatever the precision of the data.

    Attributes:
        look: what is read there, the field's value or its slope; `points` (p, d) says where.
        mean: certified mean of the reading, (p,).
        variance: certified variance of it, (p,).
        converged: bool (p,), whether each point's solve reached its tolerance.
    """

    posterior: Any
    look: Look
    mean: Certified
    variance: Certified
    converged: Tensor

    @property
    def points(self) -> Tensor:
        return self.look.points

    @property
    def responding(self) -> Certified:
        """The part of the variance that responds to data, `S_aa`, (p,): all of it for a head that leaves nothing out."""
        return self.variance

    @abstractmethod
    def to_train(self, rows: Tensor | None = None) -> Certified:
        """Covariance with the training rows asked for (all when None), (p, k)."""

    @abstractmethod
    def to(self, other: Any) -> Certified:
        """Covariance of what responds with another probe's points, (p, q)."""

    def toward(self, look: Look) -> Certified:
        """The same with readings that need not be solved for, (p, q): cheaper than `to` where q is large, its bound wider."""
        return self.to(self.posterior.probe(look))

    def predictive_to(self, other: Any) -> Certified:
        """The same with what an approximate head leaves out, whose diagonal is `variance`."""
        return self.to(other)


class Posterior(ABC):
    """A Gaussian field conditioned on data.

    Attributes:
        data: the `Dataset` conditioned on.
        noise: observation noise variance σ², 0-dim, float64: what a new row would have. See `row_noise`. NaN where the
            likelihood is not Gaussian; observations are then predicted by `likelihood.predictive(mean, variance)`.
        beta: inverse temperature of the Gibbs measure `p₀(f) exp(-β Σ ρ_i ℓ_i)`.
        solver: the solver that was used, with its tolerances.
        head: what conditions such a posterior again, where it came from a model or network trained elsewhere; else None.
        rows_alone: why data can change at the training rows alone, in their labels, weights and noise; None: they can anywhere.
    """

    operations: ClassVar[dict[str, Callable[..., Any]]] = {}  # "botorch": filled by its module, further up

    reads_double: ClassVar[bool] = False  # whether float64 points are read as they are, whatever the data's precision

    data: Dataset
    noise: Tensor
    beta: float
    solver: Any
    head: Any = None
    rows_alone: str | None = None

    @property
    def row_noise(self) -> Tensor:
        """Variances of the training observations, (n,): known noise plus σ². 0-dim, σ², where the data know of none.

        Raises:
            InputError: the likelihood is not Gaussian.
        """
        if not self.conjugate:
            raise InputError(
                f"observations under {self.likelihood!r} have no noise variance; use "
                "posterior.likelihood.predictive(mean, variance)"
            )
        return row_noise(self.data, self.noise)

    @abstractmethod
    def probe(self, x: Tensor | Look) -> Probe:
        """Look at the field from points x (p, d), or as a `Look` says; one solve per point."""

    def row_probe(self, rows: Tensor) -> Probe:
        """Look from training rows (k,) as the data see the field there."""
        return self.probe(self.data.train.x[rows])

    def from_rows(self, rows: Tensor) -> Any:
        """What sees any readings from training rows (k,) by a solve for each row and none for the readings.

        Returns:
            an object with `toward(look)`, as of a probe, and `converged` (k,); None where there is none, or where it costs no less.
        """
        return None

    def mean_of(self, look: Look) -> Certified:
        """Means of readings, (p,), where a head can without a solve for each."""
        return self.probe(look).mean

    @abstractmethod
    def prior_cov(self, x: Tensor, y: Tensor) -> Tensor:
        """Covariance of the field before the data, (n, m)."""

    @property
    @abstractmethod
    def residuals(self) -> Certified:
        """`y_i - ⟨f_i⟩` of the training rows, (n,), without subtracting nearly equal numbers."""

    def mean(self, x: Tensor) -> Tensor:
        """Posterior mean at x (n, d), shape (n,), in the units of `data.train.y`. With error bounds: `gr.predict`."""
        return self._like(torch.cat([probe.mean.value for probe in self._probes(x)]))

    def variance(self, x: Tensor) -> Tensor:
        """Predictive variance of the field (noise excluded) at x (n, d), shape (n,): the diagonal of `predictive_cov`."""
        return self._like(torch.cat([probe.variance.value for probe in self._probes(x)]))

    def cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Covariance of the field that responds to data, between x (n, d) and y (m, d), shape (n, m); y = x when None.

        An approximate head may leave out some of the field's variance; see `left_out`.
        """
        left = self.probe(self.points(x))
        return self._like(left.to(left if y is None else self.probe(self.points(y))).value)

    def predictive_cov(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """`cov(x, y)` with the variance that does not respond; the same for a head that leaves nothing out."""
        return self.cov(x, y)

    def left_out(self, x: Tensor) -> Tensor:
        """Variance at x (n, d) that an approximation adds to predictions and that never responds to data, (n,)."""
        x = self.points(x)
        return x.new_zeros(len(x))

    def left_out_slope(self, look: Look) -> Tensor:
        """Derivative of `left_out` as a reading's points move along its direction, (p,)."""
        return torch.zeros(len(look), dtype=torch.float64, device=look.points.device)

    @property
    def width(self) -> int:
        """Numbers in a point's right-hand side and solution, for planning memory: those of the training rows."""
        return len(self.data.train)

    @property
    def together(self) -> int:
        """Points that gain by being looked from together, at most."""
        return sys.maxsize

    @property
    def rows_left_out(self) -> Certified:
        """`left_out` of the training rows in float64, (n,)."""
        zero = torch.zeros(len(self.data.train), dtype=torch.float64, device=self.data.train.x.device)
        return Certified(zero, zero)

    @property
    def parts(self) -> list[Any]:
        """What determines the field beside the data and the solver, for the fingerprint of stored results."""
        return [self.noise, self.beta, getattr(self, "prior_mean", None), getattr(self, "kernel", None)]

    @property
    def likelihood(self) -> Any:
        """log p(y | f), where it is not Gaussian with variance `noise`; else None."""
        return None

    @property
    def conjugate(self) -> bool:
        """Whether the likelihood is Gaussian, so that finite changes have closed forms."""
        return True

    def to_botorch(self) -> Any:
        """A BoTorch `Model` of this posterior; see `gr.acquisition.to_botorch`."""
        return self.operations["botorch"](self)

    def own_variance(self, rows: Tensor, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """Variance of the field at training rows (k,), as `S_jj` of the covariance with them, and which solves
        converged, bool (k,). A head that knows a faster way than one solve a row overrides it."""
        value, error, converged = [], [], []
        for some in tqdm(rows.split(self._step()), desc="own variances", disable=not progress, leave=False):
            probe = self.row_probe(some)
            block = probe.to_train(some)
            value.append(block.value.diagonal().clone())
            error.append(block.error.diagonal().clone())
            converged.append(probe.converged)
        return Certified(torch.cat(value), torch.cat(error)), torch.cat(converged)

    def among(self, rows: Tensor, others: Tensor | None = None, *, progress: bool = False) -> tuple[Certified, Tensor]:
        """Covariance of training rows (k,) with others (l,), themselves when None, (k, l), and which solves converged, bool
        (k,): one solve a row, none for the others. A head that knows a faster way to many of them overrides it."""
        others = rows if others is None else others
        value = torch.empty(len(rows), len(others), dtype=torch.float64, device=rows.device)
        error, converged = torch.empty_like(value), torch.empty_like(rows, dtype=torch.bool)
        every = torch.arange(len(rows), device=rows.device)
        for some in tqdm(every.split(self._step()), desc="among rows", disable=not progress, leave=False):
            probe = self.row_probe(rows[some])
            (value[some], error[some]), converged[some] = probe.to_train(others), probe.converged
        return Certified(value, error), converged

    def looseness(
        self, *, probes: int = 32, rows: Tensor | None = None, seed: int = 0, progress: bool = False
    ) -> Enclosure:
        """`1 - S_ii/D_i` of every training row, (n,), with `D_i = σ_i²/(β ρ_i)`: one minus its leverage, by which dividing
        its residual leaves it out. One for rows of weight zero.

        Args:
            probes, seed: of the random estimate, where a head encloses what it cannot have exactly.
            rows: (k,) rows to be solved for in that case.
        """
        every = torch.arange(len(self.data.train), device=self.data.train.x.device)
        own, converged = self.own_variance(every, progress=progress)
        precision = self.beta * self.data.train.weights.double() / self.row_noise
        value, error = 1.0 - own.value * precision, own.error * precision
        return Enclosure(value, (value - error).clamp_min(0.0), value + error, torch.zeros_like(value), converged)

    def reweighted(self, weights: Tensor) -> "Posterior":
        """The same model (kernel, inducing points, noise or likelihood, solver) conditioned on other sample weights (n,), or a
        weight for each label where a sample has several.

        Raises:
            InputError: a posterior that cannot be conditioned again; weights negative, not finite or of another length.
        """
        raise InputError(
            f"a {type(self).__name__} cannot be conditioned on other weights; use refit_response with its head"
        )

    def _data_at(self, weights: Tensor) -> Dataset:
        """The data with other sample weights, checked."""
        like = self.data.train.weights
        weights, sample = torch.as_tensor(weights, dtype=like.dtype, device=like.device), self.data.train.sample
        if sample is not None and weights.shape == (self.data.train.samples,):
            weights = torch.where(sample >= 0, weights[sample], 0.0)
        if weights.shape != like.shape or not bool((torch.isfinite(weights) & (weights >= 0)).all()):
            raise InputError(
                f"weights of shape {tuple(weights.shape)}; expected {tuple(like.shape)}, finite and 0 or more"
            )
        return self.data.with_train(weights=weights)

    def _step(self) -> int:
        """Points looked from at a time, so that their solves fit a quarter of the free memory."""
        x = self.data.train.x
        most = min(self.together, max(1, len(x)))
        return block_size(point_bytes(self.width, x), byte_budget(None, x.device), most=most)

    def _probes(self, x: Any) -> Iterator[Probe]:
        return (self.probe(part) for part in self.points(x).split(self._step()))

    def _like(self, value: Tensor) -> Tensor:
        """In the precision of the data; probes compute in float64."""
        return value.to(self.data.train.x.dtype)

    def look(self, x: Any) -> Look:
        """Points (p, d), or a `Look`, as a checked reading of this posterior's dtype and device."""
        if not isinstance(x, Look):
            return Look(self.points(x))
        points = self.points(x.points)
        direction = None if x.direction is None else x.direction.to(points).expand_as(points)
        component = None if x.component is None else x.component.to(points.device)
        return replace(x, points=points, direction=direction, component=component)

    def points(self, x: Any) -> Tensor:
        """x as (n, d) points of this posterior's dtype, or float64 where it reads that, and device, or a clear error."""
        like = self.data.train.x
        expected = f"points (n, {like.shape[1]}), an array of numbers"
        double = self.reads_double and str(getattr(x, "dtype", "")).endswith("float64")
        dtype = torch.float64 if double else like.dtype
        x = as_tensor(x, "a posterior", expected, dtype=dtype, device=like.device)
        if x.ndim != 2 or x.shape[1] != like.shape[1]:
            raise InputError(f"points of shape {tuple(x.shape)}; expected (n, {like.shape[1]})")
        return x


__all__ = ["Certified", "Posterior", "Probe", "rounded"]
