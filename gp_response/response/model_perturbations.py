"""Perturbations of inputs and of the model: shift_inputs, noise, hyperparameter, temperature, mixture."""

import copy
import numbers
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_tensor
from gp_response.data import Dataset, row_noise
from gp_response.errors import InputError
from gp_response.posterior import Posterior, Probe
from gp_response.response.energy import Energy
from gp_response.response.motion import Motion, require_gaussian, site_motion
from gp_response.response.moves import Moves, SetMoves
from gp_response.response.noise_moves import noise_moves
from gp_response.response.perturbation import Perturbation
from gp_response.response.perturbations import Rows, normaliser, weight_scale
from gp_response.response.prior_motions import prior_motion
from gp_response.response.quadratic import Quadratic
from gp_response.response.shift_energy import shift_bend, shift_energy
from gp_response.response.shift_motion import ShiftMotion
from gp_response.response.tangent import MEAN, set_natural, tangents


class ShiftInputs(Rows):
    """`x_i → x_i + h v`; see `shift_inputs`."""

    kind, unit, curved = "shift_inputs", "unit of the direction", True

    def __init__(self, direction: Any, rows: Any = None):
        super().__init__(rows)
        self.direction = direction

    def directions(self, data: Dataset) -> Tensor:
        """What every training row would move by, (n, d); the columns that say which label it is stay."""
        n, d = data.train.samples, data.input_dim
        if isinstance(self.direction, str | numbers.Integral) and not isinstance(self.direction, bool):
            given = torch.nn.functional.one_hot(torch.tensor(self._column(data)), d).to(data.train.x)
        else:
            like, expected = data.train.x, f"({d},) or ({n}, {d}) numbers, or the name or number of a column"
            given = as_tensor(self.direction, "shift_inputs", expected, dtype=like.dtype, device=like.device)
        if given.shape not in ((d,), (n, d)) or not bool(torch.isfinite(given).all()):
            raise InputError(
                f"shift_inputs got a direction of shape {tuple(given.shape)}; expected ({d},) or ({n}, {d}) finite numbers, "
                "or the name or number of a column"
            )
        given = given.expand(n, d)
        if data.train.sample is None:
            return given
        return torch.nn.functional.pad(given[data.train.sample], (0, len(data.label_shape)))

    def _column(self, data: Dataset) -> int:
        names, d = data.names[: data.input_dim], data.input_dim
        if isinstance(self.direction, str):
            if self.direction not in names:
                raise InputError(f"shift_inputs got column {self.direction!r}; there are {', '.join(names)}")
            return names.index(self.direction)
        if not -d <= self.direction < d:
            raise InputError(f"shift_inputs got column {self.direction}; there are columns 0 to {d - 1}")
        return int(self.direction) % d

    def motion(self, posterior: Posterior) -> Motion:
        at, column, count = self.groups(posterior.data)
        return ShiftMotion(posterior, at, column, count, self._along(posterior, at))

    def quadratic(self, posterior: Posterior, columns: Tensor) -> Quadratic:
        at, column, _ = self.groups(posterior.data)
        mine = torch.isin(column, columns)
        at, column = at[mine], torch.searchsorted(columns, column[mine])
        return shift_energy(posterior, at, self._along(posterior, at), column, len(columns))

    def bent(self, posterior: Posterior, pairs: Tensor) -> Quadratic:
        site, pair = self.shared(posterior.data, pairs)
        at = self.groups(posterior.data)[0][site]
        return shift_bend(posterior, at, self._along(posterior, at), pair, len(pairs))

    def _along(self, posterior: Posterior, at: Tensor) -> Tensor:
        """Directions of rows (k,) in float64, whatever the data's precision, (k, d)."""
        return self.directions(posterior.data.to(dtype=torch.float64))[at]

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        return data.with_train(x=data.train.x + self.spread(data, h)[:, None] * self.directions(data))

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        """The row taken out where it was, and put in where it goes."""
        at, column, count = self.groups(data)
        each, weights = row_noise(data, noise).expand(len(data.train))[at], data.train.weights[at]
        y, zero = data.train.y[at], torch.zeros_like(data.train.y[at])
        points = data.train.x[at] + h * self.directions(data)[at]
        constant = weights * normaliser(each)
        every = torch.arange(len(at), device=at.device)
        there = Energy(every, column, count, weights / each, y, zero, points=points, constant=constant)
        return Energy(at, column, count, -weights / each, y, zero, constant=-constant, also=there)


