"""Memory, tiles and dtypes: what must not change a kernel matrix."""

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from kernel_cases import KERNELS, points

from gp_response.kernels import (
    RBF,
    Foreign,
    Kernel,
    RationalQuadratic,
)
from gp_response.kernels.dense import RECOMPUTE


@pytest.mark.parametrize("name", ["Matern32", "nest"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recomputed_gradients_equal_plain_ones_at_a_size_where_they_are_used(name, dtype, monkeypatch):
    kernel, x = KERNELS[name](), points(2100, dtype=dtype).requires_grad_()
    assert len(x) ** 2 > RECOMPUTE
    left, right = points(2100, 1, seed=2, dtype=dtype), points(2100, 1, seed=3, dtype=dtype)

    def gradients():
        kernel.zero_grad()
        return torch.autograd.grad((left * (kernel.matrix(x) @ right)).sum(), [*kernel.parameters(), x])

    recomputed = gradients()
    monkeypatch.setattr("gp_response.kernels.dense.RECOMPUTE", 10**9)
    for got, expected in zip(recomputed, gradients(), strict=True):
        assert got.dtype == expected.dtype
        scale = float(expected.abs().max()) + float(left.norm() * right.norm()) * 1e-2
        assert float((got - expected).abs().max()) <= (1e-10 if dtype == torch.float64 else 1e-3) * scale


def test_recomputed_gradients_can_be_differentiated_again(monkeypatch):
    kernel, x = KERNELS["nest"](), points(20)
    parameters = list(kernel.parameters())

    def hessian_vector():
        grads = torch.autograd.grad((kernel.matrix(x) ** 2).sum(), parameters, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in grads), parameters)

    expected = hessian_vector()
    monkeypatch.setattr("gp_response.kernels.dense.RECOMPUTE", 1)
    for got, wanted in zip(hessian_vector(), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-9)


def test_gradients_survive_an_enclosing_functional_call(monkeypatch):
    """The tiles are evaluated again after the call is over, and must use the tensors it was given."""
    monkeypatch.setattr("gp_response.kernels.dense.RECOMPUTE", 1)
    kernel, x = RationalQuadratic(alpha=0.7), points(20)
    other = {k: (p.detach() + 0.5).requires_grad_() for k, p in kernel.named_parameters()}

    class Matrix(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = kernel

        def forward(self, x):
            return self.kernel.matrix(x).sum()

    total = torch.func.functional_call(Matrix(), {f"kernel.{k}": v for k, v in other.items()}, (x,))
    moved = deepcopy(kernel)
    with torch.no_grad():
        for p in moved.parameters():
            p += 0.5
    monkeypatch.setattr("gp_response.kernels.dense.RECOMPUTE", 10**9)
    expected = torch.autograd.grad(moved.matrix(x).sum(), list(moved.parameters()))
    for got, wanted in zip(torch.autograd.grad(total, list(other.values())), expected, strict=True):
        assert torch.allclose(got, wanted, rtol=1e-12)
    assert all(p.grad is None for p in kernel.parameters())


MEMORY = """
import resource, sys, torch
from gp_response.kernels import Matern32
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
kernel, n = Matern32(ard=4), 3500
x = torch.randn(n, 4, dtype=torch.float64)
kernel.matrix(x[:1200]).sum().backward()
before, one = peak(), 8 * n * n
with torch.no_grad():
    k = kernel.matrix(x)
forward = (peak() - before) / one
del k
k = kernel.matrix(x)
k.backward(torch.ones_like(k))
print(forward, (peak() - before) / one)
"""


def test_memory_is_one_matrix_forward_and_one_more_for_the_gradient_coming_back():
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY], capture_output=True, text=True, check=True
    ).stdout
    forward, backward = map(float, out.split()[-2:])
    assert forward < 1.3
    assert backward < 2.4


def test_result_does_not_depend_on_the_size_of_tiles(monkeypatch):
    kernel, x = KERNELS["Matern52"](), points(300)
    with torch.no_grad():
        whole = kernel.matrix(x)
        for tile in (1, 777, 300 * 17):
            monkeypatch.setattr("gp_response.kernels.recompute.TILE", tile)
            assert torch.allclose(kernel.matrix(x), whole, rtol=1e-15, atol=1e-15)
            assert torch.equal(kernel.matrix(x), kernel.matrix(x).mT)


def test_tangents_that_features_close_over_are_not_dropped():
    kernel, x = KERNELS["RBF"]().requires_grad_(False), points(6)

    class Shifted(torch.nn.Module):
        def forward(self, z):
            return z * self.factor[0]

    features = Shifted()

    def entry(factor):
        features.factor = (factor,)  # neither parameter nor buffer
        return kernel.on(features).matrix(x)[0, 5]

    one = torch.ones((), dtype=x.dtype)
    tangent = torch.func.jvp(entry, (one,), (one,))[1]
    assert float(tangent) == pytest.approx(float(entry(one + 1e-6) - entry(one - 1e-6)) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiles_are_kept_inside_a_transform_that_does_not_concern_the_kernel(dtype, monkeypatch):
    """As in the derivative of a refit by its weights: one matrix of memory, and the same matrix."""
    kernel, x, calls = KERNELS["Matern52"]().requires_grad_(False), points(60, dtype=dtype), []
    block = kernel.block
    monkeypatch.setattr("gp_response.kernels.recompute.TILE", 600)
    monkeypatch.setattr(kernel, "block", lambda u, v: (calls.append(1), block(u, v))[1])

    def refit(weights):
        return torch.linalg.solve(kernel.matrix(x) + torch.diag(1.0 / weights), x[:, 0])

    weights, tolerance = torch.full((60,), 2.0, dtype=x.dtype), 1e-10 if dtype == torch.float64 else 1e-4
    jacobian = torch.func.jacfwd(refit)(weights)
    assert len(calls) == 6
    assert torch.allclose(jacobian, torch.autograd.functional.jacobian(refit, weights), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", KERNELS)
def test_float32_points_give_float32_and_float64_gradients(name):
    kernel, x = KERNELS[name](), points(10, dtype=torch.float32)
    k = kernel.matrix(x)
    assert k.dtype == kernel.diagonal(x).dtype == kernel(x).to_dense().dtype == torch.float32
    k.sum().backward()
    for p in (
        p
        for m in kernel.modules()
        if isinstance(m, Kernel) and not isinstance(m, Foreign)
        for p in m.parameters(recurse=False)
    ):
        assert p.dtype == p.grad.dtype == torch.float64


def test_features_in_float32_serve_float64_points():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
    kernel, x = RBF().on(net), points(9)
    expected = RBF().matrix(deepcopy(net).double()(x))
    assert torch.allclose(kernel.matrix(x), expected, rtol=1e-13)
    assert net[0].weight.dtype == torch.float32


def test_no_points_and_one_point():
    kernel = KERNELS["nest"]()
    assert kernel.matrix(points(0)).shape == (0, 0)
    assert kernel.matrix(points(0), points(4)).shape == (0, 4)
    with torch.no_grad():
        assert kernel.matrix(points(4), points(0)).shape == (4, 0)
        assert kernel.matrix(points(1)).shape == (1, 1)
