"""The result of a response: a matrix that knows its names, sign, unit, temperature and error."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from gp_response.arguments import as_integer
from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.archive import read_archive, write_archive
from gp_response.response.convert import convert
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation

SIGNS = {
    "first": "d<O>/dh = -beta Cov(O, V)",
    "sampled": "d<O>/dh = -beta Cov(O, V), estimated from draws",
    "finite": "<O>_h - <O>_0",
    "conditioned again": "<O>_h - <O>_0, the mode found again",
    "refit": "<O>_h - <O>_0 of an actual refit",
    "refit derivative": "d<O>/dh through an actual refit",
    "total": "d<O>/dh with hyperparameters optimised again",
    "change, first": "<O>_h - <O>_0 to first order",
    "change, second": "<O>_h - <O>_0 to second order",
    "change, leverage": "<O>_h - <O>_0 as if sites acted alone",
}
CHANGES = (
    "finite",
    "conditioned again",
    "refit",
    "change, first",
    "change, second",
    "change, leverage",
)  # not per unit of amplitude
UNBOUNDED = ("refit", "refit derivative", "total")


class Source(NamedTuple):
    """What a first-order response was asked of, kept so that it can be asked again elsewhere (`gr.pattern` does)."""

    posterior: Posterior
    observable: Observable
    perturbation: Perturbation


class Modes(NamedTuple):
    """Singular value decomposition of a response: `matrix ≈ rows · diag(values) · columnsᵀ`."""

    rows: Tensor
    values: Tensor
    columns: Tensor


@dataclass(frozen=True)
class Susceptibility:
    """Responses of m observables (rows) to c perturbations (columns).

    Torch functions read it as its matrix (`chi1 + chi2`, `torch.allclose(chi, expected)`).

    Attributes:
        matrix: (m, c), in `unit`.
        error: (m, c), absolute bound on the error of each entry that the solves' residuals and rounding imply. Zero
            bounds mean "not certified" only for refits, whose own rounding is not bounded.
        rows, columns: names, as tuples.
        kind: the perturbation, e.g. "reweight".
        order: "first" (derivative), "sampled" (derivative from draws, whose error is an interval and no bound), "finite" (exact
            change), "conditioned again" (exact change, by a mode found again), "refit", "refit derivative", or "total"
            (derivative with hyperparameters that respond).
        h: amplitude of a finite change, None for derivatives.
        unit: of the entries. sign: the definition the entries obey, in words.
        beta: inverse temperature. samples: number of training rows n.
        convention: "rho" (d/dρ), or what `to` converted to.
        every_sample: the columns are all training rows, one each, in order.
        source: the posterior, observable and perturbation of a first-order response in memory; not stored, else None.
        converged: 0-dim bool, every solve reached its tolerance and every bound is finite; `flagged` lists the rows
            (observables) of which that is not true.
    """

    matrix: Tensor
    error: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    kind: str = "reweight"
    order: str = "first"
    h: float | None = None
    unit: str = ""
    beta: float = 1.0
    samples: int = 0
    convention: str = "rho"
    observable: str = ""
    every_sample: bool = False
    flagged: tuple[int, ...] = field(default=())
    source: "Source | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls, data: Dataset, observable: Observable, perturbation: Perturbation, *, beta: float,
        matrix: Tensor, error: Tensor, converged: Tensor, order: str, h: float | None = None,
        columns: list[str] | None = None,
    ) -> "Susceptibility":  # fmt: skip
        """Put names and units on a computed matrix. converged is per observable point, (p,)."""
        # A bound that could not be had (0 · ∞ on the way) is no bound: infinite, and flagged.
        error = torch.where(error.isnan(), torch.full_like(error, float("inf")), error)
        weak = (~converged).to(matrix).expand(len(observable.points))
        flagged = (observable.collect_error(weak) > 0) | error.isinf().any(dim=1)
        return cls.named(
            data, observable, perturbation, beta=beta, matrix=matrix, error=error, flagged=flagged, order=order, h=h,
            columns=columns,
        )  # fmt: skip

    @classmethod
    def named(
        cls, data: Dataset, observable: Observable, perturbation: Perturbation, *, beta: float,
        matrix: Tensor, error: Tensor, flagged: Tensor, order: str, h: float | None = None,
        source: Source | None = None, columns: list[str] | None = None,
    ) -> "Susceptibility":  # fmt: skip
        """The same where it is known which observables are flagged, bool (m,)."""
        dtype = data.train.x.dtype
        bounded = order not in UNBOUNDED  # nothing bounds a refit, so nothing is added to its zeros either
        matrix, error = rounded(Certified(matrix, error), dtype) if bounded else (matrix.to(dtype), error.to(dtype))
        per = "" if order in CHANGES else f" per {perturbation.unit}"
        return cls(
            matrix, error, tuple(observable.names()), tuple(perturbation.columns(data) if columns is None else columns),
            kind=perturbation.kind, order=order, h=h, unit=observable.unit + per, beta=beta,
            samples=data.train.samples, observable=observable.kind,
            every_sample=getattr(perturbation, "rows", ()) is None and matrix.shape[1] == data.train.samples,
            flagged=tuple(torch.nonzero(flagged).flatten().tolist()), source=source,
        )  # fmt: skip

    @classmethod
    def facts(cls) -> tuple[str, ...]:
        """Names of the fields that describe the whole response rather than its rows and columns."""
        own = ("matrix", "error", "rows", "columns", "flagged", "source")
        return tuple(n for n in cls.__dataclass_fields__ if n not in own)

    @property
    def sign(self) -> str:
        return SIGNS[self.order]

    @property
    def converged(self) -> Tensor:
        return torch.tensor(not self.flagged)

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k largest responses of each observable by size: columns row, rank, column, position, value, error."""
        k = as_integer(k, "top", "at least 1, a whole number", least=1)
        _size, where = self.matrix.abs().topk(min(k, self.shape[1]), dim=1)
        table = [
            {"row": self.rows[a], "rank": r + 1, "column": self.columns[j], "position": j,
             "value": float(self.matrix[a, j]), "error": float(self.error[a, j])}
            for a, best in enumerate(where.tolist()) for r, j in enumerate(best)
        ]  # fmt: skip
        return pd.DataFrame(table)

    def modes(self, k: int = 8) -> Modes:
        """The k leading singular modes: patterns of data (columns) that move patterns of observables (rows)."""
        k = as_integer(k, "modes", "at least 1, a whole number", least=1)
        u, s, vh = torch.linalg.svd(self.matrix, full_matrices=False)
        return Modes(u[:, :k], s[:k], vh[:k].T)

    def to(self, convention: str) -> "Susceptibility":
        """The same response in another's sign and normalisation: "rho", "structural", "bif", "devinterp", "ij", "kernel".

        Raises:
            InputError: unknown name, or a response for which the convention has no meaning.
        """
        matrix, error, unit = convert(self, convention)
        return replace(self, matrix=matrix, error=error, unit=unit, convention=convention, source=None)

    def to_xarray(self) -> xr.Dataset:
        """Variables `response` and `error` over the dimensions observable and perturbation, everything else as attributes."""
        dims = ("observable", "perturbation")
        arrays = {"response": self.matrix, "error": self.error}
        attributes = {k: v for k, v in self.metadata().items() if k not in ("rows", "columns")}
        return xr.Dataset(
            {name: (dims, array.detach().cpu().numpy()) for name, array in arrays.items()},
            coords={"observable": list(self.rows), "perturbation": list(self.columns)},
            attrs={k: ("" if v is None else list(v) if isinstance(v, tuple) else v) for k, v in attributes.items()},
        )

    def metadata(self) -> dict[str, Any]:
        names = [n for n in self.__dataclass_fields__ if n not in ("matrix", "error", "source")]
        return {name: getattr(self, name) for name in names} | {"sign": self.sign, "converged": bool(self.converged)}

    def save(self, path: str | Path) -> Path:
        """Write to a safetensors file (atomically); `Susceptibility.load` reads it back. No pickle is involved."""
        return write_archive(path, {"matrix": self.matrix, "error": self.error}, self.metadata())

    @classmethod
    def load(cls, path: str | Path) -> "Susceptibility":
        """Read what `save` wrote."""
        tensors, metadata = read_archive(path, ("matrix", "error"))
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in metadata.items()}
        named = {name: value for name, value in known.items() if name in cls.__dataclass_fields__}
        return cls(tensors["matrix"], tensors["error"], **named)

    def __repr__(self) -> str:
        m, c = self.shape
        worst = float(self.error.max()) if self.error.numel() else 0.0
        flag = "" if self.converged else f", {len(self.flagged)} rows not converged"
        return f"Susceptibility({m} x {c}, {self.kind}, {self.order}, {self.unit}, error <= {worst:.1e}{flag})"

    def __getitem__(self, index: Any) -> Tensor:
        return self.matrix[index]

    def __len__(self) -> int:
        return len(self.matrix)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        array = self.matrix.detach().cpu().numpy()
        return array if dtype is None else array.astype(dtype)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def plain(item: Any) -> Any:
            if isinstance(item, Susceptibility):
                return item.matrix
            return type(item)(plain(i) for i in item) if type(item) in (list, tuple) else item

        return function(*plain(tuple(args)), **{k: plain(v) for k, v in (kwargs or {}).items()})

    def __add__(self, other: Any) -> Any:
        """Responses of the same observables and perturbations add; with anything else, the matrix does."""
        if not isinstance(other, Susceptibility):
            return self.matrix + other
        if (self.rows, self.columns, self.convention) != (other.rows, other.columns, other.convention):
            raise InputError("adding responses with different rows, columns or conventions; use their matrices instead")
        flagged = tuple(sorted({*self.flagged, *other.flagged}))
        return replace(
            self, matrix=self.matrix + other.matrix, error=self.error + other.error, flagged=flagged, source=None
        )

    def __sub__(self, other: Any) -> Tensor:
        return self.matrix - (other.matrix if isinstance(other, Susceptibility) else other)

    def __mul__(self, other: Any) -> Tensor:
        return self.matrix * (other.matrix if isinstance(other, Susceptibility) else other)

    def __truediv__(self, other: Any) -> Tensor:
        return self.matrix / (other.matrix if isinstance(other, Susceptibility) else other)

    def __radd__(self, other: Any) -> Tensor:
        return other + self.matrix

    def __rsub__(self, other: Any) -> Tensor:
        return other - self.matrix

    def __rmul__(self, other: Any) -> Tensor:
        return other * self.matrix

    def __neg__(self) -> Tensor:
        return -self.matrix

    def __abs__(self) -> Tensor:
        return self.matrix.abs()

    def __matmul__(self, other: Any) -> Tensor:
        return self.matrix @ (other.matrix if isinstance(other, Susceptibility) else other)


__all__ = ["Modes", "Source", "Susceptibility"]
