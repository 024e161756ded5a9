"""Exact GP regression whose training goes through inducing points and conjugate gradients."""

from typing import Any

from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.cglb_training import train_cglb
from gp_response.heads.conjugate_bound import SLACK, ConjugateBound
from gp_response.heads.exact_posterior import ExactPosterior, exact_posterior
from gp_response.heads.inducing_head import InducingHead
from gp_response.heads.pretraining import feature_modules
from gp_response.heads.training import Training
from gp_response.likelihoods import Gaussian
from gp_response.solvers import CG


class CGLB(InducingHead):
    """Exact GP regression, trained by a conjugate-gradient lower bound (Artemev, Burt & van der Wilk 2021).

    The quadratic term of the evidence is that of the exact kernel, to `slack`; only its log determinant goes through m
    inducing points. `condition` gives the posterior of `gr.Exact`: nothing of the approximation is left in predictions and
    responses.

        posterior = gr.CGLB(gr.Matern32(ard=data.dim), 1024).fit(data)

    Args:
        kernel, inducing, mean, beta, jitter, placement, seed: see `InducingHead`; without features to train.
        noise: observation noise variance σ², in the units of `data.train.y` squared; trained by `fit`.
        solver: of the posterior, as of `gr.Exact`; None chooses by the number of rows. Of a `CG`, precision and most
            iterations are those of training, too.
        slack: nats by which the bound may miss what its best solution gives. It is a bound however few iterations there are.

    Raises:
        InputError: arguments that cannot be.
    """

    smooth_at_zero_weight = False  # as of the exact posterior

    def __init__(
        self, kernel: Any, inducing: int | Tensor = 512, noise: float = 0.1, *, solver: Any = None, slack: float = SLACK,
        mean: Any = 0.0, beta: float = 1.0, jitter: float | None = None, placement: str = "pivoted", seed: int = 0,
    ):  # fmt: skip
        super().__init__(
            kernel, inducing, Gaussian(noise), mean=mean, beta=beta, jitter=jitter, placement=placement, seed=seed
        )
        if not 0.0 < float(slack) < float("inf"):
            raise InputError(f"CGLB(slack={slack!r}): expected a positive finite number of nats")
        self.solver, self.slack = solver, float(slack)
        self.exact(solver)  # refuses what is no solver
        self._bound = self._new_bound()

    def log_evidence(self, data: Dataset) -> Tensor:
        """The lower bound of `log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim, once differentiable in hyperparameters and points.

        The solution of the last call is where the next one begins, and moves its value within `slack`.
        """
        self.place(data)
        return self._bound(self, data)

    def condition(self, data: Dataset) -> ExactPosterior:  # type: ignore[override]  # the one head here that is exact
        """The exact posterior given the training rows at the present hyperparameters. Nothing is trained.

        Raises:
            SolverError: the system is not positive definite in the data's precision.
        """
        # Not self.exact(…): inside torch.func transforms, where refits run, a copy cannot be copied again.
        return exact_posterior(self, data)

    def fit(self, data: Dataset, *, training: Training | None = None) -> ExactPosterior:
        """Train hyperparameters and inducing points in place by the bound, then condition on all rows.

        L-BFGS: as `gr.SGPR` with 40 joint steps, then 80 joint steps (or `training.steps`) by this bound.

        Returns:
            the posterior, with `posterior.trace`.

        Raises:
            InputError: features to train, or fewer than two training rows.
        """
        if len(data.train) < 2:
            raise InputError(f"fit got {len(data.train)} training row(s); expected at least 2")
        if feature_modules(self.kernel):
            raise InputError("CGLB trains no features; train them by gr.SGPR and take head.exact(), or freeze them")
        trace = train_cglb(self, data, training or Training(), self._new_bound(), chosen=self.chosen)
        posterior = self.condition(data)
        posterior.trace = trace
        return posterior

    def _new_bound(self) -> ConjugateBound:
        solver = self.solver if isinstance(self.solver, CG) else CG()
        return ConjugateBound(slack=self.slack, limit=solver.max_iterations, precision=solver.precision)


__all__ = ["CGLB"]
