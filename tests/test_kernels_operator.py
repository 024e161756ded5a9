"""The operator is the matrix, without holding it."""

import gpytorch
import pytest
import torch
from linear_operator.operators import LinearOperator

from gp_response.errors import InputError, MissingDependency
from gp_response.features import MLP
from gp_response.kernels import RBF, ArcCosine, Foreign, Linear, Matern32, RationalQuadratic, keops


def points(n, seed=0, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


KERNELS = {
    "Matern32": lambda: Matern32(lengthscale=[0.5, 1.0, 2.0], outputscale=1.3),
    "ArcCosine": lambda: ArcCosine(order=1),
    "nest": lambda: (RBF() * RationalQuadratic() + Linear(active_dims=[0])).on(MLP(3, [4, 2])),
    "Foreign": lambda: Foreign(gpytorch.kernels.RQKernel().double()),
}


@pytest.mark.parametrize("name", KERNELS)
def test_products_parts_and_diagonals_are_those_of_the_matrix(name):
    kernel, x, y = KERNELS[name](), points(50), points(30, seed=1)
    operator, matrix = kernel.operator(x, y), kernel.matrix(x, y)
    v, u = points(30, 2, 4), points(50, 3, 4)
    assert isinstance(operator, LinearOperator)
    assert operator.shape == (50, 30)
    assert operator.dtype == torch.float64
    for got, expected in (
        (operator @ v, matrix @ v),
        (operator @ v[:, 0], matrix @ v[:, 0]),
        (operator.mT @ u, matrix.mT @ u),
        (u.mT @ operator, u.mT @ matrix),
        (operator.to_dense(), matrix),
        (operator[3:9, ::2].to_dense(), matrix[3:9, ::2]),
        (operator[torch.tensor([1, 4, 4]), torch.tensor([0, 29, 3])], matrix[[1, 4, 4], [0, 29, 3]]),
        (operator[5], matrix[5]),
        (operator[:30].diagonal(), matrix[:30].diagonal()),
        (kernel.operator(x).diagonal(), kernel.diagonal(x)),
        ((operator * 2.0 + operator) @ v, 3.0 * matrix @ v),
        (kernel.operator(x).add_diagonal(torch.ones(50, dtype=x.dtype)) @ u, kernel.matrix(x) @ u + u),
    ):
        assert torch.allclose(got, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_products_reach_points_and_parameters(name):
    kernel, v, u = KERNELS[name](), points(30, 2, 4), points(50, 3, 4)
    gradients = []
    for evaluate in (kernel.operator, kernel.matrix):
        x, y, w = points(50).requires_grad_(), points(30, seed=1).requires_grad_(), v.clone().requires_grad_()
        total = (u * (evaluate(x, y) @ w)).sum()
        gradients.append(torch.autograd.grad(total, [x, y, w, *kernel.parameters()]))
    for got, expected in zip(*gradients, strict=True):
        assert torch.allclose(got, expected, rtol=1e-10, atol=1e-11)


def test_gradients_of_a_quadratic_form_and_log_determinant_reach_parameters():
    kernel, x, y = KERNELS["nest"](), points(40), points(40, 5, 1)
    operator = kernel.operator(x).add_diagonal(torch.full((40,), 0.1, dtype=x.dtype))
    quadratic, logdet = operator.inv_quad_logdet(y, logdet=True)
    got = torch.autograd.grad(quadratic.sum() + logdet, list(kernel.parameters()))
    matrix = kernel.matrix(x) + 0.1 * torch.eye(40, dtype=x.dtype)
    expected = torch.autograd.grad(
        (y * torch.linalg.solve(matrix, y)).sum() + matrix.logdet(), list(kernel.parameters())
    )
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-9)


def test_products_are_exact_at_sizes_where_others_switch_algorithm():
    kernel, x = Matern32(lengthscale=0.5), points(1000)
    v = points(1000, 1, 2)
    with torch.no_grad():
        assert torch.allclose(kernel.operator(x) @ v, kernel.matrix(x) @ v, rtol=1e-12, atol=1e-12)


def test_batches_of_points_and_float32():
    kernel = KERNELS["nest"]()
    x, y = torch.stack([points(9), points(9, 1)]), points(7, 2)
    v = points(7, 3, 2)
    operator = kernel.operator(x, y)
    assert operator.shape == (2, 9, 7)
    assert torch.allclose(operator @ v, kernel.matrix(x, y) @ v)
    assert torch.allclose(operator[1].to_dense(), kernel.matrix(x[1], y))
    assert torch.allclose(
        operator.diagonal() if operator.is_square else kernel.operator(x).diagonal(), kernel.diagonal(x)
    )
    single = kernel.operator(x[0].float(), y.float())
    assert single.dtype == (single @ v.float()).dtype == torch.float32


def test_batches_of_kernels():
    kernel, x, v = RBF(batch_shape=[2], lengthscale=[[[0.5]], [[1.0]]]), points(9), points(9, 1, 2)
    operator = kernel.operator(x)
    assert operator.shape == (2, 9, 9)
    assert torch.allclose(operator @ v, kernel.matrix(x) @ v)
    assert operator.diagonal().shape == (2, 9)


def test_keops_refuses_batches_and_names_what_is_missing(monkeypatch):
    x = points(4)
    with pytest.raises(InputError, match="no batches"):
        RBF().operator(torch.stack([x, x]), backend="keops")
    monkeypatch.setattr(keops.shutil, "which", lambda _: None)
    with pytest.raises(MissingDependency, match=r"install g\+\+|gp_response\[keops\]"):
        RBF().operator(x, backend="keops") @ x
    monkeypatch.setitem(__import__("sys").modules, "pykeops", None)
    with pytest.raises(MissingDependency, match=r"gp_response\[keops\]"):
        RBF().operator(x, backend="keops") @ x


def test_keops_refuses_gpytorchs_own_kernels():
    pytest.importorskip("pykeops")
    with pytest.raises(InputError, match="RQKernel has no KeOps formula"):
        KERNELS["Foreign"]().operator(points(4), backend="keops") @ points(4)


@pytest.mark.parametrize(("n", "backend"), [(100, "dense"), (600, "blocked")])
def test_auto_says_what_it_chose_and_why(n, backend):
    operator = RBF().operator(points(n))
    assert operator.backend == "auto"
    assert operator.choice.backend == backend
    assert f"backend='{backend}': {n} x {n} entries" in repr(operator)
    assert "D = 3, float64 on cpu" in repr(operator)
    assert torch.allclose(operator @ points(n, 1), RBF().matrix(points(n)) @ points(n, 1), rtol=1e-11, atol=1e-11)


def test_auto_leaves_batches_and_other_dtypes_to_the_dense_backend():
    assert RBF().operator(torch.stack([points(600)] * 2)).choice.backend == "dense"
    assert RBF(batch_shape=[2]).operator(points(600)).choice.backend == "dense"
    assert "dtype" in RBF().operator(points(600).half()).choice.reason
    assert RBF().operator(points(600), backend="blocked").choice == ("blocked", "as asked")
    with pytest.raises(InputError, match="did you mean 'blocked'"):
        RBF().operator(points(4), backend="block")


@pytest.mark.parametrize("backend", ["auto", "blocked"])
def test_batches_are_multiplied_all_the_same(backend):
    kernel, x, v = RBF(batch_shape=[2], lengthscale=[[[0.5]], [[1.0]]]), points(9), points(9, 1, 2)
    assert torch.allclose(kernel.operator(x, backend=backend) @ v, kernel.matrix(x) @ v)
