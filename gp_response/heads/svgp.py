"""Sparse variational GPs: any likelihood, any number of rows."""

from typing import Any

from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.inducing_head import InducingHead
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.sites import LAPLACE, VARIATIONAL
from gp_response.heads.svgp_training import train_svgp
from gp_response.heads.training import Training
from gp_response.likelihoods import Gaussian, Likelihood


class SVGP(InducingHead):
    """Sparse variational GP (Hensman, Fusi & Lawrence 2013; Hensman, Matthews & Ghahramani 2015).

    `fit` trains on minibatches. `condition`, which ends it, finds the best Gaussian over the inducing points for all rows, at
    the hyperparameters as they are, to twelve digits: it streams over the rows, in one pass for Gaussian noise. So what is
    returned sits at its optimum, where its response is defined.

        data = gr.load("magic")                       # labels 0 and 1
        posterior = gr.SVGP(gr.Matern32(ard=data.dim), 200, gr.Bernoulli()).fit(data)
        p, _ = posterior.likelihood.predictive(posterior.mean(data.test.x), posterior.variance(data.test.x))
        chi = gr.susceptibility(posterior, gr.pointwise(data.test.x[:5], torch.sigmoid), gr.reweight())

    Args:
        kernel, inducing, mean, beta, jitter, placement, seed: see `InducingHead`.
        likelihood: None is `Gaussian(noise=0.1)`; `Bernoulli()`, `Poisson()`, `StudentT(scale, degrees)`, or one of your own.
        approximation: "variational", the best Gaussian in the sense of KL, or "laplace", the one around the mode.

    Raises:
        InputError: arguments that cannot be.
    """

    def __init__(
        self, kernel: Any, inducing: int | Tensor = 512, likelihood: Likelihood | None = None, *, mean: Any = 0.0,
        beta: float = 1.0, jitter: float | None = None, placement: str = "pivoted", seed: int = 0,
        approximation: str = VARIATIONAL,
    ):  # fmt: skip
        super().__init__(
            kernel,
            inducing,
            likelihood or Gaussian(),
            mean=mean,
            beta=beta,
            jitter=jitter,
            placement=placement,
            seed=seed,
        )
        if approximation not in (LAPLACE, VARIATIONAL):
            raise InputError(f"SVGP(approximation={approximation!r}): expected {VARIATIONAL!r} or {LAPLACE!r}")
        self.kind = approximation

    def fit(self, data: Dataset, *, training: Training | None = None) -> SitePosterior:
        """Train hyperparameters, inducing points and features in place on minibatches, then condition on all rows.

        Args:
            training: `rows` is the size of a minibatch, `steps` their number; see `Training`.

        Returns:
            the posterior, with `posterior.trace`.
        """
        if len(data.train) < 2:
            raise InputError(f"fit got {len(data.train)} training row(s); expected at least 2")
        self.likelihood.check(data.train.y)
        trace = train_svgp(self, data, training or Training())
        posterior = self.condition(data)
        posterior.trace = trace
        return posterior


__all__ = ["SVGP"]
