"""The motion by hyperparameters of a posterior of any kind that has one."""

from typing import Any

from gp_response.errors import InputError
from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.response.network_prior_motion import NetworkPriorMotion
from gp_response.response.prior_motion import ExactPriorMotion, PriorMotion, SparsePriorMotion
from gp_response.response.sites import require_anywhere
from gp_response.response.tangent import Tangent


def prior_motion(posterior: Any, entries: list[Tangent]) -> PriorMotion:
    """By entries of hyperparameters.

    Raises:
        InputError: the posterior has no closed response to them.
    """
    require_anywhere(posterior, "a hyperparameter")
    if isinstance(posterior, ExactPosterior):
        return ExactPriorMotion(posterior, entries)
    if isinstance(posterior, NetworkPosterior):
        return NetworkPriorMotion(posterior, entries)
    if hasattr(posterior, "basis") and posterior.conjugate:
        return SparsePriorMotion(posterior, entries)
    raise InputError(
        f"{type(posterior).__name__} with {posterior.likelihood!r} has no closed response to hyperparameters; use "
        "refit_response(head, data, ...)"
    )


__all__ = ["prior_motion"]
