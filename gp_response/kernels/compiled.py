"""Products of whole kernel matrices in one call: pairs.cpp, compiled on first use for the machine at hand.

Without a C++ compiler there is nothing here, and blocks are multiplied by torch, two to three times slower.
"""

import ctypes
import hashlib
import os
import shlex
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import pooch
import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("pairs.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-shared", "-fPIC")
PROFILES = ("rbf", "matern12", "matern32", "matern52")  # in the order of pairs.cpp
SIDE_BYTES = 1024  # of a row of a tile there
PANEL_BYTES = 256  # of as many columns as are evaluated together
COLUMNS = 256  # of v taken at once

# Coordinates from which reading blocks from memory is faster than evaluating them, with 8 columns (kernel_products).
KEPT_DIM = {torch.float32: 8, torch.float64: 4}


class Pairs:
    """K(x, y) without its factor, for x (n, d) and y (m, d) on the CPU.

    Args:
        x, y: points, used as they are; y is x makes a symmetric matrix.
        profile: one of PROFILES, of `multiple` times the squared distance.
        dtype: float32 or float64, of points, entries and products.
        expanded: squared distances by products of coordinates, which cancel, instead of by differences.

    Attributes: kept, the bytes in use for blocks.
    """

    def __init__(
        self, x: Tensor, y: Tensor, dtype: torch.dtype, *, profile: str, multiple: float, expanded: bool
    ) -> None:
        self.n, self.m, self.dim, self.dtype, self.symmetric = len(x), len(y), x.shape[1], dtype, y is x
        self._entry = getattr(library(), f"pairs_{str(dtype).removeprefix('torch.')}")
        self._entry.restype = ctypes.c_int
        self._profile, self._multiple = PROFILES.index(profile), multiple
        size = torch.finfo(dtype).bits // 8
        self._side, self._panel = SIDE_BYTES // size, PANEL_BYTES // size
        rows = _padded(x, dtype, self._side)
        columns = rows if self.symmetric else _padded(y, dtype, self._side)
        self._x, self._y = rows, columns.unflatten(0, (-1, self._panel)).mT.contiguous()
        # The norms of the rounded points: then rounding moves points, and does not spoil distances.
        halves: list[Tensor | None] = [None, None]
        if expanded:
            halves = [(0.5 * p.double().square().sum(1)).to(dtype) for p in (rows, columns)]
        self._half_x, self._half_y = halves
        self._store, self._filled = torch.empty(0, self._side**2, dtype=dtype), False

    def keep(self, size: int) -> None:
        """Keep as many blocks as go into so many bytes, the next product fills them in; none that are made as fast."""
        if self.dim < KEPT_DIM[self.dtype]:
            return
        n, m = (-(-k // self._side) for k in (self.n, self.m))
        blocks = n * (n + 1) // 2 if self.symmetric else n * m
        self._store = torch.empty(min(size // (SIDE_BYTES * self._side), blocks), self._side**2, dtype=self.dtype)
        self._filled = False

    @property
    def kept(self) -> int:
        return self._store.numel() * self._store.element_size() * self._filled

    def product(self, v: Tensor) -> Tensor:
        """K @ v for v (m, t) in the same dtype, as (n, t); every thread holds up to COLUMNS of them twice."""
        return torch.cat([self._product(part) for part in v.split(COLUMNS, dim=1)], dim=1)

    def _product(self, v: Tensor) -> Tensor:
        vectors = v.new_zeros(v.shape[1], len(self._y) * self._panel)
        vectors[:, : self.m] = v.T
        out = v.new_zeros(v.shape[1], len(self._x))
        if v.shape[1] and self.n and self.m:
            self._run(slice(0, self.n), slice(0, self.m), out, vectors)
            self._filled = True
        return out[:, : self.n].T.contiguous()

    def block(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """K[rows, columns] into out, contiguous."""
        before = columns.start % self._panel
        if before:
            start = columns.start - before
            wider = out.new_empty(len(out), columns.stop - start)
            return out.copy_(self.block(rows, slice(start, columns.stop), wider)[:, before:])
        self._run(rows, columns, out, None)
        return out

    def _run(self, rows: slice, columns: slice, out: Tensor, v: Tensor | None) -> None:
        high, wide = len(self._x), len(self._y) * self._panel
        numbers = [
            rows.stop - rows.start,
            columns.stop - columns.start,
            high,
            wide,
            self.dim,
            0 if v is None else len(v),
        ]
        points = [
            self._x[rows],
            self._y[columns.start // self._panel :],
            _cut(self._half_x, rows),
            _cut(self._half_y, columns),
        ]
        pointers = [
            ctypes.c_void_p(None if t is None or not t.numel() else t.data_ptr())
            for t in (*points, v, out, self._store)
        ]
        failed = self._entry(
            torch.get_num_threads(), self._profile, ctypes.c_double(self._multiple), int(self.symmetric and v is not None),
            *map(ctypes.c_int64, numbers), *pointers, ctypes.c_int64(len(self._store)), int(self._filled),
        )  # fmt: skip
        assert not failed, "profile unknown to pairs.cpp"


def _cut(t: Tensor | None, at: slice) -> Tensor | None:
    return None if t is None else t[at]


def _padded(points: Tensor, dtype: torch.dtype, side: int) -> Tensor:
    """Points in a precision, followed by zeros for whole blocks and one more."""
    padded = torch.zeros(-(-len(points) // side) * side + side, points.shape[1], dtype=dtype)
    padded[: len(points)] = points
    return padded


@cache
def library() -> ctypes.CDLL | None:
    """pairs.cpp compiled by g++, or the GCC named in CXX; None where that cannot be had, and a warning says why, once."""
    try:
        return ctypes.CDLL(str(_compiled(shlex.split(os.environ.get("CXX", "")) or ["g++"])))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").strip()[:500]
        warnings.warn(
            f"kernel products go by torch, two to three times slower, as pairs.cpp is not compiled: {error} {said}",
            stacklevel=2,
        )
        return None


def _compiled(compiler: list[str]) -> Path:
    """The shared library in the user's cache, made if it is not there; by source, compiler and processor."""
    flags = [*FLAGS, *(["-fopenmp"] if torch.backends.openmp.is_available() else [])]
    target = _output(*compiler, "-march=native", "-Q", "--help=target") + _output(*compiler, "--version")
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(flags).encode(), target])).hexdigest()[:16]
    path = Path(pooch.os_cache("gp_response")) / "compiled" / f"pairs-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            _output(*compiler, *flags, "-o", str(made), str(SOURCE))
            made.replace(path)
    return path


def _output(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


__all__ = ["PROFILES", "Pairs", "library"]
