"""How far linear response goes: for every intervention, the amplitudes within which first and second order hold."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from gp_response.arguments import as_number
from gp_response.errors import InputError
from gp_response.posterior import Posterior
from gp_response.response.asked import require_asked, require_posterior
from gp_response.response.linear_energy import linear_energy, require_field
from gp_response.response.moves import moves
from gp_response.response.observable import Marginals, Observable
from gp_response.response.perturbation import Perturbation
from gp_response.response.regime_search import Curves
from gp_response.response.whole import Whole

ORDERS = ("first", "second")


@dataclass(frozen=True)
class Regime:
    """Sizes |h| up to which a prediction is within `tolerance` of the exact change, for m observables and c columns.

    Attributes:
        first, second: of first and second order, (m, c, 2): towards negative h, and towards positive h. Infinite where the
            prediction still holds at the largest size searched, 1e6 times the column's own scale (it is exact, or
            nothing changes); NaN where that side does not exist. No further than the change itself exists.
        exact_at_first, exact_at_second: exact changes there, (m, c, 2); NaN where no violation was found.
        limits: (c, 2), the amplitudes between which the changed precisions leave a Gaussian field.
        h: the amplitude asked about, `exists` (c,) whether the change does there.
        exact, first_change, second_change: (m, c), exact change at h, NaN where it does not exist, and its predictions.
        rows, columns: names. unit: of changes; per: what h = 1 means. tolerance: relative.
    """

    first: Tensor
    second: Tensor
    exact_at_first: Tensor
    exact_at_second: Tensor
    limits: Tensor
    h: float
    exists: Tensor
    exact: Tensor
    first_change: Tensor
    second_change: Tensor
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    unit: str
    per: str
    tolerance: float

    def within(self, order: str = "first") -> Tensor:
        """Whether that order's prediction at h itself is within tolerance, bool (m, c); false where nothing exists."""
        change = {"first": self.first_change, "second": self.second_change}[order]
        return (change - self.exact).abs() <= self.tolerance * self.exact.abs()

    def table(self) -> pd.DataFrame:
        """A row for every observable and column."""
        m, c = self.exact.shape
        found: dict[str, object] = {"observable": [r for r in self.rows for _ in range(c)], "column": self.columns * m}
        for name in ORDERS:
            for k, side in enumerate(("down", "up")):
                found[f"{name} {side} to"] = getattr(self, name)[..., k].flatten().tolist()
                found[f"exact at {name} {side}"] = getattr(self, f"exact_at_{name}")[..., k].flatten().tolist()
        found |= {"exact": self.exact.flatten().tolist(), "exists": self.exists.expand(m, c).flatten().tolist()}
        for name in ORDERS:
            found[name] = getattr(self, f"{name}_change").flatten().tolist()
            found[f"{name} within"] = self.within(name).flatten().tolist()
        return pd.DataFrame(found)

    def __repr__(self) -> str:
        m, c = self.exact.shape
        share = {name: float(self.within(name).double().mean()) for name in ORDERS}
        return (
            f"Regime({m} x {c}, at h = {self.h:g}: first order within {self.tolerance:g} for {share['first']:.0%}, second "
            f"for {share['second']:.0%}, {int((~self.exists).sum())} columns do not exist)"
        )


def regime(
    posterior: Posterior, observable: Observable, perturbation: Perturbation, *, tolerance: float = 0.1, h: float = 1.0
) -> Regime:
    """The sizes up to which first and second order are within a relative tolerance of the exact change.

    A prediction holds up to |h| if at no smaller amplitude of that sign it misses the exact change by more than
    `tolerance` times that change. The exact change is a sum over modes that shares its solves between all amplitudes (see
    `moves`). It is looked at 16 times a decade over twelve decades about the column's own scale `1/(β a S_jj)`, densely
    before the amplitude where it ceases to exist, and the first violation is then located by bisection to 1e-6 of itself; a
    violation that comes and goes between two neighbouring looks is not seen.

    Args:
        posterior: with a Gaussian likelihood.
        perturbation: rows, groups, new points or a mixture, with an energy linear in h; or noise.
        tolerance: relative, above 0.
        h: an amplitude to answer for as well.

    Returns:
        a `Regime`; `.table()` is a pandas table. Its changes have no error bounds: `finite_response` at the sizes found has.

    Raises:
        InputError: tolerance not positive, h zero or not finite; another likelihood; an energy that is not linear in h.
    """
    require_posterior(posterior, "regime")
    require_asked(observable, perturbation, "regime")
    tolerance = as_number(tolerance, "regime's tolerance", "a number above 0")
    h = as_number(h, "regime's h", "a finite amplitude other than 0")
    if not tolerance > 0.0:
        raise InputError(f"regime(tolerance={tolerance!r}): expected a number above 0")
    if h == 0.0:
        raise InputError(f"regime(h={h!r}): expected a finite amplitude other than 0")
    if isinstance(observable, Whole):
        raise InputError(f"regime is of functionals of the field at points; {observable.kind} is none")
    with torch.no_grad():
        require_field(posterior, "regime")
        energy = None if perturbation.curved else linear_energy(posterior, perturbation, "regime")
        asked = observable.under(posterior)
        probe = posterior.probe(posterior.look(asked.look()))
        at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
        parts = perturbation.moves(posterior, probe) if energy is None else moves(posterior, probe, energy)
        noise = perturbation.noise_slope(posterior)
        found = [_of_columns(Curves(asked, at, part, tolerance, noise), h, perturbation.from_zero) for part in parts]
        joined = {name: torch.cat([part[name] for part in found], dim=1) for name in found[0]}
        like = posterior.data.train.x.dtype
        joined = {name: part.to(like) if part.is_floating_point() else part for name, part in joined.items()}
        return Regime(
            **(joined | {name: joined[name][0] for name in ("limits", "exists")}), h=h, tolerance=tolerance,
            rows=tuple(asked.names()), columns=tuple(perturbation.columns_of(posterior)), unit=asked.unit,
            per=perturbation.unit,
        )  # fmt: skip


def _of_columns(curves: Curves, h: float, from_zero: bool) -> dict[str, Tensor]:
    """All parts of the answer for some columns, (m, c, …), or (1, c, …) for what no observable enters."""
    found: dict[str, Tensor] = {}
    for k, name in enumerate(ORDERS):
        sides = [curves.nowhere() if sign < 0 and from_zero else curves.size(sign, k) for sign in (-1.0, 1.0)]
        found[name] = torch.stack([size for size, _ in sides], dim=2)
        found[f"exact_at_{name}"] = torch.stack([exact for _, exact in sides], dim=2)
    low, high = curves.limits()
    amplitude = torch.full_like(low, h)[None]
    exists = (low < h) & (h < high) & (not (from_zero and h < 0))
    exact = curves.exact(amplitude)
    found |= {"exact": torch.where(exists, exact, torch.full_like(exact, float("nan")))}
    found |= {"first_change": curves.first * h, "second_change": curves.first * h + 0.5 * curves.second * h**2}
    return found | {"limits": torch.stack([low, high], dim=1)[None], "exists": exists[None]}


__all__ = ["Regime", "regime"]
