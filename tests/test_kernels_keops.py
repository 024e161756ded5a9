"""KeOps agrees with the dense backend to 1e-10 in value and gradient. A cold cache compiles for minutes."""

import pytest
import torch

from gp_response.features import MLP
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Constant,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    RationalQuadratic,
    Scale,
)
from gp_response.testing import check_kernel

pytest.importorskip("pykeops")
pytestmark = pytest.mark.keops

ARD = [0.5, 1.0, 2.0]
FEW = {
    "Matern32": lambda: Matern32(lengthscale=ARD, outputscale=1.3),
    "nest": lambda: (RBF() * RationalQuadratic(outputscale=None) + Linear(active_dims=[0, 1])).on(MLP(3, [5, 3])),
}
MORE = {
    "RBF": lambda: RBF(lengthscale=0.7),
    "RationalQuadratic": lambda: RationalQuadratic(alpha=0.7, lengthscale=ARD),
    "Matern12": lambda: Matern12(lengthscale=ARD),
    "Matern52": lambda: Matern52(),
    "Periodic": lambda: Periodic(period=3.0),
    "Linear": lambda: Linear(),
    "Polynomial": lambda: Polynomial(degree=3),
    "ArcCosine 0": lambda: ArcCosine(order=0),
    "ArcCosine 1": lambda: ArcCosine(order=1),
    "ArcCosine 2": lambda: ArcCosine(order=2),
    "Constant": lambda: Constant(outputscale=2.0),
    "Scale": lambda: Scale(RBF() + Constant(), outputscale=3.0),
}


@pytest.mark.parametrize("name", FEW)
def test_keops_agrees_in_value_and_gradient(name):
    check_kernel(FEW[name](), keops=True)


@pytest.mark.parametrize("name", MORE)
def test_keops_agrees_for_every_kernel(name, request):
    if not request.config.getoption("--keops-all"):
        pytest.skip("compiles for a minute; ask with --keops-all")
    check_kernel(MORE[name](), keops=True)


def test_keops_multiplies_sizes_that_the_dense_matrix_would_not_like():
    kernel = Matern32(lengthscale=ARD, outputscale=1.3)
    x = torch.randn(20_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.ones(20_000, 1, dtype=torch.float64)
    with torch.no_grad():
        product = kernel.operator(x, backend="keops") @ v
        expected = kernel.matrix(x[:50], x) @ v
    assert torch.allclose(product[:50], expected, rtol=1e-11)
