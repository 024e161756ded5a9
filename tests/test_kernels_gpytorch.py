"""Our kernels equal gpytorch's in value and gradient, and work inside gpytorch and BoTorch models."""

import math
from copy import deepcopy

import gpytorch
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

ARD = [0.5, 1.0, 2.0]
G = gpytorch.kernels


def stock(kernel, **values):
    """A gpytorch kernel in float64 with the values given, under a ScaleKernel of 1.7."""
    kernel = G.ScaleKernel(kernel).double()
    kernel.outputscale = torch.tensor(1.7, dtype=torch.float64)
    for name, value in values.items():
        setattr(kernel.base_kernel, name, torch.tensor(value, dtype=torch.float64))
    return kernel


SQUARES = [v * v for v in ARD]
PAIRS = {
    "RBF": (RBF, {"lengthscale": 0.7}, lambda: stock(G.RBFKernel(), lengthscale=0.7)),
    "RBF ard": (RBF, {"lengthscale": ARD}, lambda: stock(G.RBFKernel(ard_num_dims=3), lengthscale=ARD)),
    "Matern12": (Matern12, {"lengthscale": ARD}, lambda: stock(G.MaternKernel(0.5, ard_num_dims=3), lengthscale=ARD)),
    "Matern32": (Matern32, {"lengthscale": ARD}, lambda: stock(G.MaternKernel(1.5, ard_num_dims=3), lengthscale=ARD)),
    "Matern52": (Matern52, {"lengthscale": 0.6}, lambda: stock(G.MaternKernel(2.5), lengthscale=0.6)),
    "RationalQuadratic": (
        RationalQuadratic,
        {"alpha": 0.7, "lengthscale": ARD},
        lambda: stock(G.RQKernel(ard_num_dims=3), alpha=0.7, lengthscale=ARD),
    ),
    "Periodic": (
        Periodic,
        {"period": [2.0, 3.0, 4.0], "lengthscale": ARD},
        lambda: stock(G.PeriodicKernel(ard_num_dims=3), lengthscale=SQUARES, period_length=[2.0, 3.0, 4.0]),
    ),
    "Linear": (Linear, {}, lambda: stock(G.LinearKernel(), variance=1.0)),
    "Polynomial": (
        Polynomial,
        {"degree": 3, "offset": 0.5},
        lambda: stock(G.PolynomialKernel(power=3), offset=0.5),
    ),
    "Constant": (Constant, {}, lambda: stock(G.ConstantKernel(), constant=1.0)),
}


