"""The perturbations: reweight, relabel, delete, insert."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from gp_response.arguments import as_tensor, shown
from gp_response.curvature.loss import IGNORED
from gp_response.data import Dataset, row_noise, same_labels, with_places
from gp_response.errors import InputError
from gp_response.linalg.transforms import inside_transform
from gp_response.response.energy import Energy
from gp_response.response.observable import as_labels, as_points, refuse_unlabelled
from gp_response.response.perturbation import Perturbation

EXPECTED = "a non-empty sequence of row numbers, a mask of all rows, or groups of them"


class Rows(Perturbation):
    """Perturbations of training rows, alone (one column a row) or in groups (one column a group).

    A sample with several labels has a row for each, and they go together: numbers are those of samples.
    """

    def __init__(self, rows: Any = None):
        self.rows, self.labels, self.mask = _read_groups(rows, self.kind)

    def groups(self, data: Dataset) -> tuple[Tensor, Tensor, int]:
        """Site rows (s,), their columns (s,), and the number of columns."""
        samples, column, count = self.chosen(data)
        at, which = data.train.rows_of(samples)
        return at, column[which], count

    def chosen(self, data: Dataset) -> tuple[Tensor, Tensor, int]:
        """Samples (k,), their columns (k,), and the number of columns."""
        n, device = data.train.samples, data.train.x.device
        if self.mask not in (None, n):
            raise InputError(
                f"{self.kind} got a mask of {self.mask} rows; the training set has {n}: give True or False for each"
            )
        if self.rows is None:
            every = torch.arange(n, device=device)
            return every, every, n
        at = torch.cat(self.rows).to(device)
        if len(at) and (int(at.min()) < -n or int(at.max()) >= n):
            bad = next(int(i) for i in at if not -n <= int(i) < n)
            raise InputError(f"{self.kind} got row {bad}; the training set has rows 0 to {n - 1}")
        sizes = torch.tensor([len(rows) for rows in self.rows], device=device)
        column = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
        if bool((at < 0).any()) and len((column * n + at % n).unique()) < len(at):
            raise InputError(f"{self.kind} got a row twice in one group, once counted from the end; name it once")
        return at % n, column, len(sizes)

    def columns(self, data: Dataset) -> list[str]:
        if self.labels is not None:
            return list(self.labels)
        at, column, count = self.chosen(data)
        rows = _numbers(data)[at]
        if count == len(at):
            return [str(int(row)) for row in rows]
        return ["{" + ",".join(str(int(r)) for r in rows[column == c]) + "}" for c in range(count)]

    def shared(self, data: Dataset, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Sites (k,) of the first columns of pairs (q, 2) whose rows are in the second ones, too, and the pair of each, (k,)."""
        at, column, _ = self.groups(data)
        n, order = len(data.train), torch.argsort(column, stable=True)
        count = torch.bincount(column)
        start, each = count.cumsum(0) - count, count[pairs[:, 0]]
        pair = torch.arange(len(pairs), device=at.device).repeat_interleave(each)
        within = torch.arange(len(pair), device=at.device) - (each.cumsum(0) - each)[pair]
        site = order[start[pairs[pair, 0]] + within]
        both = torch.isin(pairs[pair, 1] * n + at[site], column * n + at)
        return site[both], pair[both]

    def spread(self, data: Dataset, h: Tensor | float) -> Tensor:
        """Amplitudes h of the columns summed onto the training rows, (n,)."""
        at, column, count = self.groups(data)
        h = torch.as_tensor(h, dtype=data.train.y.dtype, device=data.train.y.device).expand(count)
        return torch.zeros_like(data.train.y).index_add(0, at, h[column])

    def pulled(self, posterior: Any, force: Tensor, curvature: Tensor) -> Energy:
        """Sites at training rows with a force and a curvature per row, (n,), or per row and class, (n, C)."""
        at, column, count = self.groups(posterior.data)
        force, curvature = force[at], curvature[at]
        if force.ndim == 1:
            return Energy(at, column, count, curvature, torch.zeros_like(force), force, one_each=count == len(at))
        classes = force.shape[1]
        each = (at[:, None] * classes + torch.arange(classes, device=at.device)).flatten()
        force, curvature = force.flatten(), curvature.flatten()
        return Energy(each, column.repeat_interleave(classes), count, curvature, torch.zeros_like(force), force)

    def losses(self, posterior: Any, field: Tensor) -> Tensor:
        """`-log p(y | f)` of the sites' rows at values (q, s) of the field."""
        at, _, _ = self.groups(posterior.data)
        return -posterior.likelihood.log_prob(field, posterior.problem.y[at])

    def weights_of_sites(self, posterior: Any) -> Tensor:
        return posterior.data.train.weights.double()[self.groups(posterior.data)[0]]

    def sites(self, data: Dataset, curvature: Tensor, pull: Tensor, constant: Tensor) -> Energy:
        at, column, count = self.groups(data)
        n = len(data.train)
        return Energy(
            at, column, count, curvature.expand(n)[at], data.train.y[at], pull.expand(n)[at],
            one_each=count == len(at), constant=constant.expand(n)[at],
        )  # fmt: skip


