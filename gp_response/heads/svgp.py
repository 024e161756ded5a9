"""Sparse variational GPs: any likelihood, any number of rows."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.class_mode import class_log_evidence
from gp_response.heads.class_posterior import ClassPosterior
from gp_response.heads.inducing_head import InducingHead
from gp_response.heads.pretraining import feature_modules
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.sites import LAPLACE, VARIATIONAL
from gp_response.heads.svgp_training import train_svgp
from gp_response.heads.trace import Trace
from gp_response.heads.training import Training, train
from gp_response.likelihoods import Categorical, Gaussian, Likelihood

CLASS_ROWS = 1000  # in the evidence of several classes, whose Newton steps cost classes² times as much


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
        likelihood: None is `Gaussian(noise=0.1)`; `Bernoulli()`, `Poisson()`, `StudentT(scale, degrees)`, `Categorical(classes)`,
            or one of your own.
        approximation: "variational", the best Gaussian in the sense of KL, or "laplace", the one around the mode; always the
            latter for `Categorical`, whose hyperparameters are trained by Laplace's evidence of at most 1,000 rows.

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
        self.kind = LAPLACE if isinstance(likelihood, Categorical) else approximation

    def log_evidence(self, data: Dataset) -> Tensor:
        """Laplace's log evidence through the inducing points, 0-dim, for several classes; what `fit` maximises for them.

        Raises:
            InputError: another likelihood; those are trained on minibatches of their variational bound.
        """
        if not isinstance(self.likelihood, Categorical):
            raise InputError(f"SVGP has no evidence in closed form under {self.likelihood!r}; train it by fit(data)")
        self.place(data)
        return class_log_evidence(self.basis(), data, self.likelihood, self.prior_mean, self.beta)

    def fit(self, data: Dataset, *, training: Training | None = None) -> SitePosterior | ClassPosterior:
        """Train hyperparameters, inducing points and features in place on minibatches, then condition on all rows.

        Args:
            training: `rows` is the size of a minibatch, `steps` their number; see `Training`.

        Returns:
            the posterior, with `posterior.trace`.
        """
        if len(data.train) < 2:
            raise InputError(f"fit got {len(data.train)} training row(s); expected at least 2")
        self.likelihood.check(data.train.y)
        training = training or Training()
        if isinstance(self.likelihood, Categorical):
            trace = self._fit_classes(data, training)
        else:
            trace = train_svgp(self, data, training)
        posterior = self.condition(data)
        posterior.trace = trace
        return posterior

    def _fit_classes(self, data: Dataset, training: Training) -> Trace:
        if feature_modules(self.kernel):
            raise InputError(
                "SVGP does not train features for several classes; give them trained, or frozen (gr.Encoder)"
            )
        self.place(data)
        few = min(training.rows or CLASS_ROWS, len(data.train))
        return train(self, data, replace(training, estimator="cholesky", optimiser="lbfgs", rows=few))


__all__ = ["SVGP"]