def points(n, seed=0):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("n", [12, 801])
def test_value_and_gradients_equal_gpytorchs(name, n):
    make, options, theirs = PAIRS[name]
    ours, theirs = make(outputscale=1.7, **options), theirs()
    weights = torch.cos(torch.arange(n * 15, dtype=torch.float64)).reshape(n, 15)
    values = []
    for matrix in (ours.matrix, lambda x, y: theirs(x, y).to_dense()):
        x, y = points(n).requires_grad_(), points(15, seed=1).requires_grad_()
        k = matrix(x, y)
        values.append((k, *torch.autograd.grad((k * weights).sum(), (x, y), allow_unused=True)))
    for got, expected in zip(*values, strict=True):
        missing = torch.zeros(())
        assert torch.allclose(
            missing if got is None else got, missing if expected is None else expected, rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("name", ["RBF ard", "Matern12", "Matern32", "Matern52", "RationalQuadratic", "Polynomial"])
def test_gradients_of_hyperparameters_equal_gpytorchs(name):
    make, options, theirs = PAIRS[name]
    ours, theirs = make(outputscale=1.7, **options), theirs()
    x, y = points(30), points(30, seed=1)  # not one set: there gpytorch expands the square and loses digits
    weights = torch.cos(torch.arange(900, dtype=torch.float64)).reshape(30, 30)
    (ours.matrix(x, y) * weights).sum().backward()
    (theirs(x, y).to_dense() * weights).sum().backward()
    assert torch.allclose(ours.raw_outputscale.grad.squeeze(), theirs.raw_outputscale.grad, rtol=1e-10, atol=1e-10)
    for raw in ("raw_lengthscale", "raw_alpha", "raw_offset"):
        if hasattr(theirs.base_kernel, raw):
            got, expected = getattr(ours, raw).grad, getattr(theirs.base_kernel, raw).grad
            assert torch.allclose(got.reshape(-1), expected.reshape(-1), rtol=1e-10, atol=1e-10), raw


def test_period_gradient_equals_gpytorchs():
    make, options, theirs = PAIRS["Periodic"]
    ours, theirs, x = make(outputscale=1.7, **options), theirs(), points(30)
    ours.matrix(x).sum().backward()
    theirs(x).to_dense().sum().backward()
    assert torch.allclose(ours.raw_period.grad, theirs.base_kernel.raw_period_length.grad, rtol=1e-10)


# Inside models -------------------------------------------------------------------------------------------------------

MODELS = {
    **{name: (lambda make=make, options=options: make(**options)) for name, (make, options, _) in PAIRS.items()},
    "ArcCosine": lambda: ArcCosine(),
    "sum": lambda: RBF(active_dims=[0, 2]) + Linear() + Constant(),
    "product": lambda: RBF(lengthscale=ARD) * Periodic(outputscale=None),
    "deep": lambda: Matern32().on(MLP(3, [5, 2])),
}


class ExactGP(gpytorch.models.ExactGP):
    def __init__(self, x, y, kernel):
        super().__init__(x, y, gpytorch.likelihoods.GaussianLikelihood().to(x))
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_trains_and_predicts_inside_a_stock_exact_gp(name, dtype):
    x = points(40).to(dtype)
    y, new = torch.sin(4.0 * x.sum(1)), points(6, seed=4).to(dtype)
    kernel = Scale(MODELS[name]())
    model = ExactGP(x, y, kernel)
    before = deepcopy(kernel.state_dict())
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        loss = -objective(model(x), y)
        loss.backward()
        optimiser.step()
    assert torch.isfinite(loss)
    assert all(not torch.equal(before[k], p) for k, p in kernel.named_parameters() if p.grad.abs().max() > 0)
    model.eval()
    with torch.no_grad():
        predicted = model(new)
        noisy = kernel.matrix(x) + model.likelihood.noise * torch.eye(len(x), dtype=dtype)
        expected = kernel.matrix(new, x) @ torch.linalg.solve(noisy, y)
    tolerance = 1e-8 if dtype == torch.float64 else 1e-2
    assert torch.allclose(predicted.mean, expected, rtol=tolerance, atol=tolerance)
    assert predicted.variance.shape == (6,)


@pytest.mark.parametrize("name", ["RBF ard", "product", "deep"])
def test_optimises_an_acquisition_function_in_botorch(name):
    pytest.importorskip("botorch")
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf

    x = points(15)
    y = torch.sin(4.0 * x.sum(1, keepdim=True))
    model = SingleTaskGP(x, y, covar_module=MODELS[name]())
    start = deepcopy(model.state_dict())
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    before = float(objective.train()(model(*model.train_inputs), model.train_targets))
    fit_gpytorch_mll(objective, optimizer_kwargs={"options": {"maxiter": 6}})
    objective.train()
    assert float(objective(model(*model.train_inputs), model.train_targets)) > before
    assert any(not torch.equal(start[k], v) for k, v in model.covar_module.state_dict(prefix="covar_module.").items())
    model.eval()
    improvement = qLogExpectedImprovement(model, best_f=y.max())
    bounds = torch.tensor([[0.0] * 3, [1.0] * 3], dtype=x.dtype)
    options = {"maxiter": 3}
    candidate, value = optimize_acqf(improvement, bounds=bounds, q=2, num_restarts=2, raw_samples=4, options=options)
    assert candidate.shape == (2, 3)
    assert math.isfinite(float(value))


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_carries_everything_to_a_fresh_kernel(name, tmp_path):
    kernel, x = MODELS[name](), points(5)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter += 0.37
    torch.save(kernel.state_dict(), tmp_path / "kernel.pt")
    fresh = MODELS[name]()
    assert not torch.equal(fresh.matrix(x), kernel.matrix(x))
    fresh.load_state_dict(torch.load(tmp_path / "kernel.pt", weights_only=True))
    assert torch.equal(fresh.matrix(x), kernel.matrix(x))
    assert torch.equal(deepcopy(kernel).matrix(x), kernel.matrix(x))


def test_results_ignore_gpytorchs_global_settings():
    kernel, x = RBF(lengthscale=ARD), points(810)
    v = torch.ones(810, 1, dtype=x.dtype)
    expected = kernel.matrix(x)
    with gpytorch.settings.lazily_evaluate_kernels(False), gpytorch.settings.max_cholesky_size(1):
        assert torch.equal(kernel.matrix(x), expected)
        assert torch.allclose(kernel.operator(x) @ v, expected @ v, rtol=1e-12)
