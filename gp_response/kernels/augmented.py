"""Squared distances between blocks of points as one matrix product, with the precision that the profile needs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gp_response.kernels.buffers import Buffer
from gp_response.kernels.tiles import Tile, cut, multiply

ENTRY_ERROR = {torch.float32: 32.0, torch.float64: 1024.0}  # of a fast entry, relative to k(x, x), in units of eps
EXACT_ERROR = 4.0 * torch.finfo(torch.float64).eps
DENSE_REPAIR = 0.02  # share of near pairs above which a whole block is taken by differences


class Distances:
    """Blocks of `multiple * |x_i - y_j|²` for x (n, d) and y (m, d), as products of `[u, |u|²/2, 1]`, u centred.

    The product loses `eps |u|²` to cancellation. `profile` is what the distance goes into: it is tried out on a grid of
    distances, and the cheapest way whose error it does not raise above ENTRY_ERROR is taken:

    "product": in the precision asked for;
    "double": in float64, then rounded;
    "repaired": in float64, and pairs that are still too near for it by differences. A profile with a kink at 0 (an
    Ornstein-Uhlenbeck kernel), far from its origin, or one nobody knows ends here;
    "split": what `exact` takes in float64: a product of the leading bits without any rounding, and one of the rest, as
    right as differences and several times faster; pairs too near even for that by differences.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        dtype: torch.dtype,
        *,
        multiple: float,
        profile: Callable[[Tensor], Tensor],
        exact: bool = False,
    ) -> None:
        self.same, self.sign, self.near = y is x, math.copysign(1.0, multiple), 0.0
        self.mode = "split" if exact else _mode(profile, _growth(*_centred(x, y)), dtype)
        if self.mode in ("product", "double"):
            self.after, working = 1.0, dtype if self.mode == "product" else torch.float64
            u, w = (p * math.sqrt(2.0 * abs(multiple)) for p in _centred(x, y))
            self.products = [augmented(u, w, working, self.sign)]
        else:
            # Nothing may move the points now: neither the centre nor the multiple, which comes after the product.
            self.after, working = 2.0 * abs(multiple), torch.float64
            u, w = _centred(x, y, exactly=True)
            self.products, eps, tolerance = self._fine(u, w, dtype)
            self.near = 0.5 * (too_near(profile, _growth(u, w) * eps, tolerance) or 0.0)
        self.points = u, w
        self._out, self._wide = Buffer(dtype, x.device), Buffer(working, x.device)

    def _fine(self, u: Tensor, w: Tensor, dtype: torch.dtype) -> tuple[list[tuple[Tensor, Tensor]], float, float]:
        """Products in float64, their unit of rounding, and the error that an entry may have."""
        if self.mode == "split":
            return *split(u, w, self.sign), EXACT_ERROR
        return (
            [augmented(u, w, torch.float64, self.sign)],
            torch.finfo(torch.float64).eps,
            ENTRY_ERROR[dtype] * torch.finfo(dtype).eps,
        )

    def __call__(self, tile: Tile) -> Tensor:
        """The blocks in a buffer that the next call overwrites. They may be off 0 by rounding, to either side."""
        (left, right), *rest = self.products
        right = cut(right, tile)
        shape = len(right), tile.rows.stop - tile.rows.start, right.shape[2]
        q = self._out(*shape)
        wide = multiply(left[tile.rows], right, q if left.dtype == q.dtype else self._wide(*shape))
        for left, right in rest:
            multiply(left[tile.rows], cut(right, tile), wide, add=True)
        if self.near:
            self._repair(wide, self.points[0][tile.rows], self.points[1][tile.columns].unflatten(0, (len(q), -1)))
        if wide is not q:
            q.copy_(wide)
        if self.after != 1.0:
            q.mul_(self.after)
        if self.same and tile.starts_on_diagonal:
            q[0].fill_diagonal_(0.0)
        return q

    def _repair(self, q: Tensor, x: Tensor, y: Tensor) -> None:
        """Put differences in place of what cancelled."""
        at, i, j = torch.nonzero(self.sign * q <= self.near, as_tuple=True)
        half = 0.5 * self.sign
        if len(i) > DENSE_REPAIR * q.numel():
            q.copy_(torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(half))
        elif len(i):
            q[at, i, j] = (x[i] - y[at, j]).square_().sum(1).mul_(half)


def augmented(u: Tensor, w: Tensor, dtype: torch.dtype, sign: float) -> tuple[Tensor, Tensor]:
    """[-±u, ±|u|²/2, 1] as rows and [w, 1, ±|w|²/2] as columns, whose product is ±|u - w|²/2."""
    same, u = w is u, u.to(dtype)
    w = u if same else w.to(dtype)
    # The norms of the rounded points: then rounding moves points, and does not spoil distances.
    half_u, half_w = ((0.5 * sign * p.double().square().sum(1, keepdim=True)).to(dtype) for p in (u, w))
    left = torch.cat([-sign * u, half_u, torch.ones_like(half_u)], 1)
    return left, torch.cat([w, torch.ones_like(half_w), half_w], 1).mT.contiguous()


