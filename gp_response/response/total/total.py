"""The total response: hyperparameters, and trained features, stand at an optimum of the evidence that moves with the data."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads import SGPR, Exact
from gp_response.heads.pretraining import feature_parameters
from gp_response.heads.vector import to_vector
from gp_response.posterior import Certified, rounded
from gp_response.response.asked import require_asked, require_head
from gp_response.response.observable import Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.result import Susceptibility
from gp_response.response.susceptibility import susceptibility
from gp_response.response.total.answer import Answer, Implicit
from gp_response.response.total.collapsed_bound import CollapsedBound
from gp_response.response.total.columns import Columns
from gp_response.response.total.exact_evidence import ExactEvidence
from gp_response.response.total.inverse import require_solver
from gp_response.response.total.objective import Objective
from gp_response.response.total.optimum import polish as newton
from gp_response.response.total.parameters import Parameters, hyperparameters
from gp_response.response.total.result import TotalSusceptibility
from gp_response.solvers import CG, Lanczos

NEGLIGIBLE = 1e-8  # of a Newton step: nearer optima are not looked at to see what the distance does


def total_susceptibility(
    head: Any,
    data: Dataset,
    observable: Observable,
    perturbation: Perturbation,
    *,
    features: bool | Sequence[str] = False,
    inducing: bool = False,
    damping: float | None = None,
    polish: bool = False,
    solver: CG | Lanczos | None = None,
) -> TotalSusceptibility:
    """How each observable moves per unit of each perturbation when hyperparameters are optimised again.

    `d⟨O⟩/dh = ∂⟨O⟩/∂h - (∂⟨O⟩/∂θ) [∂²M/∂θ²]⁻¹ ∂²M/∂θ∂h` with M what `head.fit` maximises over the raw hyperparameters θ: the log
    evidence of all rows, the weights' normaliser and log priors included (`gr.Exact`), or the collapsed bound (`gr.SGPR`),
    here in float64 on the CPU. The first term is `gr.susceptibility`. Parameters that ask for no gradient, prior means and β
    are fixed.

    Cost: for P hyperparameters and n rows `4 P n³` flops and three n x n matrices (on one core three seconds a hyperparameter at
    n = 2,000 and two minutes, in 5 GiB, at 12,000); as much again for the error where the head is not polished, and for each
    Newton step where it is. All columns and observables come with it. For features, products with the Hessian at `4 n³` each and
    none for a column: 40 for its largest eigenvalue, and those of one Krylov basis that all observables share (900 rows, 2,882
    weights, 4 hyperparameters: 99, 168 and 381 for 1, 8 and 32 observables to 1e-10; 88 and 92 for 1 and 8 by `gr.Lanczos(64)`).

    Args:
        head: `gr.Exact` or `gr.SGPR` with Gaussian noise, fitted. It is not changed.
        data: the data it was fitted to.
        perturbation: one that changes the training rows (`apply`).
        features: False holds the weights of a deep kernel's features fixed; True lets all respond, a sequence of names, or
            beginnings of names, of `head.kernel.named_parameters()` those. They stand at the optimum of a localised objective,
            `M - ½ δ ‖w - w₀‖²` less its slope at w₀, since training features ends before any optimum of the evidence.
        inducing: False holds the inducing points of `gr.SGPR` where they are; True lets them respond as hyperparameters do.
        damping: δ; None takes twice the largest curvature with which the evidence bends upwards, and at least one.
        polish: first take Newton steps on a copy of the head, to where its gradient vanishes. Without, a head that is a
            little off its optimum is flagged and the effect estimated; one that is far off is refused.
        solver: of the features' part. None: `gr.CG(tolerance=1e-10)`. `gr.CG(tolerance, rank)` builds a Krylov basis of that rank,
            which begins with the observables' gradients, and goes on by block conjugate gradients deflated by it, to the tolerance
            in the norm of the Hessian. `gr.Lanczos(rank)` stops at the basis: every entry is the middle of an interval between the
            truncated and the completed inverse, and `.error` takes half its width; `storage="float64"` costs little here.

    Returns:
        a `TotalSusceptibility`: `.matrix` (m, c), `.error`, `.parts`, `.hyperparameters` (P, c), `.optimum`. Of `.error` the
        field's part and the linear solves' are bounds; the features' hold but for a chance of 2e-6 over random vectors, from
        which the lowest eigenvalue of the Hessian and the lengths of columns are bounded. What is added for an optimum not
        reached is an estimate, the change at the end of a Newton step. Rounding of second derivatives, about 1e-16 times the
        condition numbers of the system and of the Hessian, is not bounded. Rows whose solve met no tolerance are flagged.

    Raises:
        InputError: another head or solver, a perturbation that moves no training row, hyperparameters at no optimum, a damping
            that is not known to exceed the evidence's curvature upwards.
        SolverError: polishing did not settle.
    """
    require_head(head, data, "total_susceptibility")
    require_asked(observable, perturbation, "total_susceptibility")
    model, exact = _copied(head), data.to(dtype=torch.float64, device="cpu")
    weights, how = _chosen(model, features), require_solver(solver)
    if solver is not None and not weights:
        raise InputError("solver=...: it is for the features' part; give features=True, or leave it out")
    if isinstance(model, SGPR):
        model.place(exact)
    elif inducing:
        raise InputError("inducing=True: gr.Exact has no inducing points; leave it out")
    parameters = hyperparameters(model, inducing=inducing, features=feature_parameters(model.kernel))
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    for parameter in flags:
        parameter.requires_grad_(any(parameter is one for one in (*parameters.tensors, *weights)))
    floors, steps = _floors(model, parameters), 0
    if polish:
        steps = newton(_objective(model, exact, list(parameters.tensors), exact.train.x[:1], ()), parameters, floors)
    columns = Columns(perturbation, exact)
    asked = observable.under(model.condition(exact))
    points = asked.points.to(exact.train.x)
    objective = _objective(model, columns.data, [*parameters.tensors, *weights], points, columns.moved)
    implicit = Implicit(objective, parameters, weights, floors, columns, asked, damping, how)
    evaluated = _evaluated(implicit, model, exact, observable, perturbation)
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag)
    return _result(evaluated, model, parameters, data, perturbation, steps)


class _Evaluated:
    """The field's response, the rest, and what the total would be at the end of a Newton step, less what it is, (m, c)."""

    def __init__(self, field: Susceptibility, answer: Answer, drift: Tensor):
        self.field, self.answer, self.drift = field, answer, drift


