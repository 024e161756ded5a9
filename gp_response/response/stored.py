"""A susceptibility that lies on disk and is read as far as it is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from gp_response.errors import InputError
from gp_response.response.result import SIGNS, Susceptibility
from gp_response.response.store import BlockStore, Layout, open_store, take_up

AXES = ("observable", "perturbation")


class StoredSusceptibility:
    """Responses of m observables to c perturbations in a zarr archive; see `Susceptibility` for what they mean.

    Attributes:
        path: the archive's folder, which `xarray.open_zarr` opens too.
        matrix, error: zarr arrays (m, c); indexing reads what is asked for.
        rows, columns: names, as tuples.
        kind, order, h, unit, sign, beta, samples, convention, observable, every_sample: as in `Susceptibility`.
        flagged: observables with a solve that did not converge or a bound that is not finite.
        complete: whether every block is there; what is missing reads as NaN, with its rows flagged.
    """

    def __init__(self, store: BlockStore):
        self._store, self.path = store, store.path
        self.matrix, self.error = store.array("response"), store.array("error")
        self.rows, self.columns = store.names(AXES[0]), store.names(AXES[1])
        facts = store.attributes
        self._facts = {k: facts[k] for k in Susceptibility.facts()}
        missing = [row for block in store.pending() for row in range(*store.range(block))]
        weak = np.flatnonzero(np.asarray(store.array("flagged")[:])).tolist()
        self.complete, self.flagged = not missing, tuple(sorted({*weak, *missing}))

    @classmethod
    def open(cls, path: str | Path) -> "StoredSusceptibility":
        """Open what `susceptibility(..., out=path)` wrote.

        Raises:
            InputError: nothing there, or not a susceptibility.
        """
        store = open_store(path)
        if store.attributes.get("gp_response_holds") != "susceptibility":
            raise InputError(f"{path} holds no susceptibility but {store.attributes.get('gp_response_holds')!r}")
        return cls(store)

    def __getattr__(self, name: str) -> Any:
        facts = self.__dict__.get("_facts", {})
        if name in facts:
            return facts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    @property
    def sign(self) -> str:
        return SIGNS[self.order]

    @property
    def converged(self) -> Tensor:
        return torch.tensor(not self.flagged)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.matrix.shape)

    def part(self, start: int = 0, stop: int | None = None) -> Susceptibility:
        """Observables start to stop as a `Susceptibility` in memory; all of them without arguments."""
        start, stop, _ = slice(start, stop).indices(len(self))
        flagged = tuple(row - start for row in self.flagged if start <= row < stop)
        matrix, error = (torch.from_numpy(np.asarray(array[start:stop])) for array in (self.matrix, self.error))
        return Susceptibility(matrix, error, self.rows[start:stop], self.columns, flagged=flagged, **self._facts)

    def top(self, k: int = 10) -> pd.DataFrame:
        """The k largest responses of each observable, as `Susceptibility.top`; one block is read at a time."""
        return pd.concat([self.part(*span).top(k) for span in self._store.ranges()], ignore_index=True)

    def to_xarray(self) -> xr.Dataset:
        """As `Susceptibility.to_xarray`, its variables read from disk where they are used."""
        found = xr.open_zarr(self.path, consolidated=False, chunks=None)
        own = {"sign": self.sign, "converged": bool(self.converged)}
        return found[["response", "error"]].assign_attrs(
            {k: "" if v is None else v for k, v in found.attrs.items()} | own
        )

    def __getitem__(self, index: Any) -> Tensor:
        """Entries of the matrix, read into memory: `chi[3]`, `chi[3:5, 7]`, `chi[:, [1, 4]]`."""
        found = self.matrix.oindex[index] if isinstance(index, tuple) else self.matrix.oindex[(index,)]
        return torch.from_numpy(np.asarray(found))

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        array = np.asarray(self.matrix[:])
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        m, c = self.shape
        flag = "" if not self.flagged else f", {len(self.flagged)} rows not converged or missing"
        return f"StoredSusceptibility({m} x {c}, {self.kind}, {self.order}, {self.unit}, {str(self.path)!r}{flag})"


def store_for(path: Path, described: Susceptibility, mark: str, *, block: int) -> BlockStore:
    """The archive for a response that `described` names but does not hold yet, begun or taken up."""
    shape = (len(described.rows), len(described.columns))
    name = str(described.matrix.dtype).removeprefix("torch.")
    arrays = {key: Layout(AXES, shape, name) for key in ("response", "error")}
    arrays["flagged"] = Layout(AXES[:1], shape[:1], "bool")
    facts = {key: getattr(described, key) for key in Susceptibility.facts()}
    return take_up(
        path, mark, arrays=arrays, names=dict(zip(AXES, (described.rows, described.columns), strict=True)),
        attributes={**facts, "sign": described.sign, "gp_response_holds": "susceptibility"}, block=block,
    )  # fmt: skip


__all__ = ["StoredSusceptibility", "store_for"]
