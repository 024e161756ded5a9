"""Functions of a matrix times a few vectors, from one Krylov space that all of them share.

`f(A) S ≈ Q f(T) QᵀS` with Q an orthonormal basis of `span{S, AS, ..., A^(k-1) S}` and `T = QᵀAQ` block tridiagonal (Golub &
Underwood 1977). The inverse is block conjugate gradients; the inverse root and the logarithm come from the same T.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gp_response.errors import SolverError

CHECK = 4  # products between two looks at the residual, which take an eigendecomposition of T


class KrylovSpace(NamedTuple):
    """What a run found.

    Attributes:
        basis: Q transposed, (k t, n).
        nodes: eigenvalues of T, (k t,).
        turn: its eigenvectors, (k t, k t).
        weights: eigenvectors' parts of the start vectors, (k t, t): `f(A) S ≈ Q turn (f(nodes) weights)`.
        residual: `‖s - A x‖ / ‖s‖` of `x ≈ A⁻¹s`, (t,), as the recurrence has it.
        products: k.
    """

    basis: Tensor
    nodes: Tensor
    turn: Tensor
    weights: Tensor
    residual: Tensor
    products: int

    def apply(self, values: Tensor) -> Tensor:
        """`f(A) S` for f's values at the nodes, (n, t)."""
        return self.basis.T @ (self.turn @ (values[:, None] * self.weights))

    def quadratic(self, values: Tensor) -> Tensor:
        """`sᵀ f(A) s` for each start vector, (t,)."""
        return (values[:, None] * self.weights.square()).sum(dim=0)


def krylov_space(product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float, most: int) -> KrylovSpace:
    """The space in which `A⁻¹ start` has residuals of `tolerance`, or that of `most` products.

    Args:
        product: v (n, t) -> A v, A symmetric positive definite.
        start: (n, t) float64, t <= n.

    Raises:
        SolverError: A is not positive definite in the precision of the product, or a product is not finite.
    """
    n, t = start.shape
    most = max(1, min(most, n // t))
    basis = start.new_zeros(most * t, n)
    block, first = torch.linalg.qr(start)
    matrix = start.new_zeros(most * t, most * t)
    for k in range(most):
        here = slice(k * t, (k + 1) * t)
        basis[here] = block.T
        image, known = product(block), basis[: (k + 1) * t]
        if not bool(torch.isfinite(image).all()):
            raise SolverError("a product with the matrix holds NaN or inf; check the kernel's values on this data")
        middle = block.T @ image
        matrix[here, here] = 0.5 * (middle + middle.T)
        # Against the whole basis, not only the last two blocks, and again once normalised: the basis stays orthonormal, also
        # where QR has to make up directions because the space has ended for some vectors.
        block, beside = torch.linalg.qr(image - known.T @ (known @ image))
        block, again = torch.linalg.qr(block - known.T @ (known @ block))
        beside = again @ beside
        last = k + 1 == most
        if (k + 1) % CHECK == 0 or last:
            found = _solved(known, matrix[: (k + 1) * t, : (k + 1) * t], first, beside, start.norm(dim=0))
            if last or bool((found.residual <= tolerance).all()):
                return found
        nxt = slice((k + 1) * t, (k + 2) * t)
        matrix[nxt, here], matrix[here, nxt] = beside, beside.T
    raise AssertionError("unreachable")


def _solved(basis: Tensor, matrix: Tensor, first: Tensor, beside: Tensor, size: Tensor) -> KrylovSpace:
    nodes, turn = torch.linalg.eigh(matrix)
    weights = turn[: len(first)].T @ first
    used = weights.abs().amax(dim=1) > 1e-10 * weights.abs().max()
    if not bool((nodes[used] > 0).all()):
        raise SolverError(
            f"the system is not positive definite: an eigenvalue near {float(nodes[0]):.2g} beside a largest of "
            f"{float(nodes[-1]):.2g}; use float64 data or raise the noise"
        )
    nodes, t = torch.where(used, nodes, nodes.abs().max()), len(first)  # the others belong to made-up directions
    left = (beside @ (turn[-t:] @ (weights / nodes[:, None]))).norm(dim=0)
    return KrylovSpace(basis, nodes, turn, weights, left / torch.where(size > 0, size, 1.0), len(matrix) // t)


__all__ = ["KrylovSpace", "krylov_space"]
