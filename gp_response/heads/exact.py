"""The exact Gaussian-process head."""

from typing import Any

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.data import Dataset, row_noise
from gp_response.errors import InputError
from gp_response.heads.class_posterior import ClassPosterior
from gp_response.heads.exact_posterior import ExactPosterior, exact_posterior
from gp_response.heads.latent import laplace_log_evidence, latent_posterior
from gp_response.heads.prior_mean import as_prior_mean, prior_mean_at
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.start import Start
from gp_response.heads.training import Training, train
from gp_response.heads.whitening import whiten
from gp_response.kernels import Foreign, Kernel
from gp_response.kernels.parameters import positive
from gp_response.likelihoods import Gaussian, Likelihood
from gp_response.linalg.evidence import gaussian_log_evidence
from gp_response.linalg.transforms import inside_transform


class Exact(nn.Module):
    """Exact GP regression: a kernel, a noise variance, a solver.

    Args:
        kernel: any `gp_response.kernels.Kernel`, with features (`.on(...)`) or without, or any gpytorch kernel.
        noise: observation noise variance σ² (not its root), in the units of `data.train.y` squared; trained by `fit`.
            Rows with known noise have it on top; 0 means known noise alone, and is not trained.
        solver: a solver object such as `Cholesky()` or `CG()`; None takes `Cholesky()` up to 16,000 rows and `CG()` beyond.
            What was used is `posterior.solver`.
        mean: prior mean, a number or a module from points (n, d) to (n,), copied; not trained.
        beta: inverse temperature of `p₀(f) exp(-β Σ ρ_i ℓ_i)`; 1 is the ordinary posterior.
        likelihood: None is Gaussian noise. Others are approximated around the mode (Laplace), up to 20,000 rows; `noise` and
            `solver` are then not used.
        noise_prior: gpytorch prior of σ², which `fit` adds to the evidence as it does those of the kernel.

    Raises:
        InputError: beta not positive and finite, noise negative or not finite, or kernel not a Kernel.
    """

    def __init__(
        self,
        kernel: Kernel | gpytorch.kernels.Kernel,
        noise: float = 0.1,
        *,
        solver: Any = None,
        mean: float | nn.Module = 0.0,
        beta: float = 1.0,
        likelihood: Likelihood | None = None,
        noise_prior: gpytorch.priors.Prior | None = None,
    ):
        super().__init__()
        if likelihood is not None and not isinstance(likelihood, Likelihood):
            raise InputError(
                f"Exact got a likelihood of type {type(likelihood).__name__}; expected one such as Bernoulli(), or None"
            )
        if isinstance(likelihood, Gaussian):
            noise, likelihood = float(likelihood.noise.detach()), None
        if isinstance(kernel, gpytorch.kernels.Kernel) and not isinstance(kernel, Kernel):
            kernel = Foreign(kernel)
        if not isinstance(kernel, Kernel):
            raise InputError(f"Exact got a kernel of type {type(kernel).__name__}; expected a gp_response Kernel")
        if solver is not None and not hasattr(solver, "factor"):
            raise InputError(
                f"Exact got a solver of type {type(solver).__name__}; expected a solver such as Cholesky()"
            )
        if not 0.0 < float(beta) < float("inf"):
            raise InputError(f"Exact(beta={beta!r}): expected a positive finite number")
        if not 0.0 <= float(noise) < float("inf"):
            raise InputError(f"Exact(noise={noise!r}): expected a positive finite number, or 0 for known noise alone")
        self.kernel, self.prior_mean, self.beta = kernel, as_prior_mean(mean), float(beta)
        self.solver = solver
        self.noise_constraint = positive()
        start = torch.tensor(float(noise), dtype=torch.float64)
        # Zero is -inf here, where nothing moves it.
        self.raw_noise = nn.Parameter(self.noise_constraint.inverse_transform(start), requires_grad=float(noise) > 0.0)
        self.raw_noise_floor = -float("inf")
        self.likelihood, self.noise_prior = likelihood, noise_prior
        # What the last Laplace approximation needed, and where it ended.
        self.latent_jitter: float | None = None
        self.latent_start: Start | None = None
        if likelihood is not None:
            self.raw_noise.requires_grad_(False)
        self.smooth_at_zero_weight = likelihood is not None

    @property
    def noise(self) -> Tensor:
        """σ², 0-dim."""
        return self.noise_constraint.transform(self.raw_noise)

    def floor_noise(self, value: float) -> None:
        """Keep training from taking the noise variance below `value`."""
        if not self.raw_noise.requires_grad:
            return
        floor = self.noise_constraint.inverse_transform(torch.tensor(max(value, 1e-300), dtype=torch.float64))
        self.raw_noise_floor = float(floor)

    def row_noise(self, data: Dataset) -> Tensor:
        """Variances of the training observations, (n,), or 0-dim where the data know of none; differentiable in σ²."""
        known, alone = data.train.noise, not self.raw_noise.requires_grad and float(self.noise) == 0.0
        if alone and (known is None or not (inside_transform() or bool((known > 0).all()))):
            without = "the data have none" if known is None else "some rows have none"
            raise InputError(
                f"noise=0 stands for known noise alone and {without}; give dataset(..., noise=...) or Exact(noise=...)"
            )
        return row_noise(data, self.noise.to(data.train.x.device))

    def condition(self, data: Dataset) -> ExactPosterior | SitePosterior | ClassPosterior:
        """The posterior given the training rows at the present hyperparameters. Nothing is trained.

        The kernel is copied, so training the head later does not change the posterior returned here.

        Raises:
            InputError: no noise at all.
            SolverError: the system is not positive definite in the data's precision.
        """
        if self.likelihood is not None:
            return latent_posterior(self, data)
        self.row_noise(data)
        # No torch.no_grad() here: inside torch.func.jvp it would silently drop the tangents of the data.
        return exact_posterior(self, data)

    def log_evidence(self, data: Dataset) -> Tensor:
        """`log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)` of the training rows, 0-dim, once differentiable in every hyperparameter.

        For unit weights and β = 1 it is the log marginal likelihood; the weights' normaliser is included, so it is
        also the right objective for the noise when weights are not one. Laplace's approximation of it under a likelihood
        that is not Gaussian.
        """
        if self.likelihood is not None:
            return laplace_log_evidence(self, data)
        train, noise = data.train, self.row_noise(data)
        white = whiten(data, noise, self.beta).to(train.x)
        system = white.system(self.kernel.matrix(train.x))
        fit = gaussian_log_evidence(system, white.scale * (train.y - prior_mean_at(self.prior_mean, train.x)))
        return fit + white.log_normaliser(data, noise, self.beta)

    def log_prior(self) -> Tensor:
        """Log density of the gpytorch priors of kernel and noise, 0-dim; 0 without priors. `fit` adds it to the evidence."""
        terms = [prior.log_prob(value(module)).sum() for _, module, prior, value, _ in self.kernel.named_priors()]
        if self.noise_prior is not None and self.likelihood is None:
            terms.append(self.noise_prior.log_prob(self.noise))
        return torch.stack(terms).sum() if terms else self.raw_noise.new_zeros(())

    def fit(
        self, data: Dataset, *, training: Training | None = None
    ) -> ExactPosterior | SitePosterior | ClassPosterior:
        """Train the hyperparameters (and features) in place by the log evidence, then condition on all training rows.

        Priors registered on the kernel (`lengthscale_prior=` and so on) count: the maximum is then a posteriori.

        Args:
            data: standardised data is expected by the default starting values.
            training: how; see `Training`. None chooses by the kernel and the number of rows, and the choice is
                written in `posterior.trace.objective`.

        Returns:
            the posterior, with `posterior.trace`.

        Raises:
            InputError: fewer than two training rows.
            SolverError: no step could be taken because the system was never positive definite.
        """
        if len(data.train) < 2:
            raise InputError(f"fit got {len(data.train)} training row(s); expected at least 2")
        trace = train(self, data, training or Training())
        posterior = self.condition(data)
        posterior.trace = trace
        return posterior


__all__ = ["Exact"]