class Noise(Rows):
    """`σ_i² → σ_i² + h`; see `noise`."""

    kind, unit, curved = "noise", "unit of y^2", True

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        each, weights = row_noise(data, noise), data.train.weights
        return self.sites(data, -weights / each**2, torch.zeros_like(weights), 0.5 * weights / each)

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        each, weights = row_noise(data, noise), data.train.weights
        if not bool((each + h > 0).all()):
            raise InputError(f"noise at h = {h} leaves a variance of {float((each + h).min()):.3g}; expected above 0")
        change = weights / (each + h) - weights / each
        return self.sites(data, change, torch.zeros_like(weights), 0.5 * weights * ((each + h) / each).log())

    def second_energy(self, data: Dataset, noise: Tensor, pairs: Tensor) -> Energy:
        """`ρ_i (y_i - f_i)²/σ_i⁶` at the rows that a pair shares."""
        site, pair = self.shared(data, pairs)
        at = self.groups(data)[0][site]
        curvature = (2.0 * data.train.weights / row_noise(data, noise) ** 3)[at]
        return Energy(at, pair, len(pairs), curvature, data.train.y[at], torch.zeros_like(curvature))

    def moves(self, posterior: Posterior, probe: Probe) -> list[Moves | SetMoves]:
        return noise_moves(posterior, probe, self.energy_of(posterior))

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        known = torch.zeros_like(data.train.y) if data.train.noise is None else data.train.noise
        return data.with_train(noise=known + self.spread(data, h))

    def site_energy(self, posterior: Any) -> Energy:
        raise InputError(f"observations under {posterior.likelihood!r} have no noise variance to change")

    def scale(self, head: Any, data: Dataset) -> Tensor:
        return (0.4 * float(row_noise(data, head.noise.detach()).min())) * torch.ones(len(self.columns(data))).double()


class GlobalNoise(Noise):
    """`σ² → σ² + h` for all rows and for new observations, one column."""

    changes_head = True

    def __init__(self) -> None:
        super().__init__(None)

    def groups(self, data: Dataset) -> tuple[Tensor, Tensor, int]:
        every, _, _ = super().groups(data)
        return every, torch.zeros_like(every), 1

    def columns(self, data: Dataset) -> list[str]:
        return ["noise"]

    def motion(self, posterior: Posterior) -> Motion:
        return site_motion(posterior, self.energy_of(posterior), self.noise_slope(posterior))

    def noise_slope(self, posterior: Posterior) -> Tensor:
        return torch.ones(1).to(posterior.noise)

    def moves(self, posterior: Posterior, probe: Probe) -> list[Moves | SetMoves]:
        """Of new observations no noise is known beside σ²."""
        return [part._replace(floor=-posterior.noise[None]) for part in super().moves(posterior, probe)]

    def finite_noise(self, noise: Tensor, h: float) -> Tensor:
        return noise + h

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        return data

    def changed_head(self, head: Any, h: Tensor | float) -> Any:
        changed = copy.deepcopy(head)
        inner = changed.likelihood if getattr(changed, "likelihood", None) is not None else changed
        value = head.noise.detach() + float(h)
        if not float(value) > 0:
            raise InputError(f"noise at h = {float(h):g} leaves σ² = {float(value):.3g}; expected above 0")
        with torch.no_grad():
            inner.raw_noise.copy_(inner.noise_constraint.inverse_transform(value))
        return changed


