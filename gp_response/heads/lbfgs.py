"""Full-batch training with SciPy's L-BFGS-B."""

import copy
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from tqdm.auto import tqdm

from gp_response.data import Dataset
from gp_response.errors import SolverError
from gp_response.heads.held_out import HeldOut
from gp_response.heads.trace import Trace

# Where a step leaves the positive definite matrices the line search must turn back: larger than any loss per row.
REFUSED = 1e6


def lbfgs(head: Any, held_out: HeldOut, training: Any, rows: int, generator: torch.Generator, trace: Trace) -> None:
    """Minimise the negative log evidence per row of `rows` rows; the best of 1 + restarts runs is kept."""
    minimise_evidence(head, held_out.train, training, rows, generator, trace, all_parameters(head))


def all_parameters(head: Any) -> list[torch.nn.Parameter]:
    return [p for p in head.parameters() if p.requires_grad]


def minimise_evidence(
    head: Any, data: Dataset, training: Any, rows: int, generator: torch.Generator, trace: Trace,
    parameters: list[torch.nn.Parameter],
) -> None:  # fmt: skip
    """L-BFGS on some of a head's parameters."""
    if rows < len(data.train):
        data = data.keep(torch.randperm(len(data.train), generator=generator)[:rows].sort().values)
    start, best, best_loss = copy.deepcopy(head.state_dict()), None, float("inf")
    for run in range(1 + training.restarts):
        head.load_state_dict(start)
        if run:
            _perturb(parameters, generator)
        result = _minimise(head, data, training, f"restart {run}" if run else "lbfgs", trace, parameters)
        if result.fun < best_loss:
            best, best_loss, trace.converged, trace.message = (
                copy.deepcopy(head.state_dict()), float(result.fun), bool(result.success), str(result.message),
            )  # fmt: skip
    if best is None or best_loss >= REFUSED:
        raise SolverError("the system was not positive definite at any step; raise the noise or use float64 data")
    head.load_state_dict(best)


def _minimise(head: Any, data: Dataset, training: Any, stage: str, trace: Trace, parameters: list[torch.nn.Parameter]):
    steps = training.steps or 200
    bar = tqdm(total=steps, desc=f"fit ({stage})", disable=not training.progress, leave=False)

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        _write(parameters, flat)
        head.zero_grad()
        try:
            loss = -(head.log_evidence(data) + head.log_prior()) / len(data.train)
        except SolverError:
            return REFUSED, np.zeros_like(flat)
        loss.backward()
        trace.add(stage, loss.item())
        return loss.item(), _read([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters])

    def step(_: np.ndarray) -> None:
        bar.update()
        bar.set_postfix(loss=f"{trace.steps[-1]['loss']:.5f}")

    options = {"maxiter": steps, "maxfun": 3 * steps, "ftol": 1e-12, "gtol": 1e-6}
    first = _read([p.detach() for p in parameters])
    result = minimize(value_and_gradient, first, jac=True, method="L-BFGS-B", callback=step, options=options)
    _write(parameters, result.x)
    head.zero_grad()
    bar.close()
    return result


def _perturb(parameters: list[torch.nn.Parameter], generator: torch.Generator) -> None:
    """Multiply every positive hyperparameter by about e^±1, the spread over which evidences have several optima."""
    with torch.no_grad():
        for parameter in parameters:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(noise.to(parameter))


def _read(tensors: list) -> np.ndarray:
    return np.concatenate([t.detach().double().cpu().numpy().ravel() for t in tensors])


def _write(parameters: list, flat: np.ndarray) -> None:
    place = 0
    with torch.no_grad():
        for parameter in parameters:
            piece = torch.from_numpy(flat[place : place + parameter.numel()].copy())
            parameter.copy_(piece.reshape(parameter.shape))
            place += parameter.numel()


__all__ = ["all_parameters", "lbfgs", "minimise_evidence"]
