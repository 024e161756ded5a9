"""Every kernel obeys the laws, equals the textbook, and stays exact where others lose digits."""

import importlib
import math
import pkgutil

import pytest
import torch
from kernel_cases import KERNELS, SMOOTH, points

from gp_response import kernels
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Kernel,
    Matern12,
)
from gp_response.testing import check_kernel


@pytest.mark.parametrize("name", KERNELS)
def test_obeys_the_laws(name):
    check_kernel(KERNELS[name]())


def test_every_kernel_is_exported_and_under_the_laws():
    modules = [importlib.import_module(f"gp_response.kernels.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {
        c
        for m in modules
        for c in vars(m).values()
        if isinstance(c, type) and issubclass(c, Kernel) and not c.__name__.startswith("_")
    }
    assert {c.__name__ for c in found} <= set(kernels.__all__)
    abstract = {"Kernel", "StationaryKernel", "DotKernel", "CompositeKernel"}
    checked = {type(m).__name__ for make in KERNELS.values() for m in make().modules() if isinstance(m, Kernel)}
    assert {c.__name__ for c in found} - abstract <= checked


@pytest.mark.parametrize("name", ["RBF", "Matern32", "Sum", "On"])
def test_obeys_the_laws_in_one_dimension_and_many(name):
    if name == "RBF":
        check_kernel(RBF(lengthscale=[0.4]), dim=1)
        check_kernel(RBF(lengthscale=8.0), dim=64)
    else:
        check_kernel(KERNELS[name](), dim=3, n=12, seed=5)


# Against a double loop written here, from the textbook ------------------------------------------------------------

TEXTBOOK = {
    "RBF": lambda r, s: math.exp(-(r**2) / 2),
    "Matern12": lambda r, s: math.exp(-r),
    "Matern32": lambda r, s: (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
    "Matern52": lambda r, s: (1 + math.sqrt(5) * r + 5 * r**2 / 3) * math.exp(-math.sqrt(5) * r),
    "RationalQuadratic": lambda r, s: (1 + r**2 / (2 * 0.7)) ** -0.7,
    "Linear": lambda r, s: s,
    "Polynomial": lambda r, s: (s + 0.5) ** 3,
}


@pytest.mark.parametrize("name", TEXTBOOK)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_equals_a_double_loop_beyond_800_points(name, dtype, tolerance):
    kernel = KERNELS[name]()
    x, y = points(801, dtype=dtype), points(1000, seed=1, dtype=dtype)
    y[5], y[6] = x[7], x[8] + 1e-9
    rows, columns = [0, 7, 8, 400, 799, 800], [0, 5, 6, 500, 801, 999]
    with torch.no_grad():
        k, scale = kernel.matrix(x, y), float(kernel.outputscale)
        u, v = (x.double() / kernel.lengthscale).tolist(), (y.double() / kernel.lengthscale).tolist()
    for i in rows:
        for j in columns:
            expected = scale * TEXTBOOK[name](
                math.dist(u[i], v[j]), sum(a * b for a, b in zip(u[i], v[j], strict=True))
            )
            assert abs(float(k[i, j]) - expected) <= tolerance * max(1.0, abs(expected)), (
                i,
                j,
                float(k[i, j]),
                expected,
            )


def test_arc_cosine_equals_the_covariance_of_a_wide_random_layer():
    x = points(2)
    w = torch.randn(400_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = w @ torch.cat([x, torch.ones(2, 1, dtype=x.dtype)], dim=1).mT
    for order in (0, 1, 2):
        layer = s.clamp_min(0.0) ** order * (s > 0)
        products = 2.0 * layer[:, 0] * layer[:, 1]
        error = float(products.std()) / len(w) ** 0.5
        assert abs(float(products.mean() - ArcCosine(order=order).matrix(x).detach()[0, 1])) < 5.0 * error


# Digits ------------------------------------------------------------


@pytest.mark.parametrize("offset", [1e-3, 1e-6, 1e-9, 1e-12])
def test_near_duplicates_keep_full_precision(offset):
    x = points(900) + 5.0
    y = x.clone()
    y[:, 0] += offset
    r = (y[:, 0] - x[:, 0]).abs()
    k = Matern12().matrix(x, y).diagonal().detach()
    assert torch.allclose(1.0 - k, -torch.expm1(-r), rtol=1e-12, atol=2.3e-16)
    assert float((k - (-r).exp()).abs().max()) <= 1e-12


def test_nearly_parallel_points_keep_their_angle():
    x = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    y = x + torch.tensor([[1e-9, -2e-9]], dtype=torch.float64)
    u, v = ([*p[0].tolist(), 1.0] for p in (x, y))
    cross = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]]
    sine = math.hypot(*cross) / (math.hypot(*u) * math.hypot(*v))
    angle = math.pi * (1.0 - float(ArcCosine(order=0).matrix(x, y).detach()))
    assert abs(angle - math.asin(sine)) < 1e-15


@pytest.mark.parametrize("name", SMOOTH)
def test_covariance_of_slopes_is_right_where_points_coincide(name):
    kernel, x = KERNELS[name](), points(1)

    def mixed(a, b):
        return torch.func.jacfwd(torch.func.jacrev(lambda s, t: kernel.matrix(s, t)[0, 0]), argnums=1)(a, b)[0, :, 0]

    h = 1e-4
    steps = [h * e for e in torch.eye(3, dtype=x.dtype)]

    def k(a, b):
        return float(kernel.matrix(x + a, x + b).detach())

    table = [[(k(a, b) - k(a, -b) - k(-a, b) + k(-a, -b)) / (4 * h * h) for b in steps] for a in steps]
    expected = torch.tensor(table, dtype=x.dtype)
    at = mixed(x, x).detach()
    assert float((at - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    assert float(at.abs().max()) > 0.1


@pytest.mark.parametrize("name", [name for name in KERNELS if name != "Foreign"])
def test_transforms_of_torch_func_agree(name):
    kernel, x, y = KERNELS[name](), points(4), points(3, seed=1)

    def f(t):
        return kernel.matrix(t, y)

    forward, reverse = torch.func.jacfwd(f)(x), torch.func.jacrev(f)(x)
    assert torch.allclose(forward, reverse, rtol=1e-10, atol=1e-12)
    assert torch.allclose(torch.func.vmap(f)(torch.stack([x, 2 * x])), torch.stack([f(x), f(2 * x)]), rtol=1e-12)
    second = torch.func.jacfwd(torch.func.jacrev(f))(x)
    assert torch.allclose(second, torch.func.jacrev(torch.func.jacrev(f))(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["RBF ard", "RationalQuadratic", "Periodic", "nest"])
def test_hyperparameters_are_differentiable_through_functional_call(name):
    kernel, x = KERNELS[name](), points(6)
    values = {k: p.detach() for k, p in kernel.named_parameters()}

    class Matrix(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = kernel

        def forward(self, x):
            return self.kernel.matrix(x)

    def f(tensors):
        return torch.func.functional_call(Matrix(), {f"kernel.{k}": v for k, v in tensors.items()}, (x,))

    jacobian = torch.func.jacfwd(f)(values)
    for name, parameter in kernel.named_parameters():
        (g,) = torch.autograd.grad(kernel.matrix(x)[1, 4], parameter)
        assert torch.allclose(jacobian[name][1, 4].to(g), g, rtol=1e-10, atol=1e-13), name


@pytest.mark.parametrize("name", ["Matern12", "Matern32", "ArcCosine 1", "nest"])
def test_first_and_second_derivatives_pass_gradcheck(name):
    kernel = KERNELS[name]()
    x, y = points(3).requires_grad_(), points(2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(kernel.matrix, (x, y))
    assert torch.autograd.gradgradcheck(kernel.matrix, (x, y))
