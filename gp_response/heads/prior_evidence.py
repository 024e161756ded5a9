"""The precision δ of a network's prior `N(0, 1/δ)` at the maximum of Laplace's evidence (MacKay 1992; Immer et al. 2021).

`log p(y | θ*) - ½ δ‖θ*‖² - ½ log det(1 + G/δ)` needs of the curvature G only its spectrum: all of it for few parameters, else the
quadrature of Lanczos runs from random vectors, which serve every δ. Its slope by log δ falls, `½ (Σ λ/(λ + δ) - δ‖θ*‖²)`, so that
the maximum is where the effective number of parameters is `δ‖θ*‖²`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.errors import InputError
from gp_response.linalg.evidence_estimate import spherical_probes
from gp_response.linalg.lanczos import Lanczos

DENSE = 3000  # parameters up to which the spectrum is had whole
PROBES, STEPS = 8, 40
HALVINGS = 80
REACH = 1e-16  # of the largest δ there can be


class PriorChoice(NamedTuple):
    """δ, the effective number of parameters there, the standard error of log δ (0 where it is no random number), and how."""

    precision: float
    effective: float
    standard_error: float
    method: str


def prior_by_evidence(curvature: Any, origin: Tensor, *, seed: int = 0) -> PriorChoice:
    """The maximum over δ for a curvature operator (P, P) at trained parameters (P,).

    Raises:
        InputError: trained parameters of zero, or no curvature: there is no maximum.
    """
    size = float(origin.double().square().sum())
    nodes, weights, method = _spectrum(curvature, seed)
    nodes = nodes.clamp_min(0.0)
    if size == 0.0 or not bool((nodes * weights > 0).any()):
        raise InputError(
            'prior_precision="evidence" found no maximum: the parameters or the curvature are zero; give a number'
        )
    delta = _root(nodes, weights / len(weights), size)
    shares = (weights * nodes / (nodes + delta)).sum(dim=1)
    effective = float(shares.mean())
    # By how much the root moves where the effective number does.
    bend = weights * nodes * delta / (nodes + delta).square()
    slope = float(bend.sum(dim=1).mean()) + delta * size
    spread = float(shares.std()) / len(shares) ** 0.5 / slope if len(shares) > 1 else 0.0
    return PriorChoice(delta, effective, spread, method)


def _spectrum(curvature: Any, seed: int) -> tuple[Tensor, Tensor, str]:
    """Nodes and weights (s, k) whose weighted sums are traces of functions of G, one row a random vector."""
    p = curvature.shape[0]
    if p <= DENSE:
        eye = torch.eye(p, dtype=curvature.dtype, device=curvature.device)
        matrix = torch.cat([curvature.matmat(part.T).double() for part in eye.split(256)], dim=1)
        values = torch.linalg.eigvalsh(0.5 * (matrix + matrix.T))
        return values[None], torch.ones_like(values)[None], "spectrum"
    start = spherical_probes(p, PROBES, torch.Generator().manual_seed(seed), curvature.device)
    rules = [_rule(curvature, column) for column in start.T]
    nodes, weights = (torch.stack(part) for part in zip(*rules, strict=True))
    return nodes, p * weights, f"Lanczos quadrature, {PROBES} vectors of {STEPS} steps"


def _rule(curvature: Any, start: Tensor) -> tuple[Tensor, Tensor]:
    def product(v: Tensor) -> Tensor:
        return curvature.matmat(v.to(curvature.dtype)).double()

    run = Lanczos(product, start[:, None], most=STEPS)
    while not run.exhausted:
        run.step()
    nodes, weights = (part[0] for part in run.gauss())
    lack = STEPS - len(nodes)
    return torch.nn.functional.pad(nodes, (0, lack)), torch.nn.functional.pad(weights, (0, lack))


def _root(nodes: Tensor, weights: Tensor, size: float) -> float:
    """Where `Σ w λ/(λ + δ) = δ size`, by bisection of log δ: at most as many parameters are effective as there are."""
    high = float(weights.sum()) / size
    low = REACH * high
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        rising = float((weights * nodes / (nodes + middle)).sum()) > middle * size
        low, high = (middle, high) if rising else (low, middle)
    return (low * high) ** 0.5


__all__ = ["PriorChoice", "prior_by_evidence"]