class Hyperparameter(Perturbation):
    """`θ → θ + h` for entries of one hyperparameter; see `hyperparameter`."""

    kind, unit, changes_head, finite = "hyperparameter", "unit of the hyperparameter", True, False

    def __init__(self, name: str):
        if not isinstance(name, str) or not name:
            raise InputError(f"hyperparameter got {name!r}; expected a name such as 'lengthscale' or 'lengthscale[2]'")
        self.name = name

    def entries(self, model: Any) -> list[Any]:
        """The entries that the name stands for in a posterior or a head."""
        return tangents(model.kernel, self.name, model.prior_mean)

    def columns(self, data: Dataset) -> list[str]:
        raise InputError(f"the entries of {self.name!r} are known by a posterior; use columns_of(posterior)")

    def columns_of(self, posterior: Any) -> list[str]:
        return [entry.label for entry in self.entries(posterior)]

    def motion(self, posterior: Any) -> Motion:
        return prior_motion(posterior, self.entries(posterior))

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        raise InputError("a finite change of a hyperparameter is a refit: use refit_response(head, data, ..., h=...)")

    def changed_head(self, head: Any, h: Tensor | float) -> Any:
        changed = copy.deepcopy(head)
        steps = torch.as_tensor(h, dtype=torch.float64)
        entries = self.entries(head)
        for entry, step in zip(entries, steps.expand(len(entries)).tolist(), strict=True):
            if step and entry.raw == MEAN:
                changed.prior_mean = head.prior_mean + step
            elif step:
                set_natural(changed.kernel, entry, entry.value + step)
        return changed

    def scale(self, head: Any, data: Dataset) -> Tensor:
        return torch.tensor([0.2 * abs(e.value) if e.value else 0.1 for e in self.entries(head)]).double()


class Temperature(Perturbation):
    """`β → β + h`; see `temperature`."""

    kind, unit, changes_head = "temperature", "unit of beta", True

    def columns(self, data: Dataset) -> list[str]:
        return ["beta"]

    def energy_of(self, posterior: Posterior) -> Energy:
        """All rows' losses: `(β + h) Σρℓ = β (Σρℓ + h Σρℓ/β)`."""
        data = posterior.data.to(dtype=torch.float64)
        every = torch.arange(len(data.train), device=data.train.x.device)
        share = data.train.weights / posterior.beta
        if not posterior.conjugate:
            return self._of_sites(posterior, share)
        each = row_noise(data, posterior.noise)
        return Energy(
            every, torch.zeros_like(every), 1, share / each, data.train.y, torch.zeros_like(share),
            constant=share * normaliser(each),
        )  # fmt: skip

    def finite_energy_of(self, posterior: Posterior, h: float) -> Energy:
        return self.energy_of(posterior).times(h)

    def _of_sites(self, posterior: Any, share: Tensor) -> Energy:
        force, curvature = posterior.row_pull()
        whole = Rows.pulled(_AllRows(), posterior, _times(share, force), _times(share, curvature))
        return replace(whole, column=torch.zeros_like(whole.column), columns=1, one_each=len(whole.at) == 1)

    def changed_head(self, head: Any, h: Tensor | float) -> Any:
        changed = copy.deepcopy(head)
        changed.beta = head.beta + float(h)
        if not changed.beta > 0:
            raise InputError(f"temperature at h = {float(h):g} leaves beta = {changed.beta:.3g}; expected above 0")
        return changed

    def scale(self, head: Any, data: Dataset) -> Tensor:
        return torch.full((1,), 0.3 * head.beta, dtype=torch.float64)


class _AllRows(Rows):
    kind = "temperature"


def _times(share: Tensor, part: Tensor) -> Tensor:
    """A factor a row, for parts per row or per row and class."""
    return share * part if part.ndim == 1 else share[:, None] * part


