"""Every kernel obeys the laws, equals gpytorch's where there is one, and stays exact where others lose digits."""

import importlib
import math
import pkgutil
import subprocess
import sys
from copy import deepcopy

import gpytorch
import pytest
import torch

from gp_response import kernels
from gp_response.errors import InputError
from gp_response.features import MLP, Identity
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Constant,
    Foreign,
    Kernel,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    On,
    Periodic,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    Sum,
)
from gp_response.kernels.dense import RECOMPUTE
from gp_response.testing import check_kernel

ARD = [0.5, 1.0, 2.0]
KERNELS = {
    "RBF": lambda: RBF(lengthscale=0.7, outputscale=1.5),
    "RBF ard": lambda: RBF(lengthscale=ARD),
    "Matern12": lambda: Matern12(lengthscale=ARD),
    "Matern32": lambda: Matern32(lengthscale=ARD, outputscale=0.3),
    "Matern52": lambda: Matern52(lengthscale=0.9),
    "RationalQuadratic": lambda: RationalQuadratic(alpha=0.7, lengthscale=ARD),
    "Periodic": lambda: Periodic(period=[2.0, 3.0, 4.0], lengthscale=1.2),
    "Linear": lambda: Linear(lengthscale=ARD),
    "Polynomial": lambda: Polynomial(degree=3, offset=0.5),
    "ArcCosine 0": lambda: ArcCosine(order=0),
    "ArcCosine 1": lambda: ArcCosine(order=1, bias=0.3),
    "ArcCosine 2": lambda: ArcCosine(order=2, lengthscale=ARD),
    "Constant": lambda: Constant(outputscale=2.0),
    "Scale": lambda: Scale(Matern52(outputscale=None), outputscale=3.0),
    "Sum": lambda: RBF(active_dims=[0, 2]) + Linear(active_dims=[1]) + Constant(),
    "Product": lambda: RBF(lengthscale=ARD) * Periodic(outputscale=None, period=3.0),
    "On": lambda: Matern32(ard=2).on(MLP(3, [6, 2])),
    "Foreign": lambda: Foreign(gpytorch.kernels.RQKernel()),
    "nest": lambda: (2.0 * RBF() * RationalQuadratic() + gpytorch.kernels.LinearKernel()).on(MLP(3, [4, 3])),
}
SMOOTH = ["RBF ard", "Matern32", "Matern52", "RationalQuadratic", "Periodic", "ArcCosine 1", "ArcCosine 2", "Product"]