def _evaluated(
    implicit: Implicit, model: Any, data: Dataset, observable: Observable, perturbation: Perturbation
) -> _Evaluated:
    field, answer = susceptibility(model.condition(data), observable, perturbation), implicit.evaluate()
    assert isinstance(field, Susceptibility)
    drift, optimum, parameters = torch.zeros_like(field.matrix), answer.optimum, implicit.parameters
    if not optimum.maximum or optimum.distance <= NEGLIGIBLE:
        return _Evaluated(field, answer, drift)
    implicit.damping = optimum.damping  # the same localised objective there
    start = parameters.read()
    there = start.clone()
    there[[parameters.names.index(name) for name in optimum.names]] += optimum.step
    parameters.write(torch.maximum(there, implicit.floors))
    moved = susceptibility(model.condition(data), observable, perturbation).matrix - field.matrix
    after = implicit.evaluate()
    parameters.write(start)
    return _Evaluated(field, answer, moved + after.both.value - answer.both.value)


def _result(
    found: _Evaluated, model: Any, parameters: Parameters, data: Dataset, perturbation: Perturbation, steps: int
) -> TotalSusceptibility:
    field, answer, optimum = found.field, found.answer, replace(found.answer.optimum, polished=steps)
    pieces = {"hyperparameters": answer.hyperparameters} | ({"features": answer.features} if answer.features else {})
    total = Certified(field.matrix + answer.both.value, field.error + found.drift.abs() + answer.both.error)
    unsettled = {*field.flagged, *_where(~answer.settled)}

    def part(certified: Certified, **changes: Any) -> dict[str, Any]:
        """The fields of a response like that of the field."""
        matrix, error = (t.to(data.train.x.device) for t in rounded(certified, data.train.x.dtype))
        known = {name: getattr(field, name) for name in Susceptibility.__dataclass_fields__}
        flagged = changes.pop("flagged", tuple(sorted(unsettled))) if optimum.settled else tuple(range(len(matrix)))
        own = {"matrix": matrix, "error": error, "flagged": flagged, "source": None}
        return known | {"order": "total"} | changes | own

    held_fixed = part(Certified(field.matrix, field.error), order="first") | {"flagged": field.flagged}
    parts = {"field": held_fixed} | {name: part(one) for name, one in pieces.items()}
    slope = parameters.natural()[1][:, None]
    of_hyper = part(
        Certified(slope * answer.coordinates.value, slope.abs() * answer.coordinates.error), rows=parameters.names,
        flagged=_where(~answer.moved), unit=f"of the hyperparameter per {perturbation.unit}", observable="hyperparameter",
    )  # fmt: skip
    return TotalSusceptibility(
        **part(total), parts={name: Susceptibility(**one) for name, one in parts.items()},
        hyperparameters=Susceptibility(**of_hyper), optimum=optimum, head=model,
    )  # fmt: skip


def _where(chosen: Tensor) -> tuple[int, ...]:
    return tuple(torch.nonzero(chosen).flatten().tolist())


def _copied(head: Any) -> Any:
    """A copy in float64, or why there is no total response of such a head."""
    law = getattr(head, "likelihood", None)
    if isinstance(head, SGPR) or (isinstance(head, Exact) and law is None):
        return copy.deepcopy(head).double().cpu()
    what = f"{type(head).__name__} with {law!r}" if law is not None else type(head).__name__
    raise InputError(
        f"total_susceptibility got {what}; its hyperparameters' objective is not one of those differentiated twice here: "
        "use gr.Exact or gr.SGPR with Gaussian noise"
    )


def _objective(model: Any, data: Dataset, tensors: list[Any], points: Tensor, moved: tuple[str, ...]) -> Objective:
    return (CollapsedBound if isinstance(model, SGPR) else ExactEvidence)(model, data, tensors, points, moved)


def _floors(model: Any, parameters: Parameters) -> Tensor:
    """The lowest coordinate of each hyperparameter: σ² has one that `fit` does not go below."""
    low = [model.raw_noise_floor if p is model.raw_noise else -float("inf") for p in parameters.tensors]
    every = [torch.full((p.numel(),), f, dtype=torch.float64) for p, f in zip(parameters.tensors, low, strict=True)]
    return to_vector(torch.cat(every)) if every else torch.zeros(0, dtype=torch.float64)


def _chosen(model: Any, features: bool | Sequence[str]) -> list[nn.Parameter]:
    """The weights of features that respond."""
    if features is False:
        return []
    known = feature_parameters(model.kernel)
    if not known:
        raise InputError("features=...: this kernel has no features with weights to train; leave it out")
    if features is True:
        return known
    begin = (features,) if isinstance(features, str) else tuple(features)
    named = {name: p for name, p in model.kernel.named_parameters() if any(p is one for one in known)}
    chosen = [p for name, p in named.items() if name.startswith(begin)]
    if not chosen:
        raise InputError(
            f"features={features!r} names none of the weights {', '.join(named)}; give (beginnings of) these"
        )
    return chosen


__all__ = ["total_susceptibility"]
