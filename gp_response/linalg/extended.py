"""`b - A v` in about twice the working precision, at the speed of matrix products.

A residual computed in the precision of the solution says little about an ill-conditioned system: its own rounding,
amplified by the condition number, is what refinement then adds. Here float32 is computed in float64, and float64 by
error-free splitting (Ozaki, Ogita, Oishi & Rump 2012): A and v are cut into slices of so few bits that the product of
two slices is exact in float64 whatever the order of summation, and only the exact partial products are added up.
"""

import math

import torch
from torch import Tensor

from gp_response.linalg.transforms import inside_transform

BLOCK = 2**18  # entries of A in one block of rows, so that its slices stay in cache
SLICES = 3  # of at most 26 bits each: enough for the 53 of float64


def residual(rhs: Tensor, matrix: Tensor, value: Tensor) -> Tensor:
    """`rhs - matrix @ value` for matrix (n, k), value (k, t), rhs (n, t), rounded once at the end.

    Inside torch.func transforms, where values cannot be looked at, it is computed in working precision.
    """
    if inside_transform():
        return rhs - matrix @ value
    step = max(1, BLOCK // max(1, matrix.shape[1]))
    if matrix.dtype != torch.float64:
        wide = value.double()
        parts = [
            (b.double() - a.double() @ wide).to(rhs) for b, a in zip(rhs.split(step), matrix.split(step), strict=True)
        ]
        return torch.cat(parts)
    bits = (53 - math.ceil(math.log2(max(2, matrix.shape[1])))) // 2
    pieces = torch.cat(_slices(value, bits, dim=0), dim=1)
    rows = zip(rhs.split(step), matrix.split(step), strict=True)
    return torch.cat([_block(b, _slices(a, bits, dim=1), pieces) for b, a in rows])


def _slices(x: Tensor, bits: int, *, dim: int) -> list[Tensor]:
    """x as a sum of tensors whose entries are, along `dim`, multiples of one power of two and `bits` bits long."""
    top = x.abs().amax(dim=dim, keepdim=True)
    exponent = torch.frexp(top).exponent.to(x)
    parts = []
    for k in range(1, SLICES):
        # Adding and subtracting 1.5 · 2^(exponent - bits + 52) rounds to multiples of 2^(exponent - k bits).
        anchor = torch.ldexp(torch.full_like(top, 1.5), exponent - k * bits + 52)
        part = (x + anchor) - anchor
        parts.append(part)
        x = x - part
    return [*parts, x]


def _block(rhs: Tensor, left: list[Tensor], right: Tensor) -> Tensor:
    """rhs minus the partial products, largest first, carrying what each addition rounds off."""
    # One product of all slices with all slices: the matrix is read once.
    products = (torch.cat(left) @ right).reshape(SLICES, len(rhs), SLICES, rhs.shape[1])
    total, carry = rhs, torch.zeros_like(rhs)
    for order in range(2 * SLICES - 1):
        for i in range(max(0, order - SLICES + 1), min(order, SLICES - 1) + 1):
            total, lost = _two_sum(total, -products[i, :, order - i])
            carry = carry + lost
    return total + carry


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and exactly what the rounding lost (Knuth)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


__all__ = ["residual"]
