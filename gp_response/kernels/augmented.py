"""Squared distances between blocks of points as one matrix product, with the precision that the profile needs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gp_response.kernels.buffers import Buffer

ENTRY_ERROR = {torch.float32: 32.0, torch.float64: 1024.0}  # of a fast entry, relative to k(x, x), in units of eps
DENSE_REPAIR = 0.02  # share of near pairs above which a whole block is taken by differences


class Distances:
    """Blocks of `multiple * |x_i - y_j|²` for x (n, d) and y (m, d), as products of `[u, |u|²/2, 1]`, u centred.

    The product loses `eps |u|²` to cancellation. `profile` is what the distance goes into: it is tried out on a grid of
    distances, and the cheapest way whose error it does not raise above ENTRY_ERROR is taken:

    "product": in the precision asked for;
    "double": in float64, then rounded;
    "repaired": in float64, and pairs that are still too near for it by differences. A profile with a kink at 0 (an
    Ornstein-Uhlenbeck kernel), far from its origin, or one nobody knows ends here.
    """

    def __init__(
        self, x: Tensor, y: Tensor, dtype: torch.dtype, *, multiple: float, profile: Callable[[Tensor], Tensor]
    ) -> None:
        self.same, self.dtype, self.sign = y is x, dtype, math.copysign(1.0, multiple)
        centre = (x if len(x) else y).double().mean(0, keepdim=True) if len(x) + len(y) else 0.0
        scale = math.sqrt(2.0 * abs(multiple))
        u, w = (((p.double() - centre) * scale) for p in (x, y))
        square = sum(float(p.square().sum(1).max()) if p.numel() else 0.0 for p in (u, w)) / (2.0 * abs(multiple))
        self.mode, working, self.near = _mode(profile, square, x.shape[-1], dtype)
        self.near *= abs(multiple)
        self.exact = (u, w) if self.mode == "repaired" else None
        self.left, self.right = _augmented(u, w, working, self.sign)
        self._out, self._wide = Buffer(dtype, x.device), Buffer(torch.float64, x.device)

    def __call__(self, rows: slice, columns: slice) -> Tensor:
        """The block in a buffer that the next call overwrites. It may be off 0 by rounding, to either side."""
        left, right = self.left[rows], self.right[:, columns]
        q = self._out(left.shape[0], right.shape[1])
        if left.dtype == q.dtype:
            torch.mm(left, right, out=q)
            wide = q
        else:
            wide = torch.mm(left, right, out=self._wide(*q.shape))
        if self.exact is not None:
            self._repair(wide, rows, columns)
        if wide is not q:
            q.copy_(wide)
        if self.same and rows.start == columns.start:
            q.fill_diagonal_(0.0)
        return q

    def _repair(self, q: Tensor, rows: slice, columns: slice) -> None:
        """Put differences in place of what cancelled."""
        assert self.exact is not None
        x, y = self.exact[0][rows], self.exact[1][columns]
        i, j = torch.nonzero(self.sign * q <= self.near, as_tuple=True)
        half = 0.5 * self.sign
        if len(i) > DENSE_REPAIR * q.numel():
            q.copy_(torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(half))
        elif len(i):
            q[i, j] = (x[i] - y[j]).square_().sum(1).mul_(half)


def _augmented(u: Tensor, w: Tensor, dtype: torch.dtype, sign: float) -> tuple[Tensor, Tensor]:
    """[-±u, ±|u|²/2, 1] as rows and [w, 1, ±|w|²/2] as columns, whose product is ±|u - w|²/2."""
    same, u = w is u, u.to(dtype)
    w = u if same else w.to(dtype)
    # The norms of the rounded points: then rounding moves points, and does not spoil distances.
    half_u, half_w = ((0.5 * sign * p.double().square().sum(1, keepdim=True)).to(dtype) for p in (u, w))
    left = torch.cat([-sign * u, half_u, torch.ones_like(half_u)], 1)
    return left, torch.cat([w, torch.ones_like(half_w), half_w], 1).mT.contiguous()


def _mode(
    profile: Callable[[Tensor], Tensor], square: float, dim: int, dtype: torch.dtype
) -> tuple[str, torch.dtype, float]:
    """Mode, working precision, and the squared distance up to which pairs want differences."""
    tolerance = ENTRY_ERROR[dtype] * torch.finfo(dtype).eps
    growth = square * (0.6 + 0.45 * math.sqrt(dim))  # of rounding, measured: the largest of millions of pairs
    if too_near(profile, growth * _precision(dtype), tolerance) is None:
        return "product", dtype, 0.0
    near = too_near(profile, growth * _precision(torch.float64), tolerance)
    return ("double", torch.float64, 0.0) if near is None else ("repaired", torch.float64, near)


def _precision(dtype: torch.dtype) -> float:
    """Unit of rounding of a matrix product, also where the caller has allowed TensorFloat-32."""
    rounded = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return 2.0**-8 if rounded else torch.finfo(dtype).eps


def too_near(profile: Callable[[Tensor], Tensor], error: float, tolerance: float) -> float | None:
    """The squared distance up to which an `error` in it can move the profile by more than `tolerance`, None if none.

    The tolerance is relative to the largest value. What is not a number counts as moved.
    """
    r2 = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-20, 6, 209, dtype=torch.float64)])
    values = profile(torch.stack([r2, r2 + error, (r2 - error).clamp_min(0.0)])).expand(3, -1)
    moved = (values[1:] - values[0]).abs().amax(0)
    bad = (~(moved <= tolerance * values[0].abs().max())).nonzero()
    if not len(bad):
        return None
    last = int(bad[-1])
    return float(r2[last + 1]) if last + 1 < len(r2) else math.inf


__all__ = ["ENTRY_ERROR", "Distances", "too_near"]
