"""Models trained by GPyTorch and BoTorch as their users write them, for tests of what is made of them."""

import gpytorch
import torch


def rows(n=500, d=3, *, seed=0):
    """Inputs in units of their own, far from zero, and a smooth target with noise that grows along the first."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(n, d, generator=generator, dtype=torch.float64)
    x = 10.0 + u * torch.tensor([5.0, 0.5, 2.0], dtype=torch.float64)[:d]
    noise = 0.2 + 1.5 * u[:, 0]
    y = 40.0 + 8.0 * torch.sin(4.0 * u.sum(1))
    return x, y + noise.sqrt() * torch.randn(n, generator=generator, dtype=torch.float64), noise


class ExactGP(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel, mean=None):
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = mean or gpytorch.means.ConstantMean(), kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def train(model, objective, x, y, *, steps, rate=0.1):
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss = -objective(model(x), y)
        loss.backward()
        optimiser.step()
    return model.eval()


def matern_ard(n=500, steps=10, **kwargs):
    x, y, _ = rows(n)
    x = (x - x.mean(0)) / x.std(0)
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=3))
    model = ExactGP(x, y - y.mean(), likelihood, kernel, **kwargs).double()
    return train(model, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model), x, y - y.mean(), steps=steps)


def fixed_noise(n=500, steps=10, additional=False):
    x, y, noise = rows(n)
    x, y = (x - x.mean(0)) / x.std(0), y - y.mean()
    likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise, learn_additional_noise=additional)
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=3))
    model = ExactGP(x, y, likelihood, kernel).double()
    return train(model, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model), x, y, steps=steps)


def single_task(n=500, steps=10, *, known=False, **options):
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.transforms import Normalize

    x, y, noise = rows(n)
    options = {"input_transform": Normalize(3)} | options
    model = SingleTaskGP(x, y[:, None], noise[:, None] if known else None, **options)
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(model.likelihood, model)
    if steps:
        fit_gpytorch_mll(objective, optimizer_kwargs={"options": {"maxiter": steps}})
    return model.eval()


def sgpr(n=500, steps=10, m=40):
    x, y, _ = rows(n)
    x, y = (x - x.mean(0)) / x.std(0), y - y.mean()
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    base = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=3))
    kernel = gpytorch.kernels.InducingPointKernel(base, inducing_points=x[:m].clone(), likelihood=likelihood)
    model = ExactGP(x, y, likelihood, kernel).double()
    return train(model, gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model), x, y, steps=steps)


class Variational(gpytorch.models.ApproximateGP):
    def __init__(self, z, *, whitened=True):
        q = gpytorch.variational.NaturalVariationalDistribution(len(z))
        kinds = gpytorch.variational
        strategy = (kinds.VariationalStrategy if whitened else kinds.UnwhitenedVariationalStrategy)(self, z, q)
        super().__init__(strategy)
        self.mean_module = gpytorch.means.ConstantMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=3))

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def svgp(n=500, steps=10, m=40, *, whitened=True):
    """Adam on hyperparameters and inducing points, natural gradients on q, which end at the best q."""
    x, y, _ = rows(n)
    x, y = (x - x.mean(0)) / x.std(0), y - y.mean()
    model, likelihood = (
        Variational(x[:m].clone(), whitened=whitened).double(),
        gpytorch.likelihoods.GaussianLikelihood(),
    )
    likelihood = likelihood.double().train()
    natural = gpytorch.optim.NGD(model.variational_parameters(), num_data=n, lr=1.0)
    adam = torch.optim.Adam([*model.hyperparameters(), *likelihood.parameters()], lr=0.05)
    objective = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=n)
    model.train()
    for step in range(steps + 1):
        for optimiser in (adam, natural):
            optimiser.zero_grad()
        (-objective(model(x), y)).backward()
        natural.step()
        if step < steps:
            adam.step()
    return model.eval(), likelihood.eval(), x, y
