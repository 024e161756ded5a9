"""The exact head under a likelihood that is not Gaussian: Laplace's approximation, every training row its own inducing point.

With Z = X the features are the columns of a factor of K(X, X), nothing is left out at the rows, and the machinery of site
posteriors is that of Rasmussen & Williams (2006), section 3.4, with one factor of K made once and one of Σ a Newton step.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.basis import Basis
from gp_response.heads.class_mode import class_log_evidence
from gp_response.heads.class_posterior import ClassPosterior
from gp_response.heads.fixed_point import Problem, step
from gp_response.heads.frozen import frozen_copy
from gp_response.heads.prior_mean import prior_mean_at
from gp_response.heads.rows import Rows
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.sites import LAPLACE, pull
from gp_response.heads.start import Start
from gp_response.likelihoods import Categorical
from gp_response.linalg.memory import free_bytes
from gp_response.linalg.transforms import inside_transform

MOST_ROWS = 20_000
MATRICES = 5  # of n x n in float64 that a Newton step has at once


def latent_posterior(head: Any, data: Dataset) -> SitePosterior | ClassPosterior:
    """The Laplace approximation at the head's present hyperparameters.

    Raises:
        InputError: more than 20,000 rows, or more than fit into memory.
    """
    if not inside_transform():
        _refuse_what_does_not_fit(data)
        with torch.no_grad():
            posterior = _posterior(head, data)
        head.latent_jitter = posterior.basis.jitter
        head.latent_start = Start(posterior) if isinstance(posterior, SitePosterior) else None
        return posterior
    return _posterior(head, data)


def _posterior(head: Any, data: Dataset) -> SitePosterior | ClassPosterior:
    jitter = head.latent_jitter if inside_transform() else None
    basis = Basis(frozen_copy(head.kernel), None, data.train.x.double(), jitter)
    if isinstance(head.likelihood, Categorical):
        return ClassPosterior(
            basis, data, likelihood=head.likelihood, mean=head.prior_mean, beta=head.beta, whole=True, keep=2**62
        )
    return SitePosterior(
        basis, data, likelihood=frozen_copy(head.likelihood), kind=LAPLACE, mean=head.prior_mean, beta=head.beta,
        whole=True, keep=2**62, start=head.latent_start if inside_transform() else None,
    )  # fmt: skip


def laplace_log_evidence(head: Any, data: Dataset) -> Tensor:
    """Laplace's approximation of `log ∫ p₀(f) exp(-β Σ ρ_i ℓ_i)`, 0-dim (Rasmussen & Williams 2006, eq. 3.32).

    The mode is found without gradients; one more Newton step with them carries its dependence on the hyperparameters.
    """
    train = data.train
    basis = Basis(head.kernel, None, train.x.double())
    if isinstance(head.likelihood, Categorical):
        return class_log_evidence(basis, data, head.likelihood, head.prior_mean, head.beta)
    posterior = latent_posterior(head, data)
    assert isinstance(posterior, SitePosterior)
    mode = posterior.fixed.weights
    rows = Rows(basis, train.x.double(), keep=2**62)
    problem = Problem(
        rows, train.y.double(), head.beta * train.weights.double(), torch.zeros_like(train.y.double()),
        prior_mean_at(head.prior_mean, train.x.double()), head.likelihood, LAPLACE,
    )  # fmt: skip
    mean = problem.prior_mean + rows.spread(mode)
    weights, *_ = step(problem, mean, pull(head.likelihood, LAPLACE, mean, mean, problem.y))
    mean = problem.prior_mean + rows.spread(weights)
    _, _, lower, _ = step(problem, mean, pull(head.likelihood, LAPLACE, mean, mean, problem.y))
    return problem.objective(weights, mean) - lower.diagonal().log().sum()


def _refuse_what_does_not_fit(data: Dataset) -> None:
    n, free = len(data.train), free_bytes(data.train.x.device)
    need = MATRICES * 8 * n * n
    if n > MOST_ROWS or (free is not None and need > free):
        raise InputError(
            f"Laplace's approximation of {n} rows needs {need / 2**30:.1f} GiB and an hour or more beyond {MOST_ROWS:,}; "
            "use SVGP(kernel, inducing, likelihood)"
        )


__all__ = ["laplace_log_evidence", "latent_posterior"]