def _numbers(data: Dataset) -> Tensor:
    """The row number of each sample in the table it came from, (n,)."""
    rows, sample = data.train.rows, data.train.sample
    if sample is None:
        return rows
    return rows.new_zeros(data.train.samples).index_copy(0, sample[sample >= 0], rows[sample >= 0])


def weight_scale(head: Any, data: Dataset, x: Tensor) -> float:
    """About the weight at which new rows at x begin to outweigh the prior: σ²/(β k(x, x)), at most 1."""
    prior = head.kernel.diagonal(x.to(data.train.x).double()).detach().max()
    return min(1.0, float(head.noise.detach()) / (head.beta * float(prior)))


def normaliser(noise: Tensor) -> Tensor:
    """`½ log 2πσ²`, what a Gaussian loss is at no residual."""
    return 0.5 * (2.0 * torch.pi * noise).log()


class Reweight(Rows):
    """`ρ_i → ρ_i + h`; see `reweight`."""

    kind, unit = "reweight", "unit of sample weight"

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        each = row_noise(data, noise)
        return self.sites(data, 1.0 / each, torch.zeros_like(data.train.y), normaliser(each))

    def site_energy(self, posterior: Any) -> Energy:
        return self.pulled(posterior, *posterior.row_pull())

    def potential(self, posterior: Any, field: Tensor) -> Tensor:
        return self.losses(posterior, field)

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        return data.with_train(weights=data.train.weights + self.spread(data, h))


class Relabel(Rows):
    """`y_i → y_i + h`; see `relabel`."""

    kind, unit = "relabel", "unit of y"

    def groups(self, data: Dataset) -> tuple[Tensor, Tensor, int]:
        at, column, count = super().groups(data)
        if not data.label_shape:
            return at, column, count
        each = prod(data.label_shape)  # labels of a sample, that follow one another
        return at, column * each + torch.arange(len(at), device=at.device) % each, count * each

    def columns(self, data: Dataset) -> list[str]:
        found = super().columns(data)
        if not data.label_shape:
            return found
        names = data.names[data.input_dim :]
        places = itertools.product(*(range(size) for size in data.label_shape))
        ends = [", ".join(f"{name} {k}" for name, k in zip(names, place, strict=True)) for place in places]
        return [f"{column}, {end}" for column in found for end in ends]

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        pull = data.train.weights / row_noise(data, noise)
        return self.sites(data, torch.zeros_like(noise), pull, pull * data.train.y)

    def finite_energy(self, data: Dataset, noise: Tensor, h: float) -> Energy:
        """Linear in the field, and in h but for `½h²ρ/σ²`, which the evidence sees."""
        linear = self.energy(data, noise).times(h)
        return replace(linear, constant=linear.constants + 0.5 * h * linear.pull)

    def site_energy(self, posterior: Any) -> Energy:
        weights = posterior.data.train.weights.double()
        return self.pulled(posterior, *(weights * part for part in posterior.label_pull()))

    def potential(self, posterior: Any, field: Tensor) -> Tensor:
        at, _, _ = self.groups(posterior.data)
        y = posterior.problem.y[at].expand_as(field)
        slope = jvp(lambda labels: posterior.likelihood.log_prob(field, labels), (y,), (torch.ones_like(y),))[1]
        return -self.weights_of_sites(posterior) * slope

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        return data.with_train(y=data.train.y + self.spread(data, h))


