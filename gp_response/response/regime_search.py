"""The first amplitude at which a prediction leaves the exact change: looks on a grid, then bisection."""

import torch
from torch import Tensor

from gp_response.response.chain import local_derivatives
from gp_response.response.moves import Moves, SetMoves
from gp_response.response.observable import Marginals, Observable

DECADES, LOOKS = 6, 16  # on either side of the column's scale, and looks a decade
HALVINGS = 24  # of a bracket of ratio 10^(1/16)
ROUNDING = 64.0 * torch.finfo(torch.float64).eps


class Curves:
    """Exact changes and predictions of m observables as functions of the amplitudes of c columns.

    Args:
        noise: (c,) what σ² of new observations moves by; None: it stays.

    Attributes:
        first, second: derivatives at zero, (m, c).
    """

    def __init__(
        self, observable: Observable, at: Marginals, moves: Moves | SetMoves, tolerance: float, noise: Tensor | None = None
    ):  # fmt: skip
        self.observable, self.at, self.moves, self.tolerance, self.noise = observable, at, moves, tolerance, noise
        slope, bend = torch.stack(moves.slope(), dim=1), torch.stack(moves.bend(), dim=1)  # (p, 2, c)
        if noise is not None:
            slope = torch.cat([slope, noise.to(slope).expand(len(slope), 1, -1)], dim=1)
        one, two = local_derivatives(observable, at, variables=slope.shape[1], most=2)
        second = torch.einsum("pac,pab,pbc->pc", slope, two, slope) + torch.einsum("pa,pac->pc", one[:, :2], bend)
        self.first = observable.collect(torch.einsum("pa,pac->pc", one, slope))
        self.second = observable.collect(second)
        size = observable.local(at.mean, at.variance, at.noise, *observable.local_data())
        self.slack = ROUNDING * observable.collect_error(size.abs())[:, None]

    def limits(self) -> tuple[Tensor, Tensor]:
        """The amplitudes between which the change exists, (c,) each."""
        low, high = self.moves.rates
        inf = torch.full_like(low, float("inf"))
        least = torch.where(high > 0, -1.0 / high, -inf)
        if self.moves.floor is not None:
            least = torch.maximum(least, self.moves.floor)
        return least, torch.where(low < 0, -1.0 / low, inf)

    def exact(self, h: Tensor) -> Tensor:
        """Exact changes at one amplitude a column (1, c), (m, c)."""
        return self.observable.collect(self._change(h))

    def exact_each(self, h: Tensor) -> Tensor:
        """Exact changes at an amplitude for each observable and column (m, c), (m, c)."""
        if self.observable.weights is None:
            return self.exact(h)
        out = torch.empty_like(h)
        for k, weights in enumerate(self.observable.weights.to(h)):
            out[k] = weights @ self._change(h[k : k + 1])
        return out

    def _change(self, h: Tensor) -> Tensor:
        """Exact changes of local expectations, (p, c)."""
        mean, variance = self.moves.at(h)
        change = self.observable.change(self.at, mean, variance)
        if self.noise is None:
            return change
        after = Marginals(self.at.mean[:, None] + mean, self.at.variance[:, None] + variance, self.at.noise)
        return change + self.observable.change_by_noise(after, self.at.noise + h * self.noise)

    def fails(self, h: Tensor, exact: Tensor, order: int) -> Tensor:
        """Whether the prediction misses the exact change by more than is allowed, (m, c)."""
        predicted = self.first * h + (0.5 * self.second * h**2 if order else 0.0)
        return ~((predicted - exact).abs() <= self.tolerance * exact.abs() + self.slack)

    def size(self, sign: float, order: int) -> tuple[Tensor, Tensor]:
        """Size up to which an order holds on one side, (m, c), and the exact change there."""
        low, high = self.limits()
        limit = -low if sign < 0 else high
        good, bad, open_ = torch.zeros_like(self.first), torch.full_like(self.first, float("inf")), None
        for h in _grid(limit, self._scale()):
            failed = self.fails(sign * h, self.exact(sign * h[None]), order)
            open_ = torch.ones_like(failed) if open_ is None else open_
            bad = torch.where(open_ & failed, h.expand_as(bad), bad)
            open_ &= ~failed
            good = torch.where(open_, h.expand_as(good), good)
            if not bool(open_.any()):
                break
        good = self._bisected(sign, order, good, bad)
        beyond = bad.isinf()
        size = torch.where(beyond, limit.expand_as(good), good)
        exact = self.exact_each(sign * good)
        return size, torch.where(beyond, torch.full_like(exact, float("nan")), exact)

    def nowhere(self) -> tuple[Tensor, Tensor]:
        nan = torch.full_like(self.first, float("nan"))
        return nan, nan

    def _scale(self) -> Tensor:
        """The size at which the fastest mode is half way, (c,); one for a column that moves no precision."""
        low, high = self.moves.rates
        fastest = torch.maximum(low.abs(), high.abs())
        return torch.where(fastest > 0, 1.0 / fastest, torch.ones_like(fastest))

    def _bisected(self, sign: float, order: int, good: Tensor, bad: Tensor) -> Tensor:
        known = bad.isfinite()
        if not bool(known.any()):
            return good
        for _ in range(HALVINGS):
            middle = torch.where(known, 0.5 * (good + bad), good)
            failed = self.fails(sign * middle, self.exact_each(sign * middle), order)
            good, bad = torch.where(known & ~failed, middle, good), torch.where(known & failed, middle, bad)
        return good


def _grid(limit: Tensor, scale: Tensor) -> list[Tensor]:
    """Increasing amplitudes (c,) to look at: geometric about the scale, and, where there is a limit, ever closer to it."""
    steps = torch.logspace(-DECADES, DECADES, 2 * DECADES * LOOKS + 1, dtype=scale.dtype, device=scale.device)
    half = int((steps <= 0.5).sum())
    near = 1.0 - 0.5 ** torch.linspace(1.0, 40.0, len(steps) - half, dtype=scale.dtype, device=scale.device)
    bounded = torch.cat([steps[:half], near])
    return [
        torch.where(limit.isfinite(), limit.nan_to_num(posinf=1.0) * b, scale * s)
        for b, s in zip(bounded, steps, strict=True)
    ]


__all__ = ["Curves"]
