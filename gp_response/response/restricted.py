"""Restriction of an additive field's response to one component: all others are clamped at their posterior means.

Data speak to the others at training rows only, and components are independent before the data. So the posterior of f_C given the
rest, clamped as functions or at the training rows alone, is a regression of `y - m_rest` with kernel k_C: at the posterior mean the
restricted and the conditional posterior are the same, and their covariance `k_C - k_C (K_C + D)⁻¹ k_C` is whatever the rest is
clamped at. It keeps the component's mean and the residuals of the full posterior.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.heads.exact_posterior import ExactPosterior, ExactProbe
from gp_response.heads.network_field import NetworkField
from gp_response.heads.site_posterior import SitePosterior
from gp_response.kernels.look import Look
from gp_response.posterior import Certified
from gp_response.response.component import component_names, component_number, rest_of
from gp_response.response.restricted_inducing import RestrictedInducing
from gp_response.response.restricted_network import restricted_network


class RestrictedPosterior(ExactPosterior):
    """The posterior of one component given the rest; made by `restrict`.

    Attributes:
        full: the posterior it restricts. name: of the component.
        data: of `full` with the labels `y - m_rest`, known to `label_error` (n,), which all bounds include.
    """

    def __init__(self, full: ExactPosterior, which: int):
        self.full, self.which = full, which
        self.name = component_names(full.kernel)[which]
        train = full.data.train
        rest = self.rest(train.x)
        y = train.y.double() - rest.value
        self.label_error = rest.error + (y - y.to(train.y).double()).abs()
        super().__init__(
            full.kernel.part(which), full.data.with_train(y=y.to(train.y)), noise=full.noise, mean=0.0, beta=full.beta,
            solver=full.solver,
        )  # fmt: skip
        self._off = self.whitening.scale * self.label_error
        moved = self._off.norm()
        self.target = replace(self.target, error=self.target.error + moved / self.whitening.shift.min())

    def rest(self, x: Tensor) -> Certified:
        """What is clamped: the mean of all but the component, prior mean included, at x (p, d)."""
        return rest_of(self.full, self.which, x)

    def probe(self, x: Tensor | Look) -> ExactProbe:
        probe = super().probe(x)
        error = probe.mean.error + (probe.solution.value.abs() + probe.solution.error).T @ self._off
        probe.mean = Certified(probe.mean.value, error)
        return probe

    def log_share(self) -> Tensor:
        """Log density of the rest at its clamped value: `-½ log det` of the rest's posterior covariance, in weights whose prior is
        standard normal and up to `-½ d log 2π`, 0-dim.

        It is `log Z_C/Z_full - ½‖m_rest‖²`, with Z_C the evidence of the restricted posterior, Z_full that of the full one, and the
        norm of the rest's reproducing-kernel space: the factor between responses renormalised by component and absolute ones.
        """
        full = self.full
        alpha = full.whitening.scale * full.target.value
        x = full.data.train.x.double()
        rest = full.kernel.matrix(x) @ alpha - self.kernel.matrix(x) @ alpha
        return self.log_evidence() - full.log_evidence() - 0.5 * alpha.dot(rest)


def restrict(posterior: Any, which: Any) -> Any:
    """The posterior of one component of an additive field when the others cannot respond: clamped at their posterior means.

    An ordinary posterior of f_C: every observable, perturbation and finite change can be asked of it, with bounds. Of a sparse
    posterior changes of labels, weights and noise of the training rows can (see `RestrictedInducing`).

    Args:
        posterior: exact or sparse (`SGPR`, `SVGP`, `CGLB`), Gaussian noise, with a sum of kernels; or of a network, whose
            components are groups of parameters.
        which: number or name of the component, as in `component`; for a network also any of its parameters.

    Raises:
        InputError: another posterior; ask `component(x, which)` of it instead, whose response needs no clamping.
    """
    if isinstance(posterior, NetworkField):
        return restricted_network(posterior, which)
    kinds: dict[type, Any] = {ExactPosterior: RestrictedPosterior, SitePosterior: RestrictedInducing}
    if type(posterior) not in kinds or not posterior.conjugate:
        raise InputError(
            f"restrict got a {type(posterior).__name__} under {posterior.likelihood or 'Gaussian noise'!r}; expected an exact or "
            "sparse posterior with Gaussian noise, at whose mean a component stays when the rest is clamped; use "
            "component(x, which)"
        )
    with torch.no_grad():
        return kinds[type(posterior)](posterior, component_number(posterior.kernel, which))


__all__ = ["RestrictedPosterior", "restrict"]
