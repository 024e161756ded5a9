"""From a sparse head to the exact one: trained through inducing points, conditioned on the whole system.

Artemev, Burt & van der Wilk (2021) predict so: inducing points make training cheap, and the system of all rows is then solved by
conjugate gradients once. The hyperparameters carry over, the approximation stays behind.
"""

import copy
from typing import Any

import torch

from gp_response.errors import InputError
from gp_response.heads.exact import Exact
from gp_response.likelihoods import Gaussian


def exact_head(head: Any, solver: Any = None) -> Exact:
    """An `Exact` head with copies of a sparse head's kernel and noise, its prior mean and its temperature.

    Raises:
        InputError: the likelihood is not Gaussian.
    """
    likelihood = head.likelihood
    if not isinstance(likelihood, Gaussian):
        raise InputError(
            f"exact() takes a head with Gaussian noise; this one has {likelihood!r}. Up to 20,000 rows, "
            "Exact(head.kernel, likelihood=head.likelihood) approximates without inducing points"
        )
    made = Exact(
        copy.deepcopy(head.kernel),
        float(likelihood.noise.detach()),
        solver=solver,
        mean=head.prior_mean,
        beta=head.beta,
    )
    with torch.no_grad():
        made.raw_noise.copy_(likelihood.raw_noise)  # to the last digit
    return made


__all__ = ["exact_head"]
