"""Quasi-Newton steps with gradients by probes.

All gradients share their random numbers, so they are those of one smooth function and BFGS may learn from their
differences. It starts from curvature per row on few rows, by differences of exact gradients, and needs about ten
gradients where Adam takes several times as many.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gp_response.data import Dataset
from gp_response.errors import SolverError
from gp_response.heads.lbfgs import all_parameters
from gp_response.heads.stochastic import StochasticEvidence
from gp_response.heads.trace import Trace
from gp_response.heads.vector import read, read_gradient, to_vector, write

ENOUGH = 0.03  # log evidence still to be gained, a parameter, at which to stop: a quarter of a standard deviation each
WEAK = 2.0  # least curvature of the log evidence by a parameter: that of a prior of width 0.7
REACH = 1.0  # longest step of one parameter, about a factor of e
SHRINK = 0.3


class QuasiNewton:
    """BFGS on the loss per row; steps are capped, and taken back where the gradient along them says so.

    Args:
        head: its parameters are at the start.
        evidence: gradients of the loss on all n rows.
        curvature: (d, d), second derivatives of the loss per row to begin with.
        trace: gets a line for each gradient.
    """

    def __init__(self, head: Any, evidence: StochasticEvidence, curvature: Tensor, trace: Trace):
        self.head, self.evidence, self.trace = head, evidence, trace
        self.parameters, self.curvature, self.n = all_parameters(head), curvature, evidence.n
        lows = [head.raw_noise_floor if p is head.raw_noise else -math.inf for p in self.parameters]
        each = [torch.full((p.numel(),), low).double() for p, low in zip(self.parameters, lows, strict=True)]
        self.floor = to_vector(torch.cat(each))

    def run(self, *, steps: int, progress: bool = False) -> None:
        """At most so many gradients."""
        with tqdm(total=steps, desc="fit (all rows)", disable=not progress, leave=False) as bar:
            at, shrink = read(self.parameters), 1.0
            loss, gradient = self._evaluated(at, bar, measure=True)
            self.trace.converged, self.trace.message = False, f"{steps} steps"
            for _ in range(steps - 1):
                move = shrink * self._step(at, gradient)
                gain = -self.n * float(gradient.dot(move) + 0.5 * move.dot(self.curvature @ move))
                if gain < ENOUGH * len(at) * shrink:
                    self.trace.converged, self.trace.message = (
                        True,
                        f"{gain:.2g} of log evidence to be gained by a step",
                    )
                    break
                try:
                    new_loss, new = self._evaluated(at + move, bar)
                except SolverError:  # too far: nothing can be solved there
                    shrink *= SHRINK
                    continue
                self._learn(move, new - gradient)
                # Loss and gradient have the same probes but not the same error: near the end they may disagree.
                if new_loss > loss and float((gradient + new).dot(move)) > 0.0:
                    shrink *= SHRINK
                    continue
                at, gradient, loss, shrink = at + move, new, new_loss, 1.0
        write(self.parameters, at)

    def _evaluated(self, at: Tensor, bar: tqdm, *, measure: bool = False) -> tuple[float, Tensor]:
        write(self.parameters, at)
        self.head.zero_grad()
        started = time.perf_counter()
        work = self.evidence.backward(measure=measure)
        self.trace.add("all rows", work.loss, seconds=time.perf_counter() - started, **work.facts())
        bar.update()
        bar.set_postfix(loss=f"{work.loss:.5f}", products=work.products)
        found = read_gradient(self.parameters)
        if not bool(torch.isfinite(found).all()):
            raise SolverError("the gradient of the log evidence is not finite; raise the noise or use float64 data")
        return work.loss, found

    def _step(self, at: Tensor, gradient: Tensor) -> Tensor:
        free = (at > self.floor) | (gradient < 0)  # noise at its floor stays there unless it wants to rise
        values, vectors = torch.linalg.eigh(self.curvature[free][:, free])
        move = torch.zeros_like(at)
        move[free] = -vectors @ ((vectors.T @ gradient[free]) / values.abs().clamp_min(WEAK / self.n))
        move = move / float((move.abs() / REACH).max().clamp_min(1.0))
        return torch.maximum(at + move, self.floor) - at

    def _learn(self, move: Tensor, change: Tensor) -> None:
        """BFGS, damped so that the curvature stays positive (Powell 1978)."""
        image = self.curvature @ move
        have, seen = float(move.dot(image)), float(move.dot(change))
        if have <= 0.0:
            return
        keep = 1.0 if seen >= 0.2 * have else 0.8 * have / (have - seen)
        change = keep * change + (1.0 - keep) * image
        self.curvature = self.curvature + torch.outer(change, change) / float(move.dot(change))
        self.curvature -= torch.outer(image, image) / have


def exact_curvature(head: Any, data: Dataset) -> Tensor:
    """Second derivatives of the loss per row, (d, d), made positive: central differences of exact gradients."""
    parameters = all_parameters(head)
    at, rows = read(parameters), []
    try:
        for i in range(len(at)):
            width = torch.zeros_like(at)
            width[i] = 1e-3
            ahead, behind = (_exact_gradient(head, data, parameters, at + sign * width) for sign in (1.0, -1.0))
            rows.append((ahead - behind) / (2.0 * width[i]))
    finally:
        write(parameters, at)
    found = torch.stack(rows)
    values, vectors = torch.linalg.eigh(0.5 * (found + found.T))
    return (vectors * values.abs().clamp_min(WEAK / len(data.train))) @ vectors.T


def _exact_gradient(head: Any, data: Dataset, parameters: list[nn.Parameter], at: Tensor) -> Tensor:
    write(parameters, at)
    head.zero_grad()
    (-(head.log_evidence(data) + head.log_prior()) / len(data.train)).backward()
    return read_gradient(parameters)


__all__ = ["QuasiNewton", "exact_curvature"]
