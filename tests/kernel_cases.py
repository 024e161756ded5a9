"""One kernel of every kind, and points to try them on."""

import gpytorch
import torch

from gp_response.features import MLP
from gp_response.kernels import (
    RBF,
    ArcCosine,
    Constant,
    Foreign,
    Linear,
    Matern12,
    Matern32,
    Matern52,
    Periodic,
    Polynomial,
    RationalQuadratic,
    Scale,
    families,
)
from gp_response.kernels.symmetric import SymmetricBlocks

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
KERNELS |= {name: kind for name, kind in families().items() if kind not in [type(make()) for make in KERNELS.values()]}
SMOOTH = ["RBF ard", "Matern32", "Matern52", "RationalQuadratic", "Periodic", "ArcCosine 1", "ArcCosine 2", "Product"]


def points(n: int, dim: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def awkward(n, dtype=torch.float64, far=0.0, spread=1.0, dim=3):
    """Equal points, and points 1e-9, 1e-5 and 1e-2 apart, at both ends of the set."""
    x = spread * points(n, dim)
    for k, gap in enumerate((0.0, 1e-9, 1e-5, 1e-2)):
        x[k] = x[n - 1 - k] + gap
    return (x + far).to(dtype)


def exact(kernel, x, y=None):
    with torch.no_grad():
        return kernel.matrix(x.double(), None if y is None else y.double())


def entries(kernel, x, dtype):
    """The whole matrix as the fast path evaluates it."""
    return SymmetricBlocks(kernel, x, dtype=dtype, block=97).product(torch.eye(len(x), dtype=dtype)).double()
