"""Predictions of a finite change, from the cheapest to the exact one."""

import torch

from gp_response.arguments import as_number
from gp_response.errors import InputError, unknown_name
from gp_response.posterior import Posterior
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.finite import alone, error_of_change, finite_response, moved_by_noise
from gp_response.response.linear_energy import require_field
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.second import second_response
from gp_response.response.sites import by_column, look
from gp_response.response.susceptibility import susceptibility

ORDERS = ("first", "second", "leverage", "exact")


def predict_change(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, h: float = 1.0, order: str = "exact"
) -> Susceptibility:
    """What amplitude h of each column changes `⟨O⟩` by, hyperparameters fixed.

    Args:
        posterior: with a Gaussian likelihood, for every order but "first".
        h: amplitude, as in `finite_response`.
        order: what to predict it by:

            * "first": `χ h`, the susceptibility; error O(h²).
            * "second": `χ h + ½ χ₂ h²`; error O(h³), and as expensive as the exact answer for a set.
            * "leverage": the exact answers of a set's sites as if each acted alone, its force divided by
              `1 + h β a_s S_ss` (one Newton step with its own leverage), summed over the set. Exact for a set of one; it
              needs the sites' own variances only, not their covariances.
            * "exact": `finite_response`.

    Returns:
        a `Susceptibility` of changes. Its bounds are on the error of computing the prediction, not on that of the order.

    Raises:
        InputError: an unknown order; a perturbation or likelihood that the order has no formula for.
        SolverError: "leverage" and "exact" where the change takes away more precision than there is.
    """
    require_posterior(posterior, "predict_change")
    require_asked(observable, perturbation, "predict_change")
    h = as_number(h, "predict_change's h")
    if order not in ORDERS:
        raise unknown_name("order", str(order), ORDERS)
    if order == "exact":
        return finite_response(posterior, observable, perturbation, h=h)
    if order == "leverage":
        return _by_leverage(posterior, observable, perturbation, h)
    chi = susceptibility(posterior, observable, perturbation)
    matrix, error, flagged = h * chi.matrix.double(), abs(h) * chi.error.double(), set(chi.flagged)
    if order == "second":
        own = torch.arange(chi.shape[1])[:, None].expand(-1, 2)
        bend = second_response(posterior, observable, perturbation, pairs=own)
        matrix, error = matrix + 0.5 * h**2 * bend.matrix.double(), error + 0.5 * h**2 * bend.error.double()
        flagged |= set(bend.flagged)
    weak = torch.tensor([row in flagged for row in range(len(matrix))], dtype=torch.bool)
    return Susceptibility.named(
        posterior.data, observable.under(posterior), perturbation, beta=posterior.beta, matrix=matrix, error=error,
        flagged=weak, order=f"change, {order}", h=h, columns=list(chi.columns),
    )  # fmt: skip


def _by_leverage(posterior: Posterior, observable: Observable, perturbation: Perturbation, h: float) -> Susceptibility:
    with torch.no_grad():
        require_field(posterior, "predict_change(order='leverage')")
        energy = perturbation.finite_energy_of(posterior, h)
        if energy.also is not None:
            raise InputError(
                f"order='leverage' takes sites one by one, and {perturbation.kind} moves rows and new points together; use "
                "order='exact'"
            )
        asked = observable.under(posterior)
        probe = posterior.probe(posterior.look(asked.look()))
        found = alone(posterior, look(posterior, probe, energy), energy, False)
        by_mean, by_variance = (type(part)(*(by_column(p, energy) for p in part)) for part in found[:2])
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        after = Marginals(
            at.mean[:, None] + by_mean.value, at.variance[:, None] + by_variance.value,
            perturbation.finite_noise(posterior.noise, h),
        )  # fmt: skip
        change = asked.change(at, by_mean.value, by_variance.value) + moved_by_noise(asked, at, after)
        return Susceptibility.of(
            posterior.data, asked, perturbation, beta=posterior.beta, matrix=asked.collect(change),
            error=asked.collect_error(error_of_change(asked, at, after, probe, by_mean, by_variance)),
            converged=probe.converged & found[2], order="change, leverage", h=h,
            columns=perturbation.columns_of(posterior),
        )  # fmt: skip


__all__ = ["ORDERS", "predict_change"]