def split(u: Tensor, w: Tensor, sign: float) -> tuple[list[tuple[Tensor, Tensor]], float]:
    """Two products whose sum is ±|u - w|²/2 in float64, and what is left of the rounding of one; Ozaki et al. (2012).

    Points are whole multiples of a step and a rest. The multiples are so small that all sums of their products are
    whole numbers below 2^53: that product has no rounding, whatever cancels in it. The rest contributes little, and
    its rounding is little of little.
    """
    largest = max([float(p.abs().max()) for p in (u, w) if p.numel()] or [0.0])
    bits = (51 - math.ceil(math.log2(max(1, u.shape[-1])))) // 2
    step = 2.0 ** (math.ceil(math.log2(largest)) - bits) if largest else 1.0
    (a, b), (c, d) = ((whole := (p / step).round_() * step, p - whole) for p in (u, w))
    of_u, of_w = (sign * (p * q + 0.5 * q * q).sum(1, keepdim=True) for p, q in ((a, b), (c, d)))
    left = torch.cat([-sign * b, -sign * a, of_u, torch.ones_like(of_u)], 1)
    right = torch.cat([w, d, torch.ones_like(of_w), of_w], 1).mT.contiguous()
    return [augmented(a, c, torch.float64, sign), (left, right)], 2.0 ** (1 - bits) * torch.finfo(torch.float64).eps


def _centred(x: Tensor, y: Tensor, *, exactly: bool = False) -> tuple[Tensor, Tensor]:
    """Both sets in float64 about one centre; `exactly`: only where no difference is rounded (Sterbenz's lemma)."""
    u = x.double()
    w = u if y is x else y.double()
    if not len(u) or not len(w):
        return u, w
    centre = u.mean(0)
    if exactly:
        farthest = torch.maximum((u - centre).abs().amax(0), (w - centre).abs().amax(0))
        centre = torch.where(centre.abs() > 2.0 * farthest, centre, 0.0)
    u = u - centre
    return u, u if y is x else w - centre


def _growth(u: Tensor, w: Tensor) -> float:
    """Error of the augmented product in units of rounding, measured: the largest of millions of pairs."""
    size = sum(float(p.square().sum(1).max()) if p.numel() else 0.0 for p in (u, w))
    return size * (0.6 + 0.45 * math.sqrt(u.shape[-1]))


def _mode(profile: Callable[[Tensor], Tensor], growth: float, dtype: torch.dtype) -> str:
    for mode, working in (("product", dtype), ("double", torch.float64)):
        if too_near(profile, growth * _precision(working), _tolerance(dtype)) is None:
            return mode
    return "repaired"


def _tolerance(dtype: torch.dtype) -> float:
    return ENTRY_ERROR[dtype] * torch.finfo(dtype).eps


def ready(
    x: Tensor, y: Tensor, dtype: torch.dtype, *, profile: Callable[[Tensor], Tensor], exact: bool
) -> tuple[Tensor, Tensor, bool] | None:
    """Points to take distances of in one precision, and whether products will do; None where differences will not.

    In float64 differences do whatever the points, and nothing moves them. float32 rounds points, centred ones less.
    """
    u, w = _centred(x, y)
    if not exact and too_near(profile, _growth(u, w) * torch.finfo(dtype).eps, _tolerance(dtype)) is None:
        return u, w, True
    if dtype == torch.float64:
        return x.double(), x.double() if y is x else y.double(), False
    moved = torch.finfo(dtype).eps * max([float(p.square().sum(1).max().sqrt()) for p in (u, w) if p.numel()] or [0.0])
    near = too_near(profile, lambda r2: 2.0 * r2.sqrt() * moved + moved**2, _tolerance(dtype))
    return (u, w, False) if near is None else None


def _precision(dtype: torch.dtype) -> float:
    """Unit of rounding of a matrix product, also where the caller has allowed TensorFloat-32."""
    rounded = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return 2.0**-8 if rounded else torch.finfo(dtype).eps


def too_near(
    profile: Callable[[Tensor], Tensor], error: float | Callable[[Tensor], Tensor], tolerance: float
) -> float | None:
    """The squared distance up to which an `error` in it can move the profile by more than `tolerance`, None if none.

    The tolerance is relative to the largest value. What is not a number counts as moved. error: or a function of it.
    """
    r2 = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-20, 6, 209, dtype=torch.float64)])
    off = error(r2) if callable(error) else error
    values = profile(torch.stack([r2, r2 + off, (r2 - off).clamp_min(0.0)])).expand(3, -1)
    moved = (values[1:] - values[0]).abs().amax(0)
    bad = (~(moved <= tolerance * values[0].abs().max())).nonzero()
    if not len(bad):
        return None
    last = int(bad[-1])
    return float(r2[last + 1]) if last + 1 < len(r2) else math.inf


__all__ = ["ENTRY_ERROR", "Distances", "ready", "too_near"]