class Delete(Rows):
    """`ρ_i → (1 - h) ρ_i` for a set; see `delete`."""

    kind, unit = "delete", "fraction of the set's weight removed"

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        each, weights = row_noise(data, noise), data.train.weights
        return self.sites(data, -weights / each, torch.zeros_like(data.train.y), -weights * normaliser(each))

    def site_energy(self, posterior: Any) -> Energy:
        weights = posterior.data.train.weights.double()
        each = [-(weights * part.movedim(0, -1)).movedim(-1, 0) for part in posterior.row_pull()]
        return self.pulled(posterior, *each)

    def potential(self, posterior: Any, field: Tensor) -> Tensor:
        return -self.weights_of_sites(posterior) * self.losses(posterior, field)

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        gone = self.spread(data, h)
        changed = data.with_train(weights=data.train.weights * (1.0 - gone))
        if inside_transform() or not bool((gone == 1).any()):
            return changed
        left, sample = gone != 1, data.train.sample
        if sample is not None:  # places without a label go with the sample that they are places of
            left = left & ((sample >= 0) | ~torch.isin(data.train.rows, data.train.rows[~left]))
        if not bool((left if sample is None else left & (sample >= 0)).any()):
            raise InputError(f"delete got all {data.train.samples} training rows; at least one must stay")
        return changed.keep(left)  # a whole deletion really takes the rows out


class Insert(Perturbation):
    """New rows with weight h; see `insert`."""

    kind, unit, from_zero = "insert", "weight of the new rows", True

    def __init__(self, x: Any, y: Any, *, each: bool = False):
        self.x = as_points(x, "insert")
        self.y = as_labels(y, self.x, "insert")
        self.each = each

    def columns(self, data: Dataset) -> list[str]:
        count = len(self.x)
        return [f"new[{k}]" for k in range(count)] if self.each or count == 1 else [f"new[0:{count}]"]

    def energy(self, data: Dataset, noise: Tensor) -> Energy:
        x, y, sample = self.new_rows(data)
        if float(noise) == 0.0:
            raise InputError("insert: this model has known noise alone, so a new row has none; give the head noise=...")
        return self._at(x, sample, (1.0 / noise).expand(len(x)), y, torch.zeros_like(y), normaliser(noise))

    def _at(
        self, x: Tensor, sample: Tensor, curvature: Tensor, target: Tensor, pull: Tensor, constant: Tensor
    ) -> Energy:
        every = torch.arange(len(x), device=x.device)
        count = len(self.x) if self.each else 1
        return Energy(
            every, sample if self.each else torch.zeros_like(sample), count, curvature, target, pull, points=x,
            one_each=len(x) == count, constant=constant.expand(len(x)),
        )  # fmt: skip

    def site_energy(self, posterior: Any) -> Energy:
        x, y, sample = self.new_rows(posterior.data.to(dtype=torch.float64))
        given = y != IGNORED if posterior.data.label_shape else torch.ones_like(y, dtype=torch.bool)
        x, y, sample = x[given], y[given], sample[given]
        refuse_unlabelled(sample, len(self.x), "insert")
        (force, curvature), mean = posterior.new_pull(x, y)
        if hasattr(posterior, "classes"):
            x, sample = posterior.every_class(x), sample.repeat_interleave(posterior.classes)
        return self._at(x, sample, curvature, mean, force, torch.zeros_like(mean[:1]))

    def potential(self, posterior: Any, field: Tensor) -> Tensor:
        return -posterior.likelihood.log_prob(field, self.new_rows(posterior.data)[1].to(field))

    def apply(self, data: Dataset, h: Tensor | float | int) -> Dataset:
        x, y, sample = self.new_rows(data)
        train = data.train
        weights = torch.as_tensor(h, dtype=y.dtype, device=y.device).expand(len(self.x))[sample]
        # Nothing is known of a new row: it has the model's σ².
        known = None if train.noise is None else torch.cat([train.noise, torch.zeros_like(y)])
        return data.with_train(
            x=torch.cat([train.x, x]),
            y=torch.cat([train.y, y]),
            weights=torch.cat([train.weights, weights]),
            noise=known,
            rows=torch.cat([train.rows, torch.full((len(y),), -1, dtype=train.rows.dtype, device=train.rows.device)]),
            sample=None if train.sample is None else torch.cat([train.sample, train.samples + sample]),
        )

    def scale(self, head: Any, data: Dataset) -> Tensor:
        size = weight_scale(head, data, self.new_rows(data)[0])
        return 0.4 * size * torch.ones(len(self.columns(data)), dtype=torch.float64)

    def new_rows(self, data: Dataset) -> tuple[Tensor, Tensor, Tensor]:
        """Points, labels and number of the new sample that each row belongs to, a row for every label."""
        if self.x.shape[1] != data.input_dim:
            raise InputError(f"insert got points with {self.x.shape[1]} columns; the training set has {data.input_dim}")
        if not same_labels(self.y.shape[1:], data.label_shape):
            expected = (len(self.x), *data.label_shape)
            raise InputError(f"insert got labels of shape {tuple(self.y.shape)}; expected {expected}")
        sample = torch.arange(len(self.x), device=data.train.x.device).repeat_interleave(prod(data.label_shape))
        return with_places(self.x.to(data.train.x), data.label_shape), self.y.to(data.train.y).flatten(), sample


