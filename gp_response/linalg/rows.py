"""Many long vectors kept as the rows of one tensor, in few bytes, with sums in float64.

Every operation runs over slices of columns that fit a cache and are widened there, so rows in bfloat16 or float32 are taken
for exactly what they hold, and no second copy of them ever exists.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Bytes of a slice in float64: a core's cache, or enough work for a launch on a GPU.
SLICE_CPU, SLICE_GPU = 2**20, 2**28


class Written(NamedTuple):
    """What `Rows.write` measured: inner products (m + r, r) of the new rows with all and themselves, and the Gram matrix
    (w, w) of what they leave of the image."""

    gram: Tensor
    left: Tensor


class Rows:
    """Up to `capacity` vectors of n numbers.

    Args:
        n: numbers in a vector.
        capacity: rows there is room for; untouched ones cost no memory.
        dtype: how they are stored.
        device: where.
    """

    def __init__(self, n: int, capacity: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"):
        self.data = torch.empty(capacity, n, dtype=dtype, device=device)

    @property
    def n(self) -> int:
        return self.data.shape[1]

    @property
    def capacity(self) -> int:
        return len(self.data)

    def slices(self, rows: int) -> Iterator[slice]:
        """Columns in pieces, for work on so many rows."""
        size = SLICE_CPU if self.data.device.type == "cpu" else SLICE_GPU
        step = max(256, size // (8 * max(1, rows)))
        return (slice(at, min(at + step, self.n)) for at in range(0, self.n, step))

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self.data.device)

    def project(self, v: Tensor, m: int) -> Tensor:
        """`Q v` for the first m rows Q and v (n, t), (m, t) float64."""
        found = self.zeros(m, v.shape[1])
        for at in self.slices(m + v.shape[1]):
            found += self.data[:m, at].double() @ v[at].double()
        return found

    def lift(
        self, low: Tensor, dtype: torch.dtype = torch.float64, *, onto: Tensor | None = None, times: float = 1.0
    ) -> Tensor:
        """`Qᵀ low`, or `times · onto + Qᵀ low`, for low (m, t) float64, (n, t) in `dtype`."""
        m, t = low.shape
        found = torch.empty(self.n, t, dtype=dtype, device=self.data.device)
        for at in self.slices(m + t):
            part = self.data[:m, at].double().T @ low
            found[at] = part if onto is None else part + times * onto[at]
        return found

    def sweep(self, m: int, image: Tensor, turn: Tensor, less: Tensor) -> tuple[Tensor, Tensor]:
        """`Q B` (m, w) and `BᵀB` (w, w) of `B = image turn - Qᵀ less`, which is never formed. image: (n, w)."""
        beside, gram = torch.zeros_like(less), self.zeros(turn.shape[1], turn.shape[1])
        for at in self.slices(m + 2 * len(turn)):
            known = self.data[:m, at].double()
            part = image[at].double() @ turn - known.T @ less
            beside += known @ part
            gram += part.T @ part
        return beside, gram

    def write(self, m: int, image: Tensor, turn: Tensor, less: Tensor, known: Tensor, new: Tensor) -> Written:
        """Store `image turn - Qᵀ less` as rows m, ..., m + r. image may be a view of those rows.

        Args:
            turn, less: (w, r) and (m, r).
            known, new: (m, w) and (r, w): `Written.left` belongs to `image - Qᵀ known - (new rows)ᵀ new`.
        """
        r = turn.shape[1]
        gram, left = self.zeros(m + r, r), self.zeros(new.shape[1], new.shape[1])
        for at in self.slices(m + 3 * len(turn)):
            old, raw = self.data[:m, at].double(), image[at].double()
            stored = (raw @ turn - old.T @ less).T.to(self.data.dtype)
            fresh = stored.double()
            rest = raw - old.T @ known - fresh.T @ new
            self.data[m : m + r, at] = stored
            left += rest.T @ rest
            gram[:m] += old @ fresh.T
            gram[m:] += fresh @ fresh.T
        return Written(gram, left)

    def rotate(self, turn: Tensor, m: int) -> tuple[Tensor, Tensor]:
        """Replace the first k rows by `turnᵀ Q`, turn (k, p) with p <= k, and move rows k, ..., m up behind them.

        Returns:
            The Gram matrix of all rows now there, and that of what storing the p rows rounded away, (p, p).
        """
        k, p = turn.shape
        now = p + m - k
        gram, lost = self.zeros(now, now), self.zeros(p, p)
        for at in self.slices(2 * m):
            turned = turn.T @ self.data[:k, at].double()
            moved = self.data[k:m, at].clone()
            self.data[:p, at] = turned.to(self.data.dtype)
            self.data[p:now, at] = moved
            every = self.data[:now, at].double()
            gram += every @ every.T
            lost += (every[:p] - turned) @ (every[:p] - turned).T
        return gram, lost


__all__ = ["Rows", "Written"]
