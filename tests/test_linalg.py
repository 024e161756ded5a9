"""Residuals in twice the working precision, and what they give the solver."""

import mpmath
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import gp_response as gr
from gp_response.linalg.extended import residual
from gp_response.linalg.ritz import leading


def system(n=300, *, condition=1e10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = (basis * torch.logspace(0, np.log10(condition), n, dtype=torch.float64)) @ basis.T
    return 0.5 * (matrix + matrix.T), torch.randn(n, 4, generator=generator, dtype=torch.float64)


def longdouble(*tensors):
    return [t.numpy().astype(np.longdouble) for t in tensors]


@pytest.mark.parametrize(("n", "k"), [(1, 1), (7, 3), (300, 300), (40, 1500)])
def test_the_residual_has_the_digits_that_plain_arithmetic_loses(n, k):
    generator = torch.Generator().manual_seed(1)
    scale = 10.0 ** torch.randint(-6, 7, (n, 1), generator=generator).double()
    matrix = scale * torch.randn(n, k, generator=generator, dtype=torch.float64)
    value = torch.randn(k, 3, generator=generator, dtype=torch.float64)
    rhs = matrix @ value * (1.0 + 1e-15)
    a, v, b = longdouble(matrix, value, rhs)
    exact = (b - a @ v).astype(np.float64)
    size = (matrix.abs() @ value.abs()).numpy()
    ours = np.abs(residual(rhs, matrix, value).numpy() - exact) / size
    assert ours.max() < 1e-18 + 2e-3 * np.finfo(np.float64).eps  # longdouble itself has 64 bits
    if k >= 300:
        plain = np.abs((rhs - matrix @ value).numpy() - exact) / size
        assert ours.max() < 0.1 * plain.max()


def test_the_residual_of_float32_is_that_of_float64():
    generator = torch.Generator().manual_seed(2)
    matrix, value, rhs = (torch.randn(50, c, generator=generator) for c in (50, 3, 3))
    expected = (rhs.double() - matrix.double() @ value.double()).float()
    assert torch.equal(residual(rhs, matrix, value), expected)


@pytest.mark.parametrize("rhs", [torch.zeros(5, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64)])
def test_zero_matrices_and_values_leave_the_right_hand_side(rhs):
    zero = torch.zeros(5, 5, dtype=torch.float64)
    assert torch.equal(residual(rhs, zero, rhs), rhs)
    assert torch.equal(residual(rhs, torch.eye(5, dtype=torch.float64), torch.zeros_like(rhs)), rhs)


def test_refinement_reaches_full_accuracy_at_a_condition_number_of_1e10():
    """Every entry right to a few units in the last place of its column, where one solve leaves 1e-7."""
    matrix, rhs = system(40)
    with mpmath.workdps(50):
        exact = [mpmath.lu_solve(mpmath.matrix(matrix.tolist()), mpmath.matrix(column.tolist())) for column in rhs.T]
    truth = torch.tensor([[float(entry) for entry in column] for column in exact], dtype=torch.float64).T
    size = truth.abs().amax(dim=0)
    plain = ((gr.Cholesky(refine=0).solve(matrix, rhs).value - truth).abs() / size).max()
    refined = ((gr.Cholesky(refine=3).solve(matrix, rhs).value - truth).abs() / size).max()
    assert float(plain) > 1e-9
    assert float(refined) < 2e-15


def test_solutions_keep_the_shape_of_the_right_hand_side():
    matrix, rhs = system(20, condition=10.0)
    one, many = gr.Cholesky().solve(matrix, rhs[:, 0]), gr.Cholesky().solve(matrix, rhs)
    assert one.value.shape == (20,)
    assert one.residual.shape == one.converged.shape == ()
    assert many.residual.shape == many.converged.shape == (4,)
    assert bool(many.converged.all())
    with pytest.raises(gr.InputError, match=r"expected \(20,\) or \(20, t\)"):
        gr.Cholesky().solve(matrix, rhs[:5])


def test_a_solver_takes_linear_operators():
    x = torch.rand(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = gr.RBF().operator(x).add_diagonal(torch.tensor(0.1, dtype=torch.float64))
    solution = gr.Cholesky().solve(operator, x)
    assert torch.allclose(operator.to_dense() @ solution.value, x, atol=1e-10)


@pytest.mark.parametrize(("rank", "k"), [(0, 3), (10, 20), (10, 8), (30, 30)])
def test_leading_pairs_are_found_beyond_the_rank_with_orthonormal_vectors(rank, k):
    generator = torch.Generator().manual_seed(rank)
    root = torch.randn(120, rank, generator=generator, dtype=torch.float64)
    a = root @ root.T
    start = (
        a @ torch.randn(120, 4, generator=generator, dtype=torch.float64) if rank else torch.eye(120)[:, :4].double()
    )
    found = leading(lambda v: a @ v, start, k)
    assert_close(found.values, torch.linalg.eigvalsh(a).flip(0)[:k], rtol=1e-10, atol=1e-10)
    assert_close(found.vectors.T @ found.vectors, torch.eye(k, dtype=torch.float64), rtol=0.0, atol=1e-12)
    assert_close((a @ found.vectors - found.vectors * found.values).norm(dim=0), found.residual, rtol=1e-6, atol=1e-9)
