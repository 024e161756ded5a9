"""Small symmetric matrices known to bounds on their entries, many at once: solves, quadratic forms and determinants with theirs.

With z = A⁻¹c and errors δA, δc, what is meant is exactly `cᵀA⁻¹c + 2zᵀδc - zᵀδA z + wᵀ(A + δA)⁻¹w` for `w = δc - δA z`, and
`log det(A + δA) = log det A + tr A⁻¹δA - ½ tr (B⁻¹δA)²` for a B between the two.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from gp_response.linalg.system import ROUNDING
from gp_response.posterior import Certified

EPS = torch.finfo(torch.float64).eps


class DefiniteBlocks:
    """k matrices (k, q, q) that are positive definite wherever their entries are within the bounds; else all bounds are infinite.

    Args:
        blocks: entries, and absolute bounds on their errors.
    """

    def __init__(self, blocks: Certified):
        value = 0.5 * (blocks.value + blocks.value.mT)
        error = torch.maximum(blocks.error, blocks.error.mT)
        # What a Cholesky factor is backward stable to (Higham 2002, theorem 10.3).
        root = value.diagonal(dim1=1, dim2=2).abs().sqrt()
        error = error + (ROUNDING + value.shape[-1]) * EPS * root[:, :, None] * root[:, None, :]
        lower, info = torch.linalg.cholesky_ex(value)
        eye = torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
        self.value, self.error = value, error
        self.lower = torch.where((info == 0)[:, None, None], lower, eye)
        least = torch.where(info == 0, torch.linalg.eigvalsh(value)[:, 0], -1.0)
        room = least - error.sum(dim=2).amax(dim=1)
        self.norm = torch.where(room > 0, 1.0 / room, float("inf"))
        """Bound on the norm of the inverse, (k,)."""

    @cached_property
    def inverse(self) -> Tensor:
        return torch.cholesky_inverse(self.lower)

    def solve(self, right: Certified) -> Certified:
        """`A⁻¹c` for c (k, q, t)."""
        z = torch.cholesky_solve(right.value, self.lower)
        off = self._off(right, z)
        beyond = self.error.sum(dim=2, keepdim=True) * (self.norm[:, None] * off.norm(dim=1))[:, None]
        return Certified(z, _known(self.inverse.abs() @ (off + beyond) + ROUNDING * EPS * z.abs()))

    def form(self, right: Certified) -> Certified:
        """`cᵀA⁻¹c` for c (k, q, t), (k, t)."""
        z = torch.cholesky_solve(right.value, self.lower)
        size = z.abs()
        error = 2.0 * (size * right.error).sum(dim=1) + (size * (self.error @ size)).sum(dim=1)
        error = error + self.norm[:, None] * self._off(right, z).square().sum(dim=1)
        rounding = ROUNDING * EPS * (right.value.abs() * size).sum(dim=1)
        return Certified((right.value * z).sum(dim=1), _known(error + rounding))

    def logdet(self) -> Certified:
        """`log det A`, (k,)."""
        each = self.lower.diagonal(dim1=1, dim2=2).log()
        error = (self.inverse.abs() * self.error).sum(dim=(1, 2))
        error = error + 0.5 * (self.norm * self.error.square().sum(dim=(1, 2)).sqrt()).square()
        return Certified(2.0 * each.sum(dim=1), _known(error + ROUNDING * EPS * each.abs().sum(dim=1)))

    def log_density(self, at: Certified) -> Certified:
        """`log N(c; 0, A)` for c (k, q), (k,)."""
        form, logdet = self.form(Certified(*(part[:, :, None] for part in at))), self.logdet()
        quadratic, size = form.value[:, 0], at.value.shape[1] * math.log(2.0 * math.pi)
        rounding = 2.0 * EPS * (logdet.value.abs() + quadratic + size)
        value = -0.5 * (logdet.value + quadratic + size)
        return Certified(value, 0.5 * (logdet.error + form.error[:, 0]) + rounding)

    def _off(self, right: Certified, z: Tensor) -> Tensor:
        """Bound on `δc - δA z`, (k, q, t)."""
        return right.error + self.error @ z.abs()


def _known(error: Tensor) -> Tensor:
    return torch.where(error.isnan(), torch.full_like(error, float("inf")), error)


__all__ = ["DefiniteBlocks"]
