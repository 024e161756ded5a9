"""The frozen data every fit starts from: training and test rows, weights, names, and the way back to source units."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gp_response.data.standardise import Standardiser
from gp_response.errors import DataError
from gp_response.shapes import Indices, Mask, Points, Values


@dataclass(frozen=True, eq=False)
class Split:
    """Rows used together: inputs `x` (n, d), targets `y` (n,), `weights` (n,), and `rows` (n,), the row number
    (from 0) that each had in the table it came from; -1 for a row that was in no table. `noise` (n,): the variance
    of each observation where it is known, in the units of `y` squared; None where it is not. `sample` (n,): the sample,
    counted from 0, that a row is a label of, -1 for one that is a label of none; None where every row is a sample."""

    x: Points
    y: Values
    weights: Values
    rows: Tensor
    noise: Values | None = None
    sample: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[-2]

    @property
    def samples(self) -> int:
        """Number of samples: of rows, where each has one label."""
        return len(self) if self.sample is None else int(self.sample.max()) + 1

    def take(self, indices: Indices) -> "Split":
        """The rows at these positions (long tensor), in this order; samples are counted again."""
        noise, sample = (None if part is None else part[indices] for part in (self.noise, self.sample))
        if sample is not None:
            left = sample[sample >= 0].unique()
            sample = torch.where(sample >= 0, torch.searchsorted(left, sample), -1)
        return Split(self.x[indices], self.y[indices], self.weights[indices], self.rows[indices], noise, sample)

    def rows_of(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of samples (k,), one sample after the other, (s,), and which of the k each belongs to, (s,)."""
        if self.sample is None:
            return samples, torch.arange(len(samples), device=samples.device)
        order, count = self.sample.argsort(stable=True), (self.sample + 1).bincount(minlength=self.samples + 1)
        start, count = count.cumsum(0)[:-1], count[1:]  # rows of no sample come first
        each = torch.arange(len(samples), device=samples.device).repeat_interleave(count[samples])
        within = torch.arange(len(each), device=each.device) - (count[samples].cumsum(0) - count[samples])[each]
        return order[start[samples][each] + within], each

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Split":
        x, y, weights = (t.to(dtype=dtype, device=device) for t in (self.x, self.y, self.weights))
        noise = None if self.noise is None else self.noise.to(dtype=dtype, device=device)
        sample = None if self.sample is None else self.sample.to(device=device)
        return Split(x, y, weights, self.rows.to(device=device), noise, sample)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test rows with everything needed to read an answer in the source's own terms.

    `train` and `test` are standardised with training statistics when the set was made with standardise=True; `scaler`
    undoes it. `notes` says what was dropped, filled, encoded or found odd, one sentence each. `label_shape` is () where a
    sample has one label; else a row is one label of a sample (`Split.sample`), and its place among them, in an array of that
    shape, stands in the last columns of x.
    """

    train: Split
    test: Split
    names: tuple[str, ...]
    target: str
    scaler: Standardiser
    notes: tuple[str, ...] = ()
    label_shape: tuple[int, ...] = ()

    @property
    def dim(self) -> int:
        """Number of columns d."""
        return len(self.names)

    @property
    def input_dim(self) -> int:
        """Number of columns of a sample's input: without those that say which label a row is."""
        return self.dim - len(self.label_shape)

    def undo_x(self, x: Points) -> Points:
        """Inputs (..., d) back in the units of the source."""
        return self.scaler.undo_x(x)

    def undo_y(self, y: Values) -> Values:
        """Targets or predictions of any shape back in the units of the source (a standard deviation: times
        `scaler.y_scale`; a variance: times its square)."""
        return self.scaler.undo_y(y)

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> "Dataset":
        """The same rows in another floating dtype or on another device; the scaler stays float64."""
        train, test = (split.to(dtype=dtype, device=device) for split in (self.train, self.test))
        return replace(self, train=train, test=test, scaler=self.scaler.to(device))

    def with_train(
        self,
        *,
        x: Points | None = None,
        y: Values | None = None,
        weights: Values | None = None,
        rows: Tensor | None = None,
        noise: Values | None = None,
        sample: Tensor | None = None,
    ) -> "Dataset":
        """These training tensors in place of the old ones, already standardised; the scaler is not fitted again.

        Values are not looked at, so this works inside torch.func transforms and keeps gradients. Raises DataError when
        the lengths or the width do not fit.
        """
        given = {"x": x, "y": y, "weights": weights, "rows": rows, "noise": noise, "sample": sample}
        train = replace(self.train, **{name: value for name, value in given.items() if value is not None})
        lengths = {name: part.shape[0] for name in given if (part := getattr(train, name)) is not None}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"training lengths differ ({found}); give {', '.join(lengths)} of one length")
        if train.x.dim() != 2 or train.x.shape[1] != self.dim:
            raise DataError(f"training x has shape {tuple(train.x.shape)}; expected (n, {self.dim})")
        return replace(self, train=train)

    def keep(self, which: Mask | Indices | Sequence[int]) -> "Dataset":
        """Only these training rows: a boolean mask (n,) or positions, in the order given. The scaler stays.

        Raises DataError for a mask of another length, a position outside, or nothing kept.
        """
        return replace(self, train=self.train.take(_positions(which, len(self.train), self.train.x.device)))

    def draw(self, count: int, seed: int | torch.Generator = 0) -> "Dataset":
        """`count` training rows drawn at random, each once, in the order they had; all of them where there are not more.

        A generator in place of a seed goes on from where it is. Raises DataError for a count below one.
        """
        if count < 1:
            raise DataError(f"{count} rows asked for; expected at least one")
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        return self.keep(torch.randperm(len(self.train), generator=generator)[:count].sort().values)

    def fingerprint(self) -> str:
        """sha256 (hex) of all numbers, names and dtypes: equal exactly when the contents are equal."""
        digest = hashlib.sha256()
        for part in _parts(self):
            digest.update(part)
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training and {len(self.test)} test rows, {self.dim} columns"
        return f"Dataset({sizes}, target={self.target!r}, {str(self.train.x.dtype)[6:]} on {self.train.x.device})"


def _positions(which: Mask | Indices | Sequence[int], n: int, device: torch.device) -> Tensor:
    found = torch.as_tensor(which, device=device)
    if found.dtype == torch.bool:
        if found.shape != (n,):
            raise DataError(
                f"the mask has shape {tuple(found.shape)}; expected one entry for each of {n} training rows"
            )
        found = found.nonzero().flatten()
    if found.dim() != 1 or found.numel() == 0 or found.is_floating_point():
        raise DataError(f"keep was given {found.numel()} rows ({found.dtype}); expected a mask or a list of positions")
    outside = found[(found < 0) | (found >= n)]
    if len(outside):
        raise DataError(f"training row {int(outside[0])} does not exist; positions run from 0 to {n - 1}")
    return found.long()


def _parts(data: Dataset) -> Iterator[bytes]:
    yield repr((data.names, data.target, str(data.train.x.dtype), len(data.train), len(data.test))).encode()
    scaler = data.scaler
    tensors = [getattr(s, name) for s in (data.train, data.test) for name in ("x", "y", "weights", "rows")]
    if data.train.noise is not None:
        yield b"noise"
        tensors.append(data.train.noise)
    if data.train.sample is not None:
        yield repr(data.label_shape).encode()
        tensors.append(data.train.sample)
    for tensor in (*tensors, scaler.x_mean, scaler.x_scale, scaler.y_mean, scaler.y_scale):
        yield tensor.detach().cpu().contiguous().numpy().tobytes()
