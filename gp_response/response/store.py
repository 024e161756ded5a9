"""Arrays on disk, written block by block, that a killed process can take up again. The one file that knows zarr.

A block is a range of rows of every array. Its chunks are written and flushed to disk first, its mark `done` after them,
so a mark never stands over half a block; a chunk itself is written beside its place and renamed.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from torch import Tensor

from gp_response.errors import InputError

FORMAT = "gp_response.blocks/1"
CHUNK_BYTES = 2**25
DONE = "progress/done"


class Layout(NamedTuple):
    """One array: names of its dimensions, its shape, its numpy type. The first dimension is the one cut into blocks."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str


class BlockStore:
    """A zarr group of arrays over common rows; made by `take_up` or `open_store`.

    Attributes:
        path: its folder.
        block: rows written together.
        rows: rows in all.
    """

    def __init__(self, path: Path, group: Any):
        self.path, self.group = path, group
        self.block, self.rows = (int(group.attrs[f"gp_response_{name}"]) for name in ("block", "rows"))

    def pending(self) -> list[int]:
        """Blocks that are not there yet."""
        return np.flatnonzero(~np.asarray(self.group[DONE][:])).tolist()

    def range(self, block: int) -> tuple[int, int]:
        """First row of a block, and the row after its last."""
        return block * self.block, min((block + 1) * self.block, self.rows)

    def ranges(self) -> Iterator[tuple[int, int]]:
        return (self.range(block) for block in range(-(-self.rows // self.block)))

    def write(self, block: int, values: Mapping[str, Tensor]) -> None:
        """Write the rows of one block, then mark it."""
        start, stop = self.range(block)
        for name, value in values.items():
            self.group[name][start:stop] = value.detach().cpu().numpy()
            self._flush(name, block)
        self.group[DONE][block] = True
        self._flush(DONE, block)

    def array(self, name: str) -> Any:
        """A zarr array: indexing it reads what is asked for."""
        return self.group[name]

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(str(entry) for entry in self.group[name][:])

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.group.attrs)

    def describe(self, attributes: Mapping[str, Any]) -> None:
        self.group.attrs.update(dict(attributes))

    def _flush(self, name: str, block: int) -> None:
        place = self.path / name / "c" / str(block)
        if place.exists():  # zarr leaves out chunks that hold only the fill value
            for path in [*(place.rglob("*") if place.is_dir() else ()), place, place.parent]:
                _to_disk(path)


def take_up(
    path: Path | str,
    fingerprint: str,
    *,
    arrays: Mapping[str, Layout],
    names: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Any],
    block: int,
) -> BlockStore:
    """The store at `path`, begun now or by an earlier call with the same fingerprint; it then keeps its own block size.

    Args:
        fingerprint: of everything the numbers depend on.
        names: labels along a dimension, by the dimension's name.
        attributes: plain JSON values.

    Raises:
        InputError: something else is there, or the result of other arguments.
    """
    path = Path(path)
    if path.exists():
        store = open_store(path)
        if store.attributes["gp_response_fingerprint"] != fingerprint:
            raise InputError(
                f"{path} holds the result of another posterior, observable or perturbation; choose another path or delete it"
            )
        return store
    own = {"format": FORMAT, "fingerprint": fingerprint, "block": block, "rows": next(iter(arrays.values())).shape[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _create(temporary, arrays, names, {**attributes, **{f"gp_response_{k}": v for k, v in own.items()}}, block)
        os.rename(temporary, path)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (isinstance(error, OSError) and path.exists()):
            raise
        # another process began the same archive at the same moment
        return take_up(path, fingerprint, arrays=arrays, names=names, attributes=attributes, block=block)
    return open_store(path)


def open_store(path: Path | str) -> BlockStore:
    """A store that exists, whole or in part.

    Raises:
        InputError: nothing is there, or nothing of ours.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        group = zarr.open_group(path, mode="r+")
        known = group.attrs.get("gp_response_format")
        whole = DONE in group
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a result of gp_response: {error}; choose another path") from error
    if known != FORMAT or not whole:
        raise InputError(f"{path} holds format {known!r}; expected {FORMAT!r}; choose another path")
    return BlockStore(path, group)


def _create(path: Path, arrays: Mapping[str, Layout], names: Any, attributes: Mapping[str, Any], block: int) -> None:
    group = zarr.open_group(path, mode="w-", zarr_format=3, attributes=dict(attributes))
    rows = 0
    for name, layout in arrays.items():
        rows = layout.shape[0]
        per_row = np.dtype(layout.dtype).itemsize * min(block, rows)
        rest = tuple(max(1, min(size, CHUNK_BYTES // per_row)) for size in layout.shape[1:])
        # Digits of measured numbers do not compress; reading without a codec is as fast as the disk.
        group.create_array(
            name, shape=layout.shape, dtype=layout.dtype, chunks=(min(block, rows), *rest),
            dimension_names=layout.dims, compressors=None, fill_value=_nothing(layout.dtype),
        )  # fmt: skip
    for name, labels in names.items():
        whole = group.create_array(
            name, shape=(len(labels),), dtype=str, chunks=(len(labels),), dimension_names=(name,)
        )
        whole[:] = np.array(list(labels), dtype=object)
    count = -(-rows // block)
    group.create_array(DONE, shape=(count,), dtype=bool, chunks=(1,), compressors=None, fill_value=False)
    for file in [*path.rglob("*"), path]:
        _to_disk(file)


def _nothing(dtype: str) -> Any:
    """What stands where nothing was written yet."""
    return float("nan") if np.dtype(dtype).kind == "f" else False


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


__all__ = ["BlockStore", "Layout", "open_store", "take_up"]