def reweight(rows: Any = None) -> Reweight:
    """`ρ_i → ρ_i + h`: h more of a training row's loss. h = -1 removes a row of weight one, h = 1 doubles it.

    Where samples have several labels (`data.label_shape`) rows are samples, here and in `delete`.

    Args:
        rows: None for every training row, one column each, in training order; a sequence of row numbers, one column
            each; a mask (n,), one column a True; or groups `{name: rows}` / a sequence of sequences, one column a group.
            Groups may share rows, which then move with each of them.
    """
    return Reweight(rows)


def relabel(rows: Any = None) -> Relabel:
    """`y_i → y_i + h`, in the unit of `data.train.y`. Arguments as for `reweight`; a column for each label of a sample."""
    return Relabel(rows)


def delete(rows: Any, *, each: bool = False) -> Delete:
    """Take training rows out: `ρ_i → (1 - h) ρ_i`, gone at h = 1.

    Args:
        rows: a sequence of row numbers, removed together (one column); groups `{name: rows}`, one column a group.
        each: one column a row instead.
    """
    if rows is None:
        raise InputError(f"delete got None; expected {EXPECTED}")
    together = not (each or isinstance(rows, Mapping) or _is_nested(rows))
    return Delete([rows] if together else rows)


def insert(x: Any, y: Any, *, each: bool = False) -> Insert:
    """Add rows x (k, d), y (k,) with weight h, together (one column) or, with `each`, one column a row.

    Where samples have several labels y is (k, *label_shape); -100 is none, where labels are classes or counts.
    """
    return Insert(x, y, each=each)


def _is_nested(rows: Any) -> bool:
    """Whether some of the rows are groups: sequences or arrays of one axis."""
    return isinstance(rows, Sequence) and not isinstance(rows, str) and any(_is_group(part) for part in rows)


def _is_group(part: Any) -> bool:
    return not isinstance(part, str) and hasattr(part, "__len__") and getattr(part, "ndim", 1) > 0


def _read_groups(rows: Any, kind: str) -> tuple[list[Tensor] | None, list[str] | None, int | None]:
    """Groups, their names, and the length of the masks that some were given by, which all have that of the data."""
    if rows is None:
        return None, None, None
    labels = [str(name) for name in rows] if isinstance(rows, Mapping) else None
    parts = list(rows.values()) if isinstance(rows, Mapping) else list(rows) if _is_nested(rows) else None
    if parts is not None and not parts:
        raise InputError(f"{kind} got no groups; expected {EXPECTED}")
    masks = [mask for part in ([rows] if parts is None else parts) if (mask := _mask_length(part)) is not None]
    if len(set(masks)) > 1:
        raise InputError(
            f"{kind} got masks of {masks[0]} and {next(m for m in masks if m != masks[0])} rows; give equal lengths"
        )
    if parts is None:
        parts = [[int(row)] for row in _as_index(rows, kind)]
    groups = [_as_index(part, kind) for part in parts]
    for group in groups:
        if len(group) != len(group.unique()):
            raise InputError(f"{kind} got a row twice in one group: {shown(group.tolist())}")
    return groups, labels, masks[0] if masks else None


def _mask_length(rows: Any) -> int | None:
    """Of rows given as a mask of True and False; None of row numbers."""
    if isinstance(rows, Sequence) and not (rows and all(isinstance(row, bool) for row in rows)):
        return None
    kind = "bool" if isinstance(rows, Sequence) else str(getattr(rows, "dtype", ""))
    return len(rows) if kind.endswith("bool") and getattr(rows, "ndim", 1) == 1 else None


def _as_index(rows: Any, kind: str) -> Tensor:
    index = as_tensor(rows, kind, EXPECTED)
    index = index[None] if index.ndim == 0 else index
    if index.dtype == torch.bool and index.ndim == 1:
        index = torch.nonzero(index).flatten()
    if index.is_floating_point() or index.ndim != 1 or not len(index):
        raise InputError(f"{kind} got rows {shown(rows)}; expected {EXPECTED}")
    return index.long()


__all__ = [
    "Delete",
    "Insert",
    "Relabel",
    "Reweight",
    "Rows",
    "delete",
    "insert",
    "normaliser",
    "relabel",
    "reweight",
    "weight_scale",
]
