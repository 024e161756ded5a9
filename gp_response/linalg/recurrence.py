"""What a Krylov basis knows of its operator, in small float64 matrices.

For rows Q as they are stored, K the first k of them and A the operator,

    A Kᵀ = Qᵀ H + E,    T = K A Kᵀ,    W = Q Qᵀ,

with E measured when the rows are written: where Q is rounded to bfloat16 the recurrence no longer holds by itself, and W is
not the identity. Nothing here assumes that they do.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.orthonormal import Appended

SYMMETRIC = 1e-2  # of the largest image: an operator less symmetric than this is not what it is taken for


class Ritz(NamedTuple):
    """Approximate eigenpairs, the largest first.

    Attributes:
        values: (k,). turn: (k, k), column i makes the i-th vector `Kᵀ turn`, of length one.
        residual: (k,) bounds of `‖A v - θ v‖`, from what was measured.
    """

    values: Tensor
    turn: Tensor
    residual: Tensor


@dataclass
class Recurrence:
    """The small side of `KrylovBasis`.

    Attributes:
        matrix: T (k, k). coupling: H (m, k). gram: W (m, m).
        left: block diagonal (k, k), the Gram matrix of each block of E by itself. parts: blocks.
        rounding: of a product, in units of `scale · ‖v‖`.
        scale: the largest image of a row so far, a little less than `‖A‖`.
        skew: Frobenius norm of what T's two triangles disagree by. blur: what restarts may have moved T by.
    """

    matrix: Tensor
    coupling: Tensor
    gram: Tensor
    left: Tensor
    rounding: float
    parts: int = 0
    scale: float = 0.0
    skew: float = 0.0
    blur: float = 0.0

    @classmethod
    def empty(cls, rounding: float, device: torch.device | str) -> "Recurrence":
        matrix, coupling, gram, left = torch.zeros(4, 0, 0, dtype=torch.float64, device=device)
        return cls(matrix, coupling, gram, left, rounding)

    @property
    def k(self) -> int:
        return len(self.matrix)

    @property
    def m(self) -> int:
        return len(self.gram)

    def numbers(self) -> dict[str, float]:
        """All that is not a tensor."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not isinstance(getattr(self, f.name), Tensor)}

    def add_rows(self, gram: Tensor) -> None:
        """Rows have been stored whose inner products with all, themselves too, are gram (m + r, r)."""
        m, r = self.m, gram.shape[1]
        inner = 0.5 * (gram[m:] + gram[m:].T)
        self.gram = torch.cat([torch.cat([self.gram, gram[:m]], 1), torch.cat([gram[:m].T, inner], 1)])
        self.coupling = torch.cat([self.coupling, self.coupling.new_zeros(r, self.coupling.shape[1])])

    def add_image(self, found: Appended) -> None:
        """The rows k, ..., k + w have been multiplied; `found` is where their images lie.

        Raises:
            SolverError: the operator is not symmetric.
        """
        k, m, w = self.k, self.m, found.overlap.shape[1]
        expected = (self.gram @ self.coupling)[k : k + w]
        self._check(found.overlap[:k].T - expected, found.overlap[k : k + w])
        across, inner = found.overlap[:k], found.overlap[k : k + w]
        inner = 0.5 * (inner + inner.T)
        self.matrix = torch.cat([torch.cat([self.matrix, across], 1), torch.cat([across.T, inner], 1)])
        self.add_rows(found.gram)
        self.coupling = torch.cat([self.coupling, torch.cat([found.known, found.new])], dim=1)
        self.left = torch.block_diag(self.left, found.left)
        self.parts += 1
        assert self.coupling.shape == (m + len(found.new), k + w)

    def _check(self, across: Tensor, inner: Tensor) -> None:
        # Earlier images may differ from the recurrence by E, which is no fault of the operator.
        excess = float(across.square().sum()) - self.parts * float(self.left.diagonal().sum())
        skew = (max(0.0, excess) + 0.5 * float((inner - inner.T).square().sum())) ** 0.5
        self.skew = (self.skew**2 + skew**2) ** 0.5
        if skew > SYMMETRIC * self.scale:
            raise SolverError(
                f"the operator is not symmetric: vᵀAw and wᵀAv differ by {skew:.1e} beside images of size {self.scale:.1e}; "
                "check that two products agree (dropout, batch statistics) and that they run in float32 or float64"
            )

    def ritz(self) -> Ritz:
        """Rayleigh-Ritz on the span of K."""
        k = self.k
        root = torch.linalg.cholesky(self.gram[:k, :k])
        half = torch.linalg.solve_triangular(root, self.matrix, upper=False)
        core = torch.linalg.solve_triangular(root, half.T, upper=False)
        values, turn = torch.linalg.eigh(0.5 * (core + core.T))
        values, turn = values.flip(0), torch.linalg.solve_triangular(root.T, turn.flip(1), upper=True)
        rest = self.coupling @ turn
        rest[:k] -= turn * values
        off = (rest * (self.gram @ rest)).sum(dim=0).clamp_min(0.0).sqrt()
        lost = (self.parts * (turn * (self.left @ turn)).sum(dim=0)).clamp_min(0.0).sqrt()
        return Ritz(values, turn, off + lost + self.rounding * self.scale)

    def restart(self, values: Tensor, turn: Tensor, gram: Tensor, lost: Tensor) -> None:
        """The first k rows have become p Ritz vectors `turnᵀ K`, rounded.

        `A v = θ v + (what H couples to the rows behind K) + E turn + Kᵀ(H_K turn - turn θ)`, the last of them rounding,
        and rounding v by δ adds `Aδ - θδ`. Their norms add up, so that many restarts do not compound.

        Args:
            values, turn: (p,) and (k, p).
            gram: of all rows after it. lost: (p, p), of the rounding δ.
        """
        k, p = turn.shape
        behind, aside = self.coupling[k:] @ turn, self.coupling[:k] @ turn - turn * values
        size = float(lost.diagonal().sum())
        self.left = _of_a_sum(
            self.parts * (turn.T @ self.left @ turn), aside.T @ self.gram[:k, :k] @ aside,
            (self.scale * self.scale * size) * torch.eye(p).to(lost), values[:, None] * lost * values,
        )  # fmt: skip
        self.parts = 1
        self.matrix, self.coupling = torch.diag(values), torch.cat([torch.diag(values), behind])
        self.gram = gram
        self.blur += 2.0 * self.scale * size**0.5


def _of_a_sum(*grams: Tensor) -> Tensor:
    """A bound of the Gram matrix of `Σ E` by those of each E: `(Σ x)² <= Σ (s / sᵢ) xᵢ²` for any weights that add up to s."""
    sizes = [float(torch.linalg.matrix_norm(gram, 2)) ** 0.5 for gram in grams]
    parts = [(sum(sizes) / size) * gram for size, gram in zip(sizes, grams, strict=True) if size]
    return torch.stack(parts).sum(dim=0) if parts else torch.zeros_like(grams[0])


__all__ = ["Recurrence", "Ritz"]
