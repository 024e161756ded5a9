"""Responses of models that are really refitted: the ground truth every closed form is held against."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from tqdm.auto import tqdm

from gp_response.arguments import as_number
from gp_response.data import Dataset
from gp_response.errors import InputError, SolverError
from gp_response.heads.smooth import SmoothPosterior
from gp_response.posterior import Certified, Posterior
from gp_response.response.asked import require_asked, require_head
from gp_response.response.differences import Step, difference, step_of_weights
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.whole import Whole

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
        own rounding, about 1e-16 of the matrix's condition number. Where the model changes, not the data, and for a linearised
        classifier, the derivative is one of extrapolated differences of whole refits, and `.error` says how far the orders of
        extrapolation are apart.

    Raises:
        SolverError: the refit that was differentiated, which cannot check itself, did not settle where the head does.
    """
    require_head(head, data, "refit_response")
    require_asked(observable, perturbation, "refit_response")
    h = None if h is None else as_number(h, "refit_response's h", "a finite number, or None for the derivative")
    base = head.condition(data)
    columns = perturbation.columns_of(base)
    observable = observable.resolved(getattr(base, "kernel", None))
    count, beta, before = len(columns), base.beta, expectation(base, observable)
    shown = observable.under(base)
    del base  # at 12,000 rows it holds 2 GiB
    refit = Refit(head, data, observable, perturbation, count, before)
    if h is not None:
        bar = tqdm(range(count), desc="refits", disable=not progress, leave=False)
        matrix = torch.stack([refit.at(c, h) for c in bar], dim=1) - before[:, None]
        error, order = torch.zeros_like(matrix), "refit"
    elif perturbation.changes_head or getattr(head, "by_differences", False):
        matrix, error = refit.differences(progress)
        order = "refit derivative"
    else:
        matrix, order = _derivative(head, data, observable, perturbation, count, before), "refit derivative"
        error = torch.zeros_like(matrix)
    flagged = torch.zeros(len(matrix), dtype=torch.bool, device=matrix.device)
    return Susceptibility.named(
        data, shown, perturbation, beta=beta, matrix=matrix, error=error, flagged=flagged, order=order, h=h, columns=columns,
    )  # fmt: skip


@dataclass(frozen=True)
class Refit:
    """Whole refits at one amplitude after the other, and their differences."""

    head: Any
    data: Dataset
    observable: Observable
    perturbation: Perturbation
    count: int
    before: Tensor

    def at(self, column: int, h: float) -> Tensor:
        """⟨O⟩ refitted with one column at amplitude h, (m,)."""
        return expectation(self.posterior(column, h), self.observable)

    def posterior(self, column: int, h: float) -> Any:
        """The posterior refitted with one column at amplitude h."""
        changed = _one(self.perturbation, self.data, column, self.count, h)
        amplitude = h if self.count == 1 else h * torch.nn.functional.one_hot(torch.tensor(column), self.count).double()
        return self.perturbation.changed_head(self.head, amplitude).condition(changed)

    def differences(self, progress: bool) -> Certified:
        """Derivatives by every column by extrapolated differences of refits, and how far the last two orders are apart."""
        bar = tqdm(range(self.count), desc="refits", disable=not progress, leave=False)
        return Certified.stacked([self._difference(c) for c in bar])

    def _difference(self, column: int) -> Certified:
        step = self._step(column)
        return difference(lambda h: self.at(column, h), step.size, before=self.before if step.one_sided else None)

    def _step(self, column: int) -> Step:
        if not self.perturbation.changes_head:
            changed = _one(self.perturbation, self.data, column, self.count, 0.5)
            found = step_of_weights(self.head, self.data, changed, 0.5)
            if found is not None:
                return found
        return Step(0.5 * float(self.perturbation.scale(self.head, self.data)[column]), False)


def expectation(posterior: Posterior | SmoothPosterior, observable: Observable) -> Tensor:
    """⟨O⟩ under a posterior, (m,)."""
    observable = observable.under(posterior)
    if isinstance(observable, Whole):
        return observable.of(posterior)
    probe = posterior.probe(observable.look())
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
            return expectation(SmoothPosterior(head, changed), observable)
        return expectation(head.condition(changed), observable)

    n = len(data.train)
    chunk = max(1, int(TANGENT_BYTES / (TANGENT_COPIES * n * n * data.train.y.element_size())))
    zero = torch.zeros(count, dtype=data.train.y.dtype, device=data.train.y.device)
    columns = torch.arange(count, device=zero.device)
    # The same probes of a factor's error for every column; they bound, and do not enter the value.
    slopes = vmap(lambda v: jvp(moved, (zero,), (v,)), randomness="same")
    found = [slopes((c[:, None] == columns).to(zero)) for c in columns.split(chunk)]
    off = float((found[0][0][0] - before).detach().abs().max())
    if not off <= SETTLED * (1.0 + float(before.detach().abs().max())):
        raise SolverError(
            f"the refit under differentiation ended {off:.1e} from the head's own; the fit does not settle: try finite "
            "changes (h=1e-3 and h=-1e-3), or other hyperparameters"
        )
    return torch.cat([part[1] for part in found]).T


__all__ = ["Refit", "expectation", "refit_response"]
