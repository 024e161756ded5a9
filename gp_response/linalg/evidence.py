"""The Gaussian log evidence of a matrix and its gradient, at the price of one Cholesky factor and one inverse."""

import torch
from torch import Tensor

from gp_response.linalg.cholesky import CholeskyFactor
from gp_response.linalg.triangular import symmetric_inverse


class _LogEvidence(torch.autograd.Function):
    """-½ yᵀA⁻¹y - ½ log det A. Autograd through a Cholesky factor costs several n³ and keeps as many matrices; the
    closed form `½(A⁻¹y yᵀA⁻¹ - A⁻¹)` needs one inverse (Rasmussen & Williams, eq. 5.9)."""

    @staticmethod
    def forward(ctx, matrix: Tensor, target: Tensor) -> Tensor:
        factor = CholeskyFactor(matrix)
        solved = torch.cholesky_solve(target[:, None], factor.lower)[:, 0]
        ctx.save_for_backward(factor.lower, solved)
        return -0.5 * target.dot(solved) - 0.5 * factor.logdet()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        lower, solved = ctx.saved_tensors
        to_matrix = symmetric_inverse(lower).neg_()
        to_matrix.addr_(solved, solved)
        return to_matrix.mul_(0.5 * grad), -grad * solved


def gaussian_log_evidence(matrix: Tensor, target: Tensor) -> Tensor:
    """`-½ yᵀA⁻¹y - ½ log det A`, without the `log 2π` term.

    Args:
        matrix: (n, n) symmetric positive definite A.
        target: (n,) y.

    Returns:
        a scalar, once differentiable in both arguments.

    Raises:
        SolverError: A is not positive definite in its precision.
    """
    return _LogEvidence.apply(matrix, target)


__all__ = ["gaussian_log_evidence"]
