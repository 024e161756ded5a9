"""New orthonormal rows from the image of a block, whatever the image's rank and however nearly its columns agree.

Classical Gram-Schmidt against all rows at once, twice and more, then `B ← B (BᵀB)^-½` ("Cholesky QR", Yamamoto et al. 2015)
as often as the condition of the block needs it. All of it acts on small matrices: the block is `image turn - Qᵀ less` and is
written once. Sizes come from the singular values of the triangular factor, so a direction is dropped for being small beside
the operator and not beside an absolute number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.linalg.rows import Rows

EPS = torch.finfo(torch.float64).eps
RESOLVED = 1e-16  # ratio of eigenvalues of a Gram matrix that its rounding leaves visible
ALIKE = 0.1  # ratio of eigenvalues of a block whose columns have about one length
ROUNDS = 8
CLOSE = 64.0  # loss of orthogonality that is let be, in units of the storage's rounding


class Appended(NamedTuple):
    """`image = Qᵀ known + (new rows)ᵀ new + rest`.

    Attributes:
        overlap: `Q image` as measured, (m, w).
        known: (m, w). new: (r, w).
        gram: inner products of the r new rows with all rows and themselves, (m + r, r).
        left: a bound of the Gram matrix of the rest, (w, w).
    """

    overlap: Tensor
    known: Tensor
    new: Tensor
    gram: Tensor
    left: Tensor


class _Block(NamedTuple):
    """`B = image turn - Qᵀ less`, orthonormal, (n, u) with u <= w; `image = Qᵀ known + B size` but for what is too small."""

    turn: Tensor
    less: Tensor
    known: Tensor
    size: Tensor
    overlap: Tensor


def append(rows: Rows, gram: Tensor, image: Tensor, *, smallest: float, most: int) -> Appended:
    """Store what `image` (n, w) has outside the span of the first m rows as rows m, m + 1, ...

    Args:
        gram: `Q Qᵀ` of the m rows, (m, m) float64.
        smallest: directions of this size and below are left out.
        most: new rows at most; the largest directions are taken.
    """
    m = len(gram)
    close = CLOSE * torch.finfo(rows.data.dtype).eps
    block = _orthonormal(rows, gram, image, smallest, close)
    turn, size, _ = torch.linalg.svd(block.size)
    r = min(int((size > smallest).sum()), most)
    turn = turn[:, :r]
    new = turn.T @ block.size
    written = rows.write(m, image, block.turn @ turn, block.less @ turn, block.known, new)
    found = Appended(block.overlap, block.known, new, written.gram, written.left)
    # The rounding of the image is as large beside a small direction as the image is.
    reach = float(block.overlap.norm() + size[:1].sum())
    if r and EPS * reach > close * float(size[r - 1]):
        found = _again(rows, gram, found, close)
    return found


def _orthonormal(rows: Rows, gram: Tensor, image: Tensor, smallest: float, close: float) -> _Block:
    m, w = len(gram), image.shape[1]
    root = torch.linalg.cholesky(gram)
    turn = size = torch.eye(w, dtype=torch.float64, device=gram.device)
    overlap, _ = rows.sweep(m, image, turn, rows.zeros(m, w))
    less = known = torch.cholesky_solve(overlap, root)
    for _ in range(ROUNDS):
        beside, inner = rows.sweep(m, image, turn, less)
        step = torch.cholesky_solve(beside, root)
        known, less = known + step @ size, less + step
        inner = inner - beside.T @ step
        values, vectors = torch.linalg.eigh(0.5 * (inner + inner.T))
        if not float(values[-1]) > 0.0:
            turn, less, size = turn[:, :0], less[:, :0], size[:0]
            break
        back, forth = _normalising(inner, values, vectors)
        turn, less, size = turn @ back, less @ back, forth @ size
        live = size.norm(dim=1) > smallest  # what is not is rounding, and would grow
        turn, less, size = turn[:, live], less[:, live], size[live]
        if not bool(live.any()) or EPS * float(values[-1]) <= close * float(values[0]):
            break
    return _Block(turn, less, known, size, overlap)


def _normalising(inner: Tensor, values: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """`back` with `backᵀ inner back` the identity as far as float64 sees it, and its inverse.

    Columns stand largest first. A column that is small in the image is large in `turn`, so none may enter those before it:
    once all have about one length, which leaves the eigenvectors undetermined, the factor is triangular.
    """
    if float(values[0]) > ALIKE * float(values[-1]):
        upper = torch.linalg.cholesky(inner).T
        return torch.linalg.solve_triangular(upper, torch.eye(len(inner)).to(inner), upper=True), upper
    roots, vectors = values.flip(0).clamp_min(RESOLVED * float(values[-1])).sqrt(), vectors.flip(1)
    return vectors / roots, roots[:, None] * vectors.T


def _again(rows: Rows, gram: Tensor, found: Appended, close: float) -> Appended:
    """The new rows themselves, made orthonormal once more."""
    m, r = len(gram), len(found.new)
    block = _orthonormal(rows, gram, rows.data[m : m + r].T, 0.0, close)
    written = rows.write(m, rows.data[m : m + r].T, block.turn, block.less, block.known, block.size)
    left = 2.0 * (found.left + found.new.T @ written.left @ found.new)
    return Appended(found.overlap, found.known + block.known @ found.new, block.size @ found.new, written.gram, left)


__all__ = ["Appended", "append"]
