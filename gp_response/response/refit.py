"""Responses of models that are really refitted: the ground truth every closed form is held against."""

from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from tqdm.auto import tqdm

from gp_response.data import Dataset
from gp_response.errors import InputError, SolverError
from gp_response.heads.smooth import smooth_marginals
from gp_response.posterior import Posterior
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility

# Forward mode keeps about this many matrices a column alive while it differentiates the factorisation.
TANGENT_COPIES = 6
TANGENT_BYTES = 2 * 2**30
SETTLED = 1e-4  # of the expectations: what is differentiated must be the refit, which cannot be looked at there


def refit_response(
    head: Any,
    data: Dataset,
    observable: Observable,
    perturbation: Perturbation,
    *,
    h: float | None = None,
    progress: bool = False,
) -> Susceptibility:
    """Change the data, condition the head again from scratch, and see what moved. Hyperparameters stay as they are.

    Args:
        head: anything with `condition(data)`.
        data: the unperturbed data.
        h: amplitude of the change, one refit a column: `⟨O⟩_h - ⟨O⟩_0`. None differentiates the refit instead:
            forward-mode automatic differentiation through the factorisation of the perturbed system.
        progress: show a bar over refits.

    Returns:
        a `Susceptibility` of order "refit" or "refit derivative"; `.error` is zero because nothing bounds a refit's
        own rounding, about 1e-16 of the matrix's condition number.

    Raises:
        SolverError: the refit that was differentiated, which cannot check itself, did not settle where the head does.
    """
    count = len(perturbation.columns(data))
    base = head.condition(data)
    beta, before = base.beta, expectation(base, observable)
    shown = observable.under(base)
    del base  # at 12,000 rows it holds 2 GiB
    if h is None:
        matrix, order = _derivative(head, data, observable, perturbation, count, before), "refit derivative"
    else:
        bar = tqdm(range(count), desc="refits", disable=not progress, leave=False)
        after = [expectation(head.condition(_one(perturbation, data, c, count, h)), observable) for c in bar]
        matrix, order = torch.stack(after, dim=1) - before[:, None], "refit"
    converged = torch.ones(len(shown.points), dtype=torch.bool, device=matrix.device)
    return Susceptibility.of(
        data, shown, perturbation, beta=beta,
        matrix=matrix, error=torch.zeros_like(matrix), converged=converged, order=order, h=h,
    )  # fmt: skip


def expectation(posterior: Posterior, observable: Observable) -> Tensor:
    """⟨O⟩ under a posterior, (m,)."""
    observable = observable.under(posterior)
    probe = posterior.probe(observable.points)
    return observable.expectation(Marginals(probe.mean.value, probe.variance.value, posterior.noise))


def _one(perturbation: Perturbation, data: Dataset, column: int, count: int, h: float) -> Dataset:
    if count == 1:
        changed = perturbation.apply(data, h)
    else:
        amplitude = torch.zeros(count, dtype=data.train.y.dtype, device=data.train.y.device)
        amplitude[column] = h
        changed = perturbation.apply(data, amplitude)
    lowest = changed.train.weights.min()
    if bool(lowest < 0):
        raise InputError(f"{perturbation.kind} at h = {h} leaves a weight of {float(lowest):.3g}; expected 0 or more")
    return changed


def _derivative(
    head: Any, data: Dataset, observable: Observable, perturbation: Perturbation, count: int, before: Tensor
) -> Tensor:
    def moved(amplitude: Tensor) -> Tensor:
        changed = perturbation.apply(data, amplitude)
        if perturbation.from_zero and not getattr(head, "smooth_at_zero_weight", False):
            marginals = smooth_marginals(head, changed, observable.points.to(changed.train.x))
            return observable.expectation(Marginals(*marginals, head.noise.detach().to(changed.train.x)))
        return expectation(head.condition(changed), observable)

    n = len(data.train)
    chunk = max(1, int(TANGENT_BYTES / (TANGENT_COPIES * n * n * data.train.y.element_size())))
    zero = torch.zeros(count, dtype=data.train.y.dtype, device=data.train.y.device)
    columns = torch.arange(count, device=zero.device)
    found = [vmap(lambda v: jvp(moved, (zero,), (v,)))((c[:, None] == columns).to(zero)) for c in columns.split(chunk)]
    off = float((found[0][0][0] - before).detach().abs().max())
    if not off <= SETTLED * (1.0 + float(before.detach().abs().max())):
        raise SolverError(
            f"the refit under differentiation ended {off:.1e} from the head's own; the fit does not settle: try finite "
            "changes (h=1e-3 and h=-1e-3), or other hyperparameters"
        )
    return torch.cat([part[1] for part in found]).T


__all__ = ["expectation", "refit_response"]
