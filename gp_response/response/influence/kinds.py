"""Which covariance of training rows belongs to a posterior."""

from typing import Any

from gp_response.errors import InputError
from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.site_posterior import SitePosterior
from gp_response.response.influence.covariance import ExactRows, RowCovariance, SiteRows
from gp_response.response.influence.network_covariance import LinearisedRows

KINDS: tuple[tuple[type, type[RowCovariance]], ...] = (
    (ExactPosterior, ExactRows), (SitePosterior, SiteRows), (NetworkPosterior, LinearisedRows),
)  # fmt: skip


def row_covariance(posterior: Any) -> RowCovariance:
    """S of a posterior's training rows.

    Raises:
        InputError: several classes, a likelihood that is not Gaussian, or a posterior of an unknown kind.
    """
    if hasattr(posterior, "classes"):
        raise InputError(
            "influence among rows is not there for several classes; use "
            "gr.susceptibility(posterior, gr.loss(x, y), gr.reweight())"
        )
    if not posterior.conjugate:
        raise InputError(
            f"influence needs a Gaussian likelihood and this posterior has {posterior.likelihood!r}; for blocks of rows use "
            'gr.fluctuation(posterior, gr.loss(x[rows], y[rows]), gr.reweight()).to("kernel")'
        )
    for kind, rows in KINDS:
        if isinstance(posterior, kind):
            return rows(posterior)
    raise InputError(
        f"influence got a {type(posterior).__name__}; expected a posterior of gr.Exact, gr.SGPR, gr.SVGP or gr.laplace"
    )


__all__ = ["row_covariance"]
