"""Hyperparameters, arithmetic and bad input."""

from copy import deepcopy

import gpytorch
import pytest
import torch
from kernel_cases import ARD, KERNELS, points
from refusals import assert_refused

from gp_response.errors import InputError
from gp_response.features import MLP, Identity
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Constant,
    Foreign,
    Kernel,
    Linear,
    Matern32,
    On,
    Polynomial,
    Product,
    RationalQuadratic,
    Scale,
    Sum,
)


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
    "batch of gpytorch": (lambda: STOCK.expand_batch(2), "before it is wrapped"),
    "last_dim_is_batch": (lambda: RBF().forward(points(3), points(3), last_dim_is_batch=True), "last_dim_is_batch"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_line(case):
    function, message = BAD[case]
    assert_refused(function, message, error=InputError)


def test_a_kernel_without_a_formula_says_so():
    with pytest.raises(NotImplementedError, match="neither formula"):
        Kernel().matrix(points(3))
