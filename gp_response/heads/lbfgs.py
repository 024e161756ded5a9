"""Full-batch training with SciPy's L-BFGS-B."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from tqdm.auto import tqdm

from gp_response.data import Dataset
from gp_response.errors import SolverError
from gp_response.heads.held_out import HeldOut
from gp_response.heads.trace import Trace
from gp_response.heads.vector import read, read_gradient, to_vector, write

# Where a step leaves the positive definite matrices the line search must turn back: larger than any loss per row.
REFUSED = 1e6


def lbfgs(head: Any, held_out: HeldOut, training: Any, rows: int, generator: torch.Generator, trace: Trace) -> None:
    """Minimise the negative log evidence per row of `rows` rows; the best of 1 + restarts runs is kept."""
    minimise_evidence(head, held_out.train, training, rows, generator, trace, all_parameters(head))


def all_parameters(head: Any) -> list[torch.nn.Parameter]:
    return [p for p in head.parameters() if p.requires_grad]


def minimise_evidence(
    head: Any, data: Dataset, training: Any, rows: int, generator: torch.Generator, trace: Trace,
    parameters: list[torch.nn.Parameter], *, precision: float = 1e-10, evidence: Callable[[Dataset], torch.Tensor] | None = None,
    stage: str = "lbfgs",
) -> None:  # fmt: skip
    """L-BFGS on some of a head's parameters, until a step gains less than `precision` of the loss.

    evidence: what is maximised, `head.log_evidence` by default; `stage`: its name in the trace.
    """
    evidence = evidence or head.log_evidence
    if rows < len(data.train):
        data = data.draw(rows, generator)
    points = getattr(head, "points", None)
    start = read(parameters, points)
    best = _Objective(head, data, parameters, trace, "", evidence)
    for run in range(1 + training.restarts):
        write(parameters, start, points)
        if run:
            _perturb(parameters, generator, points)
        objective = _Objective(head, data, parameters, trace, f"restart {run}" if run else stage, evidence)
        message, success = objective.minimise(training, precision)
        if objective.best_loss < best.best_loss:
            best, trace.converged, trace.message = objective, success, message
    if best.best is None:
        raise SolverError("the system was not positive definite at any step; raise the noise or use float64 data")
    write(parameters, torch.from_numpy(best.best), points)
    head.zero_grad()


class _Objective:
    """The loss as SciPy wants it, remembering its best point: a line search may end on one that was refused."""

    def __init__(
        self, head: Any, data: Dataset, parameters: list[torch.nn.Parameter], trace: Trace, stage: str,
        evidence: Callable[[Dataset], torch.Tensor],
    ):  # fmt: skip
        self.head, self.data, self.parameters, self.trace, self.stage = head, data, parameters, trace, stage
        self.evidence = evidence
        self.points = getattr(head, "points", None)
        self.best: np.ndarray | None = None
        self.best_loss, self.refused = float("inf"), 0

    def minimise(self, training: Any, precision: float) -> tuple[str, bool]:
        steps = training.steps or 200
        with tqdm(total=steps, desc=f"fit ({self.stage})", disable=not training.progress, leave=False) as bar:

            def step(_: np.ndarray) -> None:
                bar.update()
                bar.set_postfix(loss=f"{self.best_loss:.5f}")

            options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": precision, "gtol": 1e-6}
            first = read(self.parameters, self.points).numpy()
            bounds = [(self._floor(p), None) for p in self.parameters for _ in range(p.numel())]
            result = minimize(self, first, jac=True, method="L-BFGS-B", callback=step, options=options, bounds=bounds)
        if self.refused:
            return (
                f"{self.refused} steps met a system that is not positive definite; the best before them is kept",
                False,
            )
        return str(result.message), bool(result.success)

    def _floor(self, parameter: torch.nn.Parameter) -> float | None:
        if parameter is not self.head.raw_noise:
            return None
        return float(to_vector(torch.tensor(self.head.raw_noise_floor, dtype=torch.float64)))

    def __call__(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        write(self.parameters, torch.from_numpy(flat), self.points)
        self.head.zero_grad()
        try:
            loss = -(self.evidence(self.data) + self.head.log_prior()) / len(self.data.train)
            loss.backward()
        except SolverError:
            loss = torch.tensor(float("nan"))
        if not bool(torch.isfinite(loss)):
            self.refused += 1
            return REFUSED, np.zeros_like(flat)
        self.trace.add(self.stage, loss.item())
        if loss.item() < self.best_loss:
            self.best, self.best_loss = flat.copy(), loss.item()
        return loss.item(), read_gradient(self.parameters, self.points).numpy()


def _perturb(
    parameters: list[torch.nn.Parameter], generator: torch.Generator, points: torch.nn.Parameter | None
) -> None:
    """Multiply every positive hyperparameter by about e^±1, the spread over which evidences have several optima."""
    few = [p for p in parameters if p is not points]
    at = read(few)
    write(few, at + torch.randn(at.shape, generator=generator, dtype=torch.float64))


__all__ = ["all_parameters", "lbfgs", "minimise_evidence"]