class Mixture(Perturbation):
    """`q → (1 - h) q + h q'`; see `mixture`."""

    kind, unit, from_zero = "mixture", "fraction of the weight that comes from the other set", True

    def __init__(self, toward: Dataset):
        if not isinstance(toward, Dataset):
            raise InputError(f"mixture got toward={type(toward).__name__}; expected a Dataset, e.g. gr.dataset(x, y)")
        self.toward = toward

    def columns(self, data: Dataset) -> list[str]:
        return [f"toward {len(self.toward.train)} rows"]

    def energy_of(self, posterior: Posterior) -> Energy:
        require_gaussian(posterior, "mixture")
        return self.energy(posterior.data.to(dtype=torch.float64), posterior.noise)

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        x, y, weights, known = self.rows(data)
        each, own = row_noise(data, noise), data.train.weights
        new = noise + known
        every, here = (torch.arange(k, device=x.device) for k in (len(x), len(own)))
        there = Energy(
            every, torch.zeros_like(every), 1, weights / new, y, torch.zeros_like(y), points=x,
            constant=weights * normaliser(new),
        )  # fmt: skip
        return Energy(
            here, torch.zeros_like(here), 1, -own / each, data.train.y, torch.zeros_like(own),
            constant=-own * normaliser(each), also=there,
        )  # fmt: skip

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        x, y, weights, known = self.rows(data)
        h = torch.as_tensor(h, dtype=y.dtype, device=y.device).reshape(())
        train = data.train
        old = torch.zeros_like(train.y) if train.noise is None else train.noise
        both = None if train.noise is None and not bool((known > 0).any()) else torch.cat([old, known])
        return data.with_train(
            x=torch.cat([train.x, x]), y=torch.cat([train.y, y]), noise=both,
            weights=torch.cat([(1.0 - h) * train.weights, h * weights]),
            rows=torch.cat([train.rows, torch.full((len(y),), -1, dtype=train.rows.dtype, device=train.rows.device)]),
            sample=self._samples(data),
        )  # fmt: skip

    def _samples(self, data: Dataset) -> Tensor | None:
        own, other = data.train.sample, self.toward.train.sample
        return None if own is None or other is None else torch.cat([own, data.train.samples + other.to(own)])

    def scale(self, head: Any, data: Dataset) -> Tensor:
        x, _, weights, _ = self.rows(data)
        return torch.tensor([0.4 * weight_scale(head, data, x) / float(weights.sum())], dtype=torch.float64)

    def rows(self, data: Dataset) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The other set's points and labels in the units of the training set, weights of equal sum, known noise."""
        other, like = self.toward.train, data.train.x
        if self.toward.dim != data.dim or self.toward.label_shape != data.label_shape:
            raise InputError(
                f"mixture got rows with {self.toward.dim} columns and labels of shape {self.toward.label_shape}; the training "
                f"set has {data.dim} and {data.label_shape}"
            )
        x, y, known = other.x.double(), other.y.double(), other.noise
        known = torch.zeros_like(y) if known is None else known.double()
        if not _same_units(self.toward, data):
            x, y = data.scaler.do_x(self.toward.undo_x(x)), data.scaler.do_y(self.toward.undo_y(y))
            known = known * (self.toward.scaler.y_scale / data.scaler.y_scale) ** 2
        weights = other.weights.double() * (data.train.weights.sum() / other.weights.sum()).double()
        return x.to(like), y.to(like), weights.to(like), known.to(like)


def _same_units(one: Dataset, other: Dataset) -> bool:
    names = ("x_mean", "x_scale", "y_mean", "y_scale")
    return all(torch.equal(getattr(one.scaler, n), getattr(other.scaler, n)) for n in names)


def shift_inputs(direction: Any, rows: Any = None) -> ShiftInputs:
    """`x_i → x_i + h v`: training inputs move along a direction, labels stay.

    Args:
        direction: v, (d,) for all rows or (n, d) one a row, or a column by name or number, in the units of `data.train.x`.
        rows: None for every training row, one column each; row numbers; or groups, which move together. As for `reweight`.
    """
    return ShiftInputs(direction, rows)


def noise(rows: Any = None, *, each: bool = False) -> Noise:
    """`σ² → σ² + h`, in the unit of y squared.

    Args:
        rows: None for the model's own σ², of all rows and of new observations, one column; row numbers, one column each; or
            groups, one column a group: the known noise of these rows.
        each: every training row's own noise, one column each.
    """
    return GlobalNoise() if rows is None and not each else Noise(rows)


def hyperparameter(name: str) -> Hyperparameter | GlobalNoise:
    """`θ → θ + h` in natural units, one column an entry: "lengthscale", "lengthscale[2]", "outputscale", "mean", "noise", or any
    parameter of the kernel by its dotted name, features included. What else there is stands in the error for a wrong name."""
    return GlobalNoise() if name == "noise" else Hyperparameter(name)


def temperature() -> Temperature:
    """`β → β + h`, the inverse temperature of `p₀(f) exp(-β Σ ρ_i ℓ_i)`: one column."""
    return Temperature()


def mixture(toward: Dataset) -> Mixture:
    """`q → (1 - h) q + h q'`: training weight moves to another set's rows, the total stays. One column.

    toward: a Dataset whose training rows are q', with their weights and known noise; its units are converted.
    """
    return Mixture(toward)


__all__ = [
    "GlobalNoise", "Hyperparameter", "Mixture", "Noise", "ShiftInputs", "Temperature", "hyperparameter", "mixture", "noise",
    "shift_inputs", "temperature",
]  # fmt: skip
