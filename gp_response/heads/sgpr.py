"""Sparse GP regression by Titsias' collapsed bound."""

from typing import Any

from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.collapsed_bound import collapsed, residual_of_mean
from gp_response.heads.inducing_head import InducingHead
from gp_response.heads.pretraining import feature_modules
from gp_response.heads.sgpr_training import train_sgpr
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.training import Training, train
from gp_response.likelihoods import Gaussian


class SGPR(InducingHead):
    """Sparse GP regression (Titsias 2009): the optimal Gaussian over m inducing points, in closed form.

    The posterior's covariance is the one that responds to data, `K_xu Σ⁻¹ K_ux`; what the inducing points leave out is
    added to predictive variances (`posterior.variance`, `posterior.predictive_cov`) and to nothing else.

    Args:
        kernel, inducing, mean, beta, jitter, placement, seed: see `InducingHead`.
        noise: observation noise variance σ², in the units of `data.train.y` squared; trained by `fit`.
    """

    def __init__(
        self, kernel: Any, inducing: int | Tensor = 512, noise: float = 0.1, *, mean: Any = 0.0, beta: float = 1.0,
        jitter: float | None = None, placement: str = "pivoted", seed: int = 0,
    ):  # fmt: skip
        super().__init__(
            kernel, inducing, Gaussian(noise), mean=mean, beta=beta, jitter=jitter, placement=placement, seed=seed
        )

    def log_evidence(self, data: Dataset) -> Tensor:
        """Titsias' lower bound of `log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim, once differentiable in all parameters."""
        self.place(data)
        return collapsed(self, data, residual_of_mean(self, data)).bound()

    def fit(self, data: Dataset, *, training: Training | None = None) -> SitePosterior:
        """Train hyperparameters and inducing points (and features) in place by the bound, then condition on all rows.

        Without features to train: hyperparameters by L-BFGS, first on the exact evidence of 2,000 rows, then on the bound of
        all rows, at n m² a step; points given as a number are chosen anew for them, twice; then all learn together, in 200
        steps or, where n m² is above 5e10, in 80. With features: pretraining, then Adam on the bound of minibatches, stopped
        by held-out rows, as for `Exact`.

        Returns:
            the posterior, with `posterior.trace`.
        """
        if len(data.train) < 2:
            raise InputError(f"fit got {len(data.train)} training row(s); expected at least 2")
        training = training or Training()
        if feature_modules(self.kernel):
            trace = train(self, data, training)
        else:
            trace = train_sgpr(self, data, training, chosen=self.chosen, bound=self.log_evidence)
        posterior = self.condition(data)
        assert isinstance(posterior, SitePosterior)
        posterior.trace = trace
        return posterior


__all__ = ["SGPR"]