def points(n: int, dim: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


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
    angle = math.pi * (1.0 - float(ArcCosine(order=0).matrix(x, y)))
    assert abs(angle - math.asin(sine)) < 1e-15


@pytest.mark.parametrize("name", SMOOTH)
def test_covariance_of_slopes_is_right_where_points_coincide(name):
    kernel, x = KERNELS[name](), points(1)

    def mixed(a, b):
        return torch.func.jacfwd(torch.func.jacrev(lambda s, t: kernel.matrix(s, t)[0, 0]), argnums=1)(a, b)[0, :, 0]

    h = 1e-4
    steps = [h * e for e in torch.eye(3, dtype=x.dtype)]

    def k(a, b):
        return float(kernel.matrix(x + a, x + b))

    table = [[(k(a, b) - k(a, -b) - k(-a, b) + k(-a, -b)) / (4 * h * h) for b in steps] for a in steps]
    expected = torch.tensor(table, dtype=x.dtype)
    at = mixed(x, x)
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


# Size, memory, dtype ------------------------------------------------------------


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


# Hyperparameters ------------------------------------------------------------


@pytest.mark.parametrize("value", [0.3, 1e-6, 1.0, 25.0, 1e5])
def test_values_come_back_to_rounding_in_float64(value):
    kernel = RationalQuadratic(lengthscale=value, outputscale=value, alpha=value)
    for tensor in kernel.natural_hyperparameters().values():
        assert tensor.dtype == torch.float64
        assert abs(tensor.item() / value - 1.0) < 1e-14
    kernel.alpha = 2.0 * value
    kernel.initialize(lengthscale=3.0 * value)
    assert abs(kernel.alpha.item() / (2.0 * value) - 1.0) < 1e-14
    assert abs(kernel.lengthscale.item() / (3.0 * value) - 1.0) < 1e-14


def test_dotted_names_list_all_hyperparameters():
    names = list(KERNELS["Product"]().natural_hyperparameters())
    assert names == ["kernels.0.lengthscale", "kernels.0.outputscale", "kernels.1.lengthscale", "kernels.1.period"]


def test_priors_and_constraints_are_gpytorchs():
    prior = gpytorch.priors.GammaPrior(3.0, 6.0)
    kernel = RationalQuadratic(
        lengthscale=0.5,
        lengthscale_constraint=gpytorch.constraints.Interval(0.1, 2.0),
        outputscale_prior=prior,
        alpha_prior=prior,
    )
    assert abs(kernel.lengthscale.item() - 0.5) < 1e-7  # gpytorch keeps bounds in float32
    found = {name: closure(module) for name, module, _, closure, _ in kernel.named_priors()}
    assert set(found) == {"outputscale_prior", "alpha_prior"}
    assert all(value.item() == pytest.approx(1.0) for value in found.values())
    sampled = deepcopy(kernel)
    sampled.sample_from_prior("alpha_prior")
    assert sampled.alpha.item() != kernel.alpha.item()


def test_arithmetic_makes_sums_products_and_scales():
    x, a, b = points(8), RBF(), Matern32(lengthscale=ARD)
    assert torch.allclose((a + b).matrix(x), a.matrix(x) + b.matrix(x))
    assert torch.allclose((a * b).matrix(x), a.matrix(x) * b.matrix(x))
    assert torch.allclose((2.5 * a).matrix(x), 2.5 * a.matrix(x))
    assert torch.allclose((a * 2.5).matrix(x), 2.5 * a.matrix(x))
    assert type(a + b) is Sum
    assert len((a + b + a).kernels) == 3
    assert type(a * b) is Product
    assert type(2.5 * a) is Scale
    assert type(a.on(Identity())) is On
    assert torch.allclose(sum([a, b, a]).matrix(x), (a + b + a).matrix(x))
    with pytest.raises(TypeError):
        a + 1.0


def test_stock_gpytorch_kernels_mix_on_either_side():
    x, ours, stock = points(8), RBF(), gpytorch.kernels.RQKernel()
    expected = ours.matrix(x) + stock.double()(x).to_dense()
    assert torch.allclose((ours + stock).matrix(x), expected)
    assert torch.allclose((stock + ours)(x).to_dense(), expected)  # gpytorch's own sum, which has no matrix()
    assert torch.allclose(Foreign(stock + ours).matrix(x), expected)


def test_batches_of_kernels():
    kernel = RationalQuadratic(batch_shape=[2], lengthscale=[[[0.5]], [[1.0]]], alpha=[1.0, 2.0])
    x = points(7)
    k = kernel.matrix(x)
    assert k.shape == (2, 7, 7)
    assert kernel.diagonal(x).shape == (2, 7)
    assert kernel.alpha.shape == (2, 1, 1)
    for i, (lengthscale, alpha) in enumerate([(0.5, 1.0), (1.0, 2.0)]):
        alone = RationalQuadratic(lengthscale=lengthscale, alpha=alpha)
        assert torch.allclose(k[i], alone.matrix(x), rtol=1e-13)
        assert torch.allclose(kernel[i].matrix(x), alone.matrix(x), rtol=1e-13)
        assert torch.allclose(kernel(x)[i].to_dense(), alone.matrix(x), rtol=1e-13)
    wide = Sum(RBF(), Linear(lengthscale=ARD)).expand_batch(torch.Size([3]))
    assert wide.matrix(x).shape == (3, 7, 7)
    assert wide.batch_shape == (3,)
    many = RBF(batch_shape=[2]).matrix(torch.stack([x, x + 1]))
    assert many.shape == (2, 7, 7)


def test_repr_is_short_and_says_the_values():
    assert repr(RBF(lengthscale=0.3)) == "RBF(lengthscale=0.3, outputscale=1)"
    assert repr(Polynomial(degree=3)) == "Polynomial(degree=3, lengthscale=1, outputscale=1, offset=1)"
    assert repr(Linear() + Constant()) == "Sum(Linear(lengthscale=1, outputscale=1), Constant(outputscale=1))"
    assert repr(RBF(outputscale=None).on(MLP(3, [2]))) == "RBF(lengthscale=1).on(MLP)"
    assert len(repr(RBF(ard=50))) < 100


# Errors ------------------------------------------------------------

STOCK, STOCK_RBF = Foreign(gpytorch.kernels.RQKernel()), Foreign(gpytorch.kernels.RBFKernel())
BAD = {
    "not positive": (lambda: RBF(lengthscale=-1.0), "lengthscale = -1.0 must be positive"),
    "zero": (lambda: RBF(outputscale=0.0), "outputscale = 0.0 must be positive"),
    "nan": (lambda: RBF(lengthscale=[1.0, float("nan")]), "must be positive and finite"),
    "text": (lambda: RBF(lengthscale="wide"), "'wide' is not a number"),
    "later": (lambda: setattr(RBF(), "lengthscale", 0.0), "must be positive"),
    "shape": (lambda: setattr(RBF(), "lengthscale", [1.0, 2.0]), "shape"),
    "ard": (lambda: RBF(lengthscale=[1.0, 2.0], ard=3), "2 lengthscales for 3 dimensions"),
    "active": (lambda: RBF(ard=3, active_dims=[0, 1]), "ard=3 but 2 active_dims"),
    "constraint": (lambda: RBF(lengthscale_constraint=gpytorch.constraints.Interval(2.0, 3.0)), "outside"),
    "columns": (lambda: RBF(ard=2).matrix(points(4)), "use ard=3"),
    "beyond": (lambda: RBF(active_dims=[0, 7]).matrix(points(4)), "columns 0 to 2"),
    "vector": (lambda: RBF().matrix(points(4)[:, 0]), "[:, None]"),
    "integers": (lambda: RBF().matrix(torch.ones(3, 2, dtype=torch.long)), "floating-point"),
    "list": (lambda: RBF().matrix([[1.0]]), "list"),
    "two widths": (lambda: RBF().matrix(points(4), points(4, 2)), "same d, dtype and device"),
    "two dtypes": (lambda: RBF().matrix(points(4), points(4).float()), "same d, dtype and device"),
    "degree": (lambda: Polynomial(degree=0), "positive integer"),
    "order": (lambda: ArcCosine(order=3), "order 0, 1 or 2"),
    "sum of numbers": (lambda: Sum(RBF(), 1.0), "give kernels"),
    "features": (lambda: RBF().on(torch.tanh), "torch.nn.Module"),
    "backend": (lambda: RBF().operator(points(3), backend="keop"), "did you mean 'keops'"),
    "no vmap in gpytorch": (
        lambda: torch.func.vmap(lambda t: STOCK.matrix(t, t + 1.0))(points(6).reshape(2, 3, 3)),
        "torch.func cannot",
    ),
    "no jvp in gpytorch": (lambda: torch.func.jacfwd(STOCK_RBF.matrix)(points(3)), "torch.func cannot"),
    "last_dim_is_batch": (lambda: RBF().forward(points(3), points(3), last_dim_is_batch=True), "last_dim_is_batch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    with pytest.raises(InputError) as caught:
        function()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kernel_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match="neither formula"):
        Kernel().matrix(points(3))
