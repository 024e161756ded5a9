"""Restriction of a sparse additive field's response to one component, the others clamped at their posterior means.

A sparse posterior is the exact one of a model whose rows see the field through `u = f(Z)`: row i sees `k_iZ K_ZZ⁻¹ u`, with
`u = Σ_c f_c(Z)` and components that are independent before the data. So the others are clamped at Z, and of component C is left a
regression with the prior K_C of f_C(Z) in which rows see what they saw: in `f_C(Z) = L_C v`, v standard normal before the data,

    row i: ψ_i = B φ_i,  B = L_Cᵀ L⁻ᵀ;    the component at x: φ_C(x) = L_C⁻¹ k_C(Z, x),

with φ = L⁻¹k(Z, x) the features of the sum. `Σ_C BᵀB = 1`, the component keeps its mean `⟨v⟩ = B⟨w⟩` and rows their residuals;
where Z are the training rows ψ and φ_C are the same there, and it is the restriction of the exact posterior.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.basis import Basis
from gp_response.heads.rows import Rows
from gp_response.heads.site_posterior import SitePosterior, SiteProbe
from gp_response.kernels.look import Look
from gp_response.posterior import Certified
from gp_response.response.component import component_names, rest_of

EPS = torch.finfo(torch.float64).eps


class RestrictedInducing(SitePosterior):
    """The posterior of one component given the rest at the inducing points; made by `restrict`.

    Attributes:
        full: the posterior it restricts. name: of the component.
        data: of `full` with the labels less what the rest shows of itself at the rows, known to `label_error` (n,), which all
            bounds include.
    """

    rows_alone = (
        "A component of a sparse posterior is restricted to what training rows see of it through the inducing points of the sum, "
        "which is not its value at other points; ask component(x, which) of the full posterior"
    )

    def __init__(self, full: SitePosterior, which: int, data: Dataset | None = None):
        self.full, self.which = full, which
        self.name = component_names(full.kernel)[which]
        base = full.basis
        own = Basis(base.kernel.part(which), base.features, base.points)
        # A product of two triangular factors is off by both; ‖B‖ <= 1.
        own.off = max(own.off, 2.0 * base.off)
        self.turn = torch.linalg.solve_triangular(base.lower, own.lower, upper=False).T
        y, self.label_error = self._labels()
        super().__init__(
            own, full.data.with_train(y=y) if data is None else data, likelihood=full.law, kind=full.kind, mean=0.0,
            beta=full.beta, solver=full.solver, keep=full.keep,
        )  # fmt: skip

    def _labels(self) -> tuple[Tensor, Tensor]:
        """`y - m₀ - φᵀ(1 - BᵀB)⟨w⟩` at the rows, in the data's precision, and what they are off by."""
        full, train = self.full, self.full.data.train
        off, seen = full.residuals, full.rows.spread(self.turn.T @ (self.turn @ full.weights.value))
        exact, y = off.value + seen, (off.value + seen).to(train.y)
        length = full.rows.norms().sqrt()
        slack = length * (full.weights.defect + 4.0 * full.basis.off * full.weights.value.norm())
        return y, off.error + slack + 4.0 * EPS * seen.abs() + (exact - y.double()).abs()

    def rest(self, x: Tensor) -> Certified:
        """What is clamped: the mean of all but the component, prior mean included, at x (p, d)."""
        return rest_of(self.full, self.which, x)

    def reweighted(self, weights: Tensor) -> "RestrictedInducing":
        """On other weights, with the rest where it is."""
        return RestrictedInducing(self.full, self.which, self._data_at(weights))

    def probe(self, x: Tensor | Look) -> "ComponentProbe":
        return ComponentProbe(self, self.look(x))

    def row_probe(self, rows: Tensor) -> "RowProbe":
        return RowProbe(self, rows)

    @property
    def parts(self) -> list[Any]:
        return [*super().parts, self.turn]

    @property
    def residuals(self) -> Certified:
        value, error = super().residuals
        return Certified(value, error + self.label_error)

    @property
    def rows_left_out(self) -> Certified:
        return self.full.rows_left_out

    def _slack_of_means(self) -> Tensor:
        """Labels off by δ move a mean by `S_aX τ δ`, and `√τ S √τ <= 1`."""
        return super()._slack_of_means() + (self.site_weight.sqrt() * self.label_error).norm()

    def _seen_by_rows(self) -> Rows:
        return _TurnedRows(self.full.rows, self.turn)

    def _left_out_of_rows(self) -> Tensor:
        return self.full.problem.left_out

    def log_share(self) -> Tensor:
        """Log density of the rest at its clamped value, 0-dim; as of an exact posterior's restriction."""
        weights = self.full.weights.value
        rest = weights.square().sum() - (self.turn @ weights).square().sum()
        return self.log_evidence() - self.full.log_evidence() - 0.5 * rest


class ComponentProbe(SiteProbe):
    """The component itself at any points."""

    def left_out_with(self, other: SiteProbe) -> Tensor:
        if isinstance(self, RowProbe) or isinstance(other, RowProbe):
            raise InputError(
                "fluctuation has no meaning for a component of a sparse posterior, whose rows do not see its values there; "
                "use susceptibility"
            )
        return super().left_out_with(other)


class RowProbe(ComponentProbe):
    """Training rows, as they see the component."""

    def __init__(self, posterior: RestrictedInducing, rows: Tensor):
        self.rows = rows
        super().__init__(posterior, Look(posterior.data.train.x[rows]))
        left = Certified(*(part[rows] for part in posterior.rows_left_out))
        self.left_out, self.variance = left.value, Certified.summed([left, self.own])

    def _features(self) -> Tensor:
        features: Tensor = self.posterior.rows.at(self.rows)
        return features


class _TurnedRows(Rows):
    """Features B φ_i of the rows."""

    def __init__(self, rows: Rows, turn: Tensor):
        self.of, self.turn, self.basis, self.x = rows, turn, rows.basis, rows.x
        self._keeps, self._kept = rows._keeps, None

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        if self._kept is not None:
            return iter(self._kept)
        turned = ((at, self.turn @ features) for at, features in self.of.blocks())
        if not self._keeps:
            return turned
        self._kept = list(turned)
        return iter(self._kept)

    def at(self, rows: Tensor) -> Tensor:
        return self.turn @ self.of.at(rows)

    def norms(self) -> Tensor:
        """Those of φ_i, which what is rounded in B φ_i goes by."""
        return self.of.norms()


__all__ = ["RestrictedInducing"]
