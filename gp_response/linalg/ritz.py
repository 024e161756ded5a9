"""Leading eigenpairs of a symmetric matrix known by its products, with measured residuals.

Rayleigh-Ritz on a block Krylov space (Golub & Underwood 1977) whose basis is kept orthonormal by two passes against all of it.
The images of the basis are kept, too, so that a residual is measured and not read off a recurrence.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError


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
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.T @ block))[0]
    return block


def _ritz(basis: Tensor, image: Tensor, k: int) -> Ritz:
    matrix = basis.T @ image
    values, turn = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    values, turn = values.flip(0)[:k], turn.flip(1)[:, :k]
    vectors = basis @ turn
    return Ritz(values, vectors, (image @ turn - vectors * values).norm(dim=0), basis.shape[1])


__all__ = ["Ritz", "leading"]
