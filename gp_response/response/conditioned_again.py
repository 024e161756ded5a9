"""Finite changes of a linearised network's posterior that is no Gaussian process: the mode is found again for the changed data.

Where the likelihood is Gaussian a finite change is a small linear system. Under another one sites answer to one another, and
the exact change of Laplace's approximation is that of conditioning again, which networks can: from the same prior, at the
same parameters around which they are linear.
"""

import torch
from tqdm.auto import tqdm

from gp_response.errors import InputError
from gp_response.heads.network_field import NetworkField
from gp_response.posterior import Certified, Posterior
from gp_response.response.certified_expectation import certified_expectation
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.refit import Refit
from gp_response.response.result import Susceptibility

EPS = torch.finfo(torch.float64).eps


def conditioned_again(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, h: float, progress: bool = False
) -> Susceptibility:
    """`⟨O⟩_h - ⟨O⟩_0` of every column, each by conditioning once; bounds are those of both posteriors, of their modes too.

    Raises:
        InputError: a posterior that is not of a network, or one under the Hessian, by which the network itself is trained again.
        SolverError: a mode was not found.
    """
    if not isinstance(posterior, NetworkField):
        raise InputError(
            f"finite_response is exact for Gaussian likelihoods and this posterior has {posterior.likelihood!r}; use "
            "refit_response(head, data, ..., h=...) for the change, susceptibility for its derivative"
        )
    if posterior.model.kind == "hessian":
        raise InputError(
            "under the Hessian the network itself would be trained again, which a linearised one is not; use "
            'curvature="ggn", or refit_response(posterior.head, ...), which refits the linearised network'
        )
    with torch.no_grad():
        shown, columns = observable.under(posterior), perturbation.columns_of(posterior)
        before = certified_expectation(posterior, observable)
        refit = Refit(posterior.head, posterior.data, observable, perturbation, len(columns), before.value)
        changes = []
        for c in tqdm(range(len(columns)), desc="conditioning", disable=not progress, leave=False):
            after = certified_expectation(refit.posterior(c, h), observable)
            value = after.value - before.value
            changes.append(Certified(value, after.error + before.error + EPS * value.abs()))
        matrix, error = Certified.stacked(changes)
        flagged = ~torch.isfinite(error).all(dim=1)
        return Susceptibility.named(
            posterior.data, shown, perturbation, beta=posterior.beta, matrix=matrix, error=error, flagged=flagged,
            order="conditioned again", h=h, columns=columns,
        )  # fmt: skip


__all__ = ["conditioned_again"]
