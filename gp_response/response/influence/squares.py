"""Products with the Hadamard square of a covariance, `(S∘S) v`, in four ways that each know their error.

All of them know S up to `|S - Ŝ|_ij <= off_i off_j`, which a positive semi-definite remainder with diagonal off² obeys, and so
`|S∘S - Ŝ∘Ŝ|_ij <= 2 |Ŝ_ij| off_i off_j + off_i² off_j²`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.linalg.blocks import block_size
from gp_response.posterior import Certified

EPS = torch.finfo(torch.float64).eps
BYTES = 2**27  # of one block of rows
WIDTH = 256  # columns of a factor taken at a time
ROUNDING = 8.0 * EPS


class Estimated(NamedTuple):
    """A product (n, t): its value, a bound on what is not chance of its error, and the standard error of what is."""

    value: Tensor
    error: Tensor
    standard_error: Tensor


class Squares(ABC):
    """`S∘S` of n training rows.

    Attributes:
        rank: of what stands for S, None where it is S itself.
        own: certified diagonal of S, (n,).
    """

    rank: int | None = None
    own: Certified

    @abstractmethod
    def times(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        """`(S∘S) v` for v (n, t); the error is infinite unless `bounded`."""

    def linear(self, v: Tensor) -> Tensor | None:
        """`S v` for v (n, t), where it is at hand without a solve."""
        return None

    def entries(self, at: Tensor) -> Certified | None:
        """Rows of S, (k, n), where they are at hand."""
        return None

    @abstractmethod
    def among(self, at: Tensor) -> Certified:
        """S among the rows of each set of `at` (k, q), (k, q, q), as sharp as the way knows it."""


class Stored(Squares):
    """S kept as a matrix (n, n); 2 n² multiplications a product."""

    def __init__(self, matrix: Tensor, off: Tensor):
        self.matrix, self.off = matrix, off
        self.own = Certified(matrix.diagonal().clamp_min(0.0), off.square())

    def times(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        return _by_blocks(self._blocks(), self.off, v, bounded)

    def linear(self, v: Tensor) -> Tensor | None:
        return self.matrix @ v

    def entries(self, at: Tensor) -> Certified | None:
        return Certified(self.matrix[at], self.off[at][:, None] * self.off)

    def among(self, at: Tensor) -> Certified:
        one, other = at[:, :, None], at[:, None, :]
        return Certified(self.matrix[one, other], self.off[one] * self.off[other])

    def _blocks(self) -> Iterator[Tensor]:
        return iter(self.matrix.split(block_size(16 * len(self.matrix), BYTES, most=len(self.matrix))))


class Recomputed(Squares):
    """S never kept: certified rows made anew for every product, as many solves as there are rows.

    Args:
        rows: indices (k,) -> certified rows of S, (k, n).
        step: rows at a time.
    """

    def __init__(self, rows: Callable[[Tensor], Certified], own: Certified, *, step: int):
        self.rows, self.own, self.step = rows, own, step

    def times(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        parts = [self._block(at, v) for at in torch.arange(len(v), device=v.device).split(self.step)]
        value, error = (torch.cat(part) for part in zip(*parts, strict=True))
        return Estimated(value, error, torch.zeros_like(value))

    def among(self, at: Tensor) -> Certified:
        size, found = at.shape[1], []
        for some in at.split(max(1, self.step // size)):
            columns = some.repeat_interleave(size, dim=0)  # of a row, those of its set
            found.append([part.gather(1, columns) for part in self.rows(some.flatten())])
        return Certified(*(torch.cat(part).reshape(-1, size, size) for part in zip(*found, strict=True)))

    def _block(self, at: Tensor, v: Tensor) -> Certified:
        seen, off = self.rows(at)
        square = seen.square()
        loose = off * (2.0 * seen.abs() + off) + ROUNDING * square
        return Certified(square @ v, loose @ v.abs())


class Spanned(Squares):
    """`Ŝ = FᵀF` for F (r, n), below S, and the diagonal of S itself where that is known.

    By Khatri-Rao, `(Ŝ∘Ŝ) v = diag(Fᵀ (F diag(v) Fᵀ) F)`, 2 n r² multiplications a vector.

    Args:
        rows: F.
        off: (n,), with what remains of S bounded by `off_i off_j`.
        own: certified diagonal of S.
        norm: bound on the norm of what remains.
    """

    def __init__(self, rows: Tensor, off: Tensor, own: Certified, norm: float):
        self.rows, self.off, self.own, self.norm, self.rank = rows, off, own, norm, len(rows)
        self.low = rows.square().sum(dim=0)
        self.beside = own.value.square() - self.low.square()
        # Norms of the rows of Ŝ: diag(Fᵀ FFᵀ F).
        self.reach = (self.rows * ((rows @ rows.T) @ rows)).sum(dim=0).clamp_min(0.0).sqrt()

    def times(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        # Many vectors share the rows of Ŝ, which then cost less than a Gram matrix for each.
        wide = 2 * len(self.rows) * v.shape[1] > v.shape[0]
        value = self._by_rows(v) if wide else torch.stack([self._khatri_rao(column) for column in v.T], dim=1)
        value = value + self.beside[:, None] * v
        error = self._error(v.abs()) if bounded else torch.full_like(v, float("inf"))
        return Estimated(value, error, torch.zeros_like(value))

    def among(self, at: Tensor) -> Certified:
        step, found = block_size(16 * len(self.rows) * at.shape[1], BYTES, most=len(at)), []
        for some in at.split(step):
            low = self.rows[:, some].movedim(0, -1)  # (k, q, r)
            value, error = low @ low.mT, self.off[some][:, :, None] * self.off[some][:, None, :]
            for part, own in zip((value, error), self.own, strict=True):
                part.diagonal(dim1=1, dim2=2).copy_(own[some])
            found.append((value, error))
        return Certified(*(torch.cat(part) for part in zip(*found, strict=True)))

    def cross(self, left: Tensor, right: Tensor) -> Tensor:
        """`left ∘ Ŝ right`, (n, q)."""
        return left * (self.rows.T @ (self.rows @ right))

    def _khatri_rao(self, v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for start in range(0, len(self.rows), WIDTH):
            some, until = self.rows[start : start + WIDTH], self.rows[: start + WIDTH]
            gram = (some * v) @ until.T
            gram[:, :start] *= 2.0  # for the blocks above the diagonal, too: half the work
            total += (some * (gram @ until)).sum(dim=0)
        return total

    def _by_rows(self, v: Tensor) -> Tensor:
        step = block_size(16 * len(v), BYTES, most=len(v))
        return torch.cat([(some.T @ self.rows).square_() @ v for some in self.rows.split(step, dim=1)])

    def _error(self, size: Tensor) -> Tensor:
        """Of n numbers, not n²: by `|Ŝ_ij| <= (Ŝ_ii Ŝ_jj)^½` and `|E_ij| <= off_i off_j`, and by the norms of the rows of
        `2 Ŝ∘E + E∘E`, where `Σ_j E_ij² <= ‖E‖ off_i²`; off the diagonal, which has its own bound."""
        loose, square = self.low.sqrt() * self.off, self.off.square()
        entries = 2.0 * loose[:, None] * (loose @ size) + square[:, None] * (square @ size)
        entries = entries - (2.0 * loose.square() + square.square())[:, None] * size
        most, root = float(self.off.max()), self.norm**0.5
        mixed = torch.minimum((self.low * self.low.max()).sqrt() * root, most * self.reach)
        by_norm = (self.off * (2.0 * mixed + self.off * most * root))[:, None] * size.norm(dim=0)
        value, error = self.own
        diagonal = (error * (2.0 * value + error))[:, None] * size
        rounding = ROUNDING * (len(self.rows) ** 0.5 + 1.0) * value[:, None] * (value @ size)
        return torch.minimum(entries.clamp_min(0.0), by_norm) + diagonal + rounding


class Sampled(Squares):
    """`S∘S = E[½ (diag(Sz) S diag(z) + diag(z) S diag(Sz))]` over random signs z, unbiased and symmetric, around a low-rank part.

    The estimate is of what S∘S is more than `Ŝ∘Ŝ`; its signs are drawn once, so that the operator is one matrix.

    Args:
        base: the low-rank part.
        times: v (n, t) -> certified `S v`, one solve.
        signs: z, (n, q), q >= 2.
    """

    def __init__(self, base: Spanned, times: Callable[[Tensor], Certified], signs: Tensor):
        self.base, self.solve, self.signs = base, times, signs
        self.own, self.rank = base.own, base.rank
        self.image, self.image_error = times(signs)
        self.low_image = base.cross(torch.ones_like(signs), signs)

    def times(self, v: Tensor, *, bounded: bool = True) -> Estimated:
        parts = [self._column(column, bounded) for column in v.T]
        drawn = Estimated(*(torch.stack(part, dim=1) for part in zip(*parts, strict=True)))
        known = self.base.times(v, bounded=False)
        rounding = ROUNDING * (known.value.abs() + drawn.value.abs())
        value = known.value - self.base.beside[:, None] * v + drawn.value
        return Estimated(value, drawn.error + rounding, drawn.standard_error)

    def among(self, at: Tensor) -> Certified:
        return self.base.among(at)

    def _column(self, v: Tensor, bounded: bool) -> Estimated:
        z, count, weight = self.signs, self.signs.shape[1], v[:, None]
        there, error = self.solve(torch.cat([z * weight, self.image * weight], dim=1))
        first, second = there.split(count, dim=1)
        high = self.image * first + z * second
        low = self.base.cross(self.low_image, z * weight) + self.base.cross(z, self.low_image * weight)
        each = 0.5 * (high - low)
        mean, spread = each.mean(dim=1), each.std(dim=1) / count**0.5
        if not bounded:
            return Estimated(mean, torch.full_like(mean, float("inf")), spread)
        return Estimated(mean, self._error(v.abs(), first.abs(), *error.split(count, dim=1)), spread)

    def _error(self, size: Tensor, first: Tensor, first_error: Tensor, second_error: Tensor) -> Tensor:
        """What the solves' errors move the mean by: through Sz twice, once outside and once inside S."""
        most = (self.own.value + self.own.error).sqrt()
        outside = self.image.abs() * first_error + self.image_error * (first + first_error) + second_error
        inside = most[:, None] * (most @ (self.image_error * size[:, None]))
        return 0.5 * (outside + inside).mean(dim=1)


def _by_blocks(blocks: Iterator[Tensor], off: Tensor, v: Tensor, bounded: bool) -> Estimated:
    if not bounded:
        value = torch.cat([block.square() @ v for block in blocks])
        return Estimated(value, torch.full_like(value, float("inf")), torch.zeros_like(value))
    size, scaled, t = v.abs(), off[:, None] * v.abs(), v.shape[1]
    both, linear = [], []
    for block in blocks:
        linear.append(block.abs() @ scaled)
        both.append(block.square() @ torch.cat([v, size], dim=1))
    value, absolute = torch.cat(both).split(t, dim=1)
    square = off.square()
    error = 2.0 * off[:, None] * torch.cat(linear) + square[:, None] * (square @ size) + ROUNDING * absolute
    return Estimated(value.clone(), error, torch.zeros_like(error))


__all__ = ["Estimated", "Recomputed", "Sampled", "Spanned", "Squares", "Stored"]
