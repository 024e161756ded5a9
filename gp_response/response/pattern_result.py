"""The result of patterning: sample weights, what they are predicted to do, and what they really do."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.posterior import Posterior
from gp_response.response.certified_expectation import certified_expectation
from gp_response.response.nearest_weights import Strengths
from gp_response.response.observable import Observable
from gp_response.response.refit import expectation
from gp_response.response.result import Source
from gp_response.response.susceptibility import susceptibility

EPS = torch.finfo(torch.float64).eps


class Linearisation(NamedTuple):
    """One round: the response at the weights before was inverted, and weights were moved by `step` of the way.

    Attributes:
        step: share of the way to the linear solution that was taken; 0 where no part of it came nearer.
        residual: largest `|change - target|` after it, in units of the largest target.
        lowest_share: least share of a target that is not zero.
        feasible: whether weights of this mass within the bounds meet the target as the linearisation sees it.
        conditionings: posteriors computed in this round.
    """

    step: float
    residual: float
    lowest_share: float
    feasible: bool
    conditionings: int


@dataclass(frozen=True)
class Pattern:
    """Sample weights for wanted changes of q observables.

    Attributes:
        weights: (n,) new weights of all training rows, in training order, in the data's precision.
        change: (c,) change of each column's weight, float64; `columns` are their names. A row in several moves by their sum; of
            changes that move all rows alike, the one of least norm.
        observables: (q,) names of those asked for.
        target: (q,) wanted changes ⟨O⟩_new - ⟨O⟩_old.
        predicted: (q,) what the response at the old weights says; predicted_error: bound on that product's error, from
            `chi.error`. How far first order itself is off is `exact - predicted`.
        exact: (q,) exact change, the model conditioned on the new weights; None where that cannot be had (see `notes`).
        exact_error: (q,) bound from the bounds of both posteriors; None with `exact`.
        feasible: whether weights of this mass within these bounds were found to exist: for the model itself where the target is
            reached, else for its last linearisation. Where they do not, the weights come nearest in least squares.
        tolerance: share of each target within which it counts as reached (of the largest, for a target of zero).
        bounds: the (n,) bounds. strengths: ridge, sparsity and rank that were used.
        history: of the linearisations, after each of which the exact change was computed.
        notes: what was not done, and why.
    """

    weights: Tensor
    change: Tensor
    columns: tuple[str, ...]
    observables: tuple[str, ...]
    target: Tensor
    predicted: Tensor
    predicted_error: Tensor
    exact: Tensor | None
    exact_error: Tensor | None
    feasible: bool
    tolerance: float
    bounds: tuple[Tensor, Tensor]
    strengths: Strengths
    history: tuple[Linearisation, ...]
    notes: tuple[str, ...]
    source: Source | None = field(repr=False)
    others: tuple[int, ...] = field(repr=False)
    kept: dict[str, Posterior] = field(default_factory=dict, repr=False, compare=False)

    @property
    def achieved(self) -> Tensor:
        """The exact change, or the predicted one where there is no exact, (q,)."""
        return self.predicted if self.exact is None else self.exact

    @property
    def error(self) -> Tensor:
        """Bound on the error of `achieved`, (q,)."""
        return self.predicted_error if self.exact_error is None else self.exact_error

    @property
    def residual(self) -> Tensor:
        """`achieved - target`, (q,)."""
        return self.achieved - self.target

    @property
    def share(self) -> Tensor:
        """Share of each target that is achieved, (q,); NaN where the target is zero."""
        return shares(self.achieved, self.target)

    @property
    def reached(self) -> bool:
        """Whether every target is achieved within the tolerance."""
        return bool((self.residual.abs() <= allowed(self.target, self.tolerance)).all())

    @property
    def mass(self) -> float:
        """Sum of all new weights."""
        return float(self.weights.double().sum())

    @property
    def effective_sample_size(self) -> float:
        """`(Σ ρ)² / Σ ρ²` of the new weights (Kish 1965)."""
        weights = self.weights.double()
        return float(weights.sum() ** 2 / weights.square().sum())

    @property
    def posterior(self) -> Posterior:
        """The model conditioned on the new weights.

        Raises:
            InputError: it cannot be had; see `notes`.
        """
        if self.source is None or self.exact is None:
            raise InputError(f"there is no posterior at the new weights: {'; '.join(self.notes)}")
        if "posterior" not in self.kept:
            self.kept["posterior"] = self.source.posterior.reweighted(self.weights)
        return self.kept["posterior"]

    def report(self, head: Any = None, data: Dataset | None = None) -> pd.DataFrame:
        """Target, predicted, exact and, with a head and its data, really refitted change of each observable.

        head: anything with `condition(data)`, conditioned here on the old and on the new weights.

        Returns:
            a row an observable: target, predicted, predicted_error, exact, exact_error, refitted, share (of the target, by
            the most real change there is).
        """
        columns: dict[str, Tensor | None] = {
            "target": self.target, "predicted": self.predicted, "predicted_error": self.predicted_error,
            "exact": self.exact, "exact_error": self.exact_error,
        }  # fmt: skip
        if (head is None) != (data is None):
            raise InputError("report got one of head and data; give both for a refit, or neither")
        refitted = None if head is None else self.refitted(head, data)
        columns |= {"refitted": refitted, "share": self.share if refitted is None else shares(refitted, self.target)}
        shown = {name: [float("nan")] * len(self.target) if v is None else v.tolist() for name, v in columns.items()}
        return pd.DataFrame(shown, index=pd.Index(self.observables, name="observable"))

    def refitted(self, head: Any, data: Any) -> Tensor:
        """The change between two refits, on the old and on the new weights, (q,).

        Raises:
            InputError: without a source there is no observable to ask; or negative weights.
        """
        source = self._source()
        if bool((self.weights < 0).any()):
            raise InputError(
                f"weights down to {float(self.weights.min()):.3g}; no model can be conditioned on negative ones"
            )
        before = expectation(head.condition(data), source.observable)
        new = data.with_train(weights=self.weights.to(data.train.weights))
        change = expectation(head.condition(new), source.observable) - before
        return change.double().cpu()[self._asked()]

    def side_effects(self, observable: Observable | None = None) -> pd.DataFrame:
        """Predicted and exact change of observables not asked for.

        observable: any; None takes those of the response that were given no target.

        Returns:
            a row an observable: predicted, predicted_error, exact, exact_error.
        """
        source = self._source()
        if observable is None and not self.others:
            raise InputError("every observable of this response has a target; name others: side_effects(gr.loss(x, y))")
        asked = source.observable if observable is None else observable
        rows = list(self.others) if observable is None else slice(None)
        chi = susceptibility(source.posterior, asked, source.perturbation)
        after, before = (certified_expectation(p, asked) for p in (self.posterior, source.posterior))
        predicted, off = predicted_change(chi.matrix.double().cpu(), chi.error.double().cpu(), self.change)
        found = {
            "predicted": predicted, "predicted_error": off, "exact": (after.value - before.value).cpu(),
            "exact_error": (after.error + before.error).cpu(),
        }  # fmt: skip
        names = list(chi.rows) if observable is not None else [chi.rows[k] for k in self.others]
        return pd.DataFrame({k: v[rows].tolist() for k, v in found.items()}, index=pd.Index(names, name="observable"))

    def _source(self) -> Source:
        if self.source is None:
            raise InputError(
                "this response no longer knows its posterior and observable; compute it again: gr.susceptibility(...)"
            )
        return self.source

    def _asked(self) -> list[int]:
        count = len(self.observables) + len(self.others)
        return [k for k in range(count) if k not in self.others]

    def __repr__(self) -> str:
        how = "reached" if self.reached else "not reached" if self.feasible else "infeasible, nearest"
        real = "linear prediction alone" if self.exact is None else "exact"
        share = self.share[~self.share.isnan()]
        least = f", lowest share {float(share.min()):.4f}" if len(share) else ""
        return (
            f"Pattern({len(self.target)} observables, {len(self.change)} columns: {how} ({real}){least}, "
            f"weights {float(self.weights.min()):.3g} to {float(self.weights.max()):.3g}, mass {self.mass:g})"
        )


def shares(change: Tensor, target: Tensor) -> Tensor:
    return torch.where(target != 0, change / target, torch.full_like(target, float("nan")))


def allowed(target: Tensor, tolerance: float) -> Tensor:
    """What each change may be off its target by, (q,)."""
    return tolerance * torch.where(target != 0, target.abs(), target.abs().max())


def predicted_change(matrix: Tensor, error: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """`χ change` and a bound on its error: that of χ, and of summing."""
    size = change.abs()
    return matrix @ change, error @ size + 8.0 * EPS * len(change) ** 0.5 * (matrix.abs() @ size)


__all__ = ["Linearisation", "Pattern", "allowed", "predicted_change", "shares"]
