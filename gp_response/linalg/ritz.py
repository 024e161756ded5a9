"""Leading eigenpairs of a symmetric matrix known by its products, with measured residuals.

Rayleigh-Ritz on a block Krylov space (Golub & Underwood 1977) whose basis is kept orthonormal by two passes against all of it.
The images of the basis are kept, too, so that a residual is measured and not read off a recurrence.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError

ROUNDING = 1e-12  # of a product: what is left of it beside the basis is no direction


class Ritz(NamedTuple):
    """Pairs with the largest values: `values` (k,) descending, orthonormal `vectors` (n, k), `residual` (k,) norms
    `‖A q - θ q‖`, and the number of `products` with vectors."""

    values: Tensor
    vectors: Tensor
    residual: Tensor
    products: int


def leading(
    product: Callable[[Tensor], Tensor], start: Tensor, k: int, *, tolerance: float = 1e-8, most: int = 400
) -> Ritz:
    """The k largest eigenvalues of A, to residuals of `tolerance` in units of the largest, or as good as `most` directions do.

    Args:
        product: v (n, t) -> A v.
        start: (n, b) float64; eigenvalues of multiplicity up to b are found.

    Raises:
        SolverError: a product is not finite.
    """
    n = len(start)
    most = min(n, max(most, k + start.shape[1]))
    basis, image = start.new_zeros(n, 0), start.new_zeros(n, 0)
    block = torch.linalg.qr(start)[0]
    while True:
        fresh = product(block)
        if not bool(torch.isfinite(fresh).all()):
            raise SolverError("a product with the matrix holds NaN or inf; check the posterior's solves")
        basis, image = torch.cat([basis, block], dim=1), torch.cat([image, fresh], dim=1)
        found = _ritz(basis, image, min(k, basis.shape[1]))
        enough = basis.shape[1] >= k and bool((found.residual <= tolerance * found.values.abs().max()).all())
        if enough or basis.shape[1] == most:
            return found
        block = _orthonormal(fresh, basis)[:, : most - basis.shape[1]]


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """What a block has beside the basis, without the directions in which that is rounding; random ones where all of it is."""
    size = float(torch.linalg.matrix_norm(block, 2))
    left, values, _ = torch.linalg.svd(_beside(block, basis), full_matrices=False)
    found = left[:, values > ROUNDING * size]
    if not found.shape[1]:  # the basis is invariant, and other eigenvalues are seen from elsewhere only
        generator = torch.Generator().manual_seed(basis.shape[1])
        found = _beside(torch.randn(block.shape, generator=generator, dtype=block.dtype).to(block), basis)
    return torch.linalg.qr(_beside(torch.linalg.qr(found)[0], basis))[0]


def _beside(block: Tensor, basis: Tensor) -> Tensor:
    return block - basis @ (basis.T @ block)


def _ritz(basis: Tensor, image: Tensor, k: int) -> Ritz:
    matrix = basis.T @ image
    values, turn = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    values, turn = values.flip(0)[:k], turn.flip(1)[:, :k]
    vectors = basis @ turn
    return Ritz(values, vectors, (image @ turn - vectors * values).norm(dim=0), basis.shape[1])


__all__ = ["Ritz", "leading"]
