"""p readings of a linearised network: their gradients, and one solve each."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Probe
from gp_response.solvers import Solution


class NetworkProbe(Probe):
    """p readings of a linearised network: their whitened gradients and, once it is asked for, `z = B⁻¹ g`, (P, p) each."""

    def __init__(self, posterior: Any, look: Look):
        self.posterior, self.look = posterior, look.double()
        self.gradients = posterior.gradients(self.look)
        self.length = self.gradients.norm(dim=0)

    @cached_property
    def solution(self) -> Solution:
        return self.posterior.factor.solve(self.gradients)

    @cached_property
    def converged(self) -> Tensor:  # type: ignore[override]
        return self.solution.converged

    @cached_property
    def reach(self) -> Tensor:
        """`‖z‖`, (p,)."""
        return self.solution.value.norm(dim=0)

    @cached_property
    def energy(self) -> Tensor:
        """Bound on `√(ρᵀB⁻¹ρ)` of every solve, (p,)."""
        # Rounded gradients move the solution, too.
        return self.posterior.energy(self.solution) + self.posterior.eps * self.length

    @cached_property
    def variance(self) -> Certified:  # type: ignore[override]
        drop = (self.gradients * self.solution.value + self.solution.value * self.solution.left).sum(dim=0)
        return Certified(drop.clamp_min(0.0), self._error(self).diagonal().clone())

    @cached_property
    def mean(self) -> Certified:  # type: ignore[override]
        posterior = self.posterior
        value = posterior.at_origin(self.look)
        # A network's output is rounded as if each of its parameters were.
        error = posterior.eps * (value.abs() + self.length * posterior.origin_length)
        if self.look.component is not None:
            value = value - self.gradients.T @ posterior.pull
            error = error + posterior.eps * self.length * posterior.pull.norm()
        if posterior.move is None:
            return Certified(value, error)
        move = posterior.move
        value = value + self.gradients.T @ move.value[:, 0] + self.solution.value.T @ move.left[:, 0]
        rounding = posterior.eps * (self.length * move.value.norm() + self.reach * move.left.norm())
        rounding = rounding + self.length * posterior.change
        return Certified(value, error + self.energy * posterior.energy(move) + rounding)

    def to_train(self, rows: Tensor | None = None) -> Certified:
        posterior = self.posterior
        value = self._seen(self.solution.value, rows)
        roots, lengths = posterior.row_roots, posterior.rows.lengths
        roots, lengths = (roots, lengths) if rows is None else (roots[rows], lengths[rows])
        return Certified(value, self.energy[:, None] * roots + posterior.eps * self.reach[:, None] * lengths)

    def _seen(self, directions: Tensor, rows: Tensor | None) -> Tensor:
        """`J v` at training rows and outputs, (p, k), for v (P, p)."""
        swept = self.posterior.rows
        return swept.spread(directions).flatten(0, 1).T if rows is None else swept.at(directions, rows).T

    def to(self, other: Any) -> Certified:
        value = self.gradients.T @ other.solution.value + self.solution.value.T @ other.solution.left
        return Certified(value, self._error(other))

    def _error(self, other: Any) -> Tensor:
        eps = self.posterior.eps
        rounding = eps * (self.length[:, None] * other.reach + self.reach[:, None] * other.length)
        return self.energy[:, None] * other.energy + rounding

    def toward(self, look: Look) -> Certified:
        look, found = look.double(), []
        for some in look.split(self.posterior._step()):
            gradients = self.posterior.gradients(some)
            bound = self.energy[:, None] + self.posterior.eps * self.reach[:, None]
            found.append(Certified(self.solution.value.T @ gradients, bound * gradients.norm(dim=0)))
        return Certified(*(torch.cat(part, dim=1) for part in zip(*found, strict=True)))


__all__ = ["NetworkProbe"]
