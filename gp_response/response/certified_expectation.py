"""Expectations of observables with the error bounds that a posterior's own bounds imply."""

import torch

from gp_response.linalg.blocks import block_size, byte_budget, point_bytes
from gp_response.posterior import Certified, Posterior
from gp_response.response.observable import Marginals, Observable


def certified_expectation(posterior: Posterior, observable: Observable) -> Certified:
    """⟨O⟩ and a bound on its error, (m,) each, in float64; points are looked from in blocks that fit into memory."""
    with torch.no_grad():
        observable = observable.under(posterior)
        mean, variance = _marginals(posterior, observable)
        at = Marginals(mean.value, variance.value, posterior.noise)
        d = observable.derivatives(at)
        error = d.mean.abs() * mean.error + d.variance.abs() * variance.error
        bend = d.mean_mean.abs() * mean.error**2 + d.variance_variance.abs() * variance.error**2
        error = error + 0.5 * bend + d.mean_variance.abs() * mean.error * variance.error
        if not hasattr(posterior, "classes"):  # what those read is rounded as `size` below says
            still = Marginals(at.mean[:, None], at.variance[:, None], at.noise)
            error = error + observable.rounding_of_change(at, still).expand(len(error), 1)[:, 0]
        value = observable.expectation(at)
        # Summing what each point says rounds, too.
        size = observable.collect_error(d.mean.abs() * mean.value.abs() + d.variance.abs() * variance.value.abs())
        return Certified(
            value, observable.collect_error(error) + 8.0 * torch.finfo(torch.float64).eps * (size + value.abs())
        )


def _marginals(posterior: Posterior, observable: Observable) -> tuple[Certified, Certified]:
    look = posterior.look(observable.look())
    if hasattr(posterior, "classes"):  # of which means are all that is read, and cost no solve
        fields = posterior.mean_of(look)
        return fields, Certified(*(torch.zeros_like(part) for part in fields))
    step = block_size(
        point_bytes(posterior.width, look.points), byte_budget(None, look.points.device), most=len(look.points)
    )
    found = []
    for some in look.split(step):
        probe = posterior.probe(some)
        found.append((*probe.mean, *probe.variance))
    mean, mean_error, variance, variance_error = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Certified(mean, mean_error), Certified(variance, variance_error)


__all__ = ["certified_expectation"]
