"""Inverses from a Cholesky factor: against float64 and extended precision, at every block boundary, and in place."""

import mpmath
import pytest
import torch

from gp_response.linalg.evidence import gaussian_log_evidence
from gp_response.linalg.triangular import inverse_column_squares, symmetric_inverse, triangular_inverse_


def system(n, *, noise=0.1, dtype=torch.float64, seed=0):
    """A Matérn-1/2 matrix of random points, two of them nearly equal, over the noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    if n > 1:
        x[1] = x[0] + 1e-9
    matrix = torch.exp(-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")) / noise
    matrix.diagonal().add_(1.0)
    return matrix.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 801, 1200])
def test_the_inverses_invert(n, dtype):
    matrix = system(n, dtype=dtype)
    lower, eps = torch.linalg.cholesky(matrix), torch.finfo(dtype).eps
    truth = torch.linalg.inv(matrix.double())
    inverse = symmetric_inverse(lower)
    assert inverse.dtype == dtype
    assert torch.equal(inverse, inverse.T)
    assert float((inverse - truth).abs().max()) < 1e3 * eps
    assert torch.allclose(inverse_column_squares(lower).double(), truth.diagonal(), rtol=1e3 * eps)


@pytest.mark.parametrize("n", [3, 256, 801])
def test_the_triangular_inverse_is_made_in_place_and_stays_triangular(n):
    lower = torch.linalg.cholesky(system(n))
    kept, place = lower.clone(), lower.data_ptr()
    inverse = triangular_inverse_(lower)
    assert inverse.data_ptr() == place
    assert torch.equal(inverse, inverse.tril())
    assert torch.allclose(inverse @ kept, torch.eye(n, dtype=kept.dtype), atol=1e-12)


def test_the_other_inverses_leave_the_factor_alone():
    lower = torch.linalg.cholesky(system(300))
    kept = lower.clone()
    symmetric_inverse(lower), inverse_column_squares(lower)
    assert torch.equal(lower, kept)


def test_small_diagonals_keep_their_digits_where_noise_is_a_millionth():
    """Entry by entry against 50 digits: relative to itself, not to the largest entry."""
    lower = torch.linalg.cholesky(system(40, noise=1e-6))
    with mpmath.workdps(50):
        exact = mpmath.matrix(lower.tolist())
        inverse = (exact * exact.T) ** -1
        truth = torch.tensor([float(inverse[i, i]) for i in range(40)], dtype=torch.float64)
    assert float((inverse_column_squares(lower) / truth - 1.0).abs().max()) < 1e-11


@pytest.mark.parametrize("n", [20, 801])
def test_the_gradient_of_the_evidence_is_that_of_autograd_through_the_factor(n):
    matrix, target = system(n).requires_grad_(), torch.linspace(-1.0, 1.0, n, dtype=torch.float64).requires_grad_()
    found = torch.autograd.grad(gaussian_log_evidence(matrix, target), [matrix, target])
    lower = torch.linalg.cholesky(matrix)
    white = torch.linalg.solve_triangular(lower, target[:, None], upper=False)
    plain = -0.5 * white.square().sum() - lower.diagonal().log().sum()
    for ours, theirs in zip(found, torch.autograd.grad(plain, [matrix, target]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-11)
