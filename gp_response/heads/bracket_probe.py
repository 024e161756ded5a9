"""Readings of a linearised network between two operators that enclose the inverse of its precision.

With `L <= B⁻¹ <= U` (see `Bracket`), `S_ab = g_aᵀ B⁻¹ g_b` is within `½ √(w_a w_b)` of the middle of the two, w = gᵀ(U - L)g. A
training row has no more variance than its own observation leaves it, S_ii <= D_i, so that S_ai is also within
`√(w_a (D_i - L_ii))` of L_ai: the answer is the middle of what both intervals have in common. No product with the curvature is
needed any more.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.heads.network_probe import NetworkProbe
from gp_response.kernels.look import Look
from gp_response.linalg.bracket import Coordinates
from gp_response.posterior import Certified


class BracketProbe(NetworkProbe):
    """p readings, their coordinates in the Krylov basis, and their gradients."""

    def __init__(self, posterior: Any, look: Look):
        super().__init__(posterior, look)
        self.bracket = posterior.factor.bracket
        self.coordinates: Coordinates = self.bracket.coordinates(self.gradients)

    @cached_property
    def variance(self) -> Certified:  # type: ignore[override]
        low, high = self.bracket.diagonal(self.coordinates)
        rounding = 2.0 * self.posterior.eps * self.length.square() / self.posterior.floor
        return Certified(0.5 * (low + high), 0.5 * (high - low) + rounding)

    @cached_property
    def converged(self) -> Tensor:  # type: ignore[override]
        return self.variance.error <= self.posterior.solver.tolerance * self.variance.value

    def to(self, other: Any) -> Certified:
        inner = self.gradients.T @ other.gradients
        value, error = self.bracket.between(self.coordinates, other.coordinates, inner)
        return Certified(value, error + self._rounding(other.length))

    def to_train(self, rows: Tensor | None = None) -> Certified:
        posterior = self.posterior
        whole, bounds, lengths = posterior.row_coordinates, posterior.row_roots.square(), posterior.rows.lengths
        if rows is not None:
            whole, bounds, lengths = Coordinates(whole.low[:, rows], whole.square[rows]), bounds[rows], lengths[rows]
        inner = self._seen(self.gradients, rows)
        middle, half = self.bracket.between(self.coordinates, whole, inner)
        below, _ = self.bracket.between(self.coordinates, whole)
        low, high = self.bracket.diagonal(whole)
        room = (torch.minimum(bounds, high) - low).clamp_min(0.0)
        reach = (self.bracket.width(self.coordinates)[:, None] * room).sqrt()
        least = torch.maximum(middle - half, below - reach)
        most = torch.minimum(middle + half, below + reach)
        # Rounding may part two intervals that touch.
        value, error = 0.5 * (least + most), 0.5 * (most - least).abs()
        return Certified(value, error + self._rounding(lengths))

    def toward(self, look: Look) -> Certified:
        found = []
        for some in look.double().split(self.posterior._step()):
            gradients = self.posterior.gradients(some)
            other = self.bracket.coordinates(gradients)
            value, error = self.bracket.between(self.coordinates, other, self.gradients.T @ gradients)
            found.append(Certified(value, error + self._rounding(gradients.norm(dim=0))))
        return Certified(*(torch.cat(part, dim=1) for part in zip(*found, strict=True)))

    def _rounding(self, length: Tensor) -> Tensor:
        """Gradients and their projections are rounded, and `‖B⁻¹‖ <= 1/floor`."""
        return 2.0 * self.posterior.eps * self.length[:, None] * length / self.posterior.floor


__all__ = ["BracketProbe"]
