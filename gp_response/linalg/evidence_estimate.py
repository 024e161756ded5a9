"""The Gaussian log evidence of a matrix that is never factored: stochastic Lanczos quadrature beside a preconditioner.

`log det B = log det M + tr log(L⁻¹ B L⁻ᵀ)` for `M = L Lᵀ` (Gardner et al. 2018; Wenger et al. 2022). The closer M is to B, the
smaller the second part, its variance over probes and the number of Lanczos steps. With `B >= M` the spectrum starts at
one, and each probe's quadrature is enclosed between a Gauss and a Gauss-Radau rule: only the chance in the probes is left.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.errors import SolverError
from gp_response.linalg.lanczos import Lanczos, Rule
from gp_response.linalg.split_preconditioner import SplitPreconditioner
from gp_response.linalg.system import Operator, System


@dataclass(frozen=True)
class Estimate:
    """A random estimate: value, its standard error over `probes`, and the enclosure of the part that is not random.

    Attributes:
        value: the estimate.
        standard_error: of `value`, from the spread over the probes.
        below, above: how far `value` may be above or below the average over the same probes computed exactly; inf where
            no bound is known. They bound quadrature and solves, neither chance nor the rounding of a float32 operator.
        probes: random vectors.
        steps: Lanczos steps taken.
    """

    value: float
    standard_error: float
    below: float
    above: float
    probes: int
    steps: int


def spherical_probes(n: int, probes: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Random directions of length √n, (n, t) float64: `E[uᵀ A u] = tr A` as for normal vectors, with less variance."""
    found = torch.randn(n, probes, generator=generator, dtype=torch.float64)
    return (found * (math.sqrt(n) / found.norm(dim=0))).to(device)


def log_determinant(
    system: Operator,
    preconditioner: SplitPreconditioner,
    probes: Tensor,
    *,
    most: int = 60,
    precision: float = 0.1,
    dtype: torch.dtype = torch.float64,
) -> Estimate:
    """`log det B`.

    Args:
        probes: (n, t), t >= 2, columns of length √n; see `spherical_probes`.
        most: Lanczos steps at most, n t numbers of memory each.
        precision: stop when the enclosure is narrower than this fraction of the standard error.
        dtype: of the products with B; all else is float64.

    Raises:
        SolverError: B is not positive definite in that precision.
    """
    n, count = probes.shape
    lanczos = Lanczos(_whitened(system, preconditioner, dtype), probes, most=most)
    floor = 1.0 if preconditioner.below else None
    while True:
        lanczos.step()
        each = n * _log(lanczos.gauss())
        error = float(each.std()) / math.sqrt(count)
        slack = math.inf if floor is None else float((each - n * _log(lanczos.radau(floor))).clamp_min(0.0).mean())
        if lanczos.exhausted or slack <= precision * error or slack <= 1e-12 * n:
            break
    value = float(preconditioner.logdet()) + float(each.mean())
    return Estimate(value, error, slack, 0.0, count, lanczos.steps)


def quadratic_form(
    rhs: Tensor, value: Tensor, left: Tensor, preconditioner: SplitPreconditioner
) -> tuple[float, float]:
    """`yᵀB⁻¹y` from below for an approximate solution v with residual `left = y - B v`, each (n,), and how far below.

    `2yᵀv - vᵀBv = yᵀB⁻¹y - rᵀB⁻¹r`: the error is of second order in the residual, and at most `rᵀM⁻¹r` where `B >= M`.
    """
    gap = float(preconditioner.whiten(left[:, None]).square().sum()) if preconditioner.below else math.inf
    return float(rhs.dot(value) + value.dot(left)), gap


def log_evidence(
    system: System,
    preconditioner: SplitPreconditioner,
    rhs: Tensor,
    value: Tensor,
    probes: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    most: int = 60,
) -> Estimate:
    """`-½ yᵀB⁻¹y - ½ log det B`, without the `log 2π` term.

    Args:
        rhs: y (n,).
        value: an approximate `B⁻¹y`, (n,); its residual is measured here.
        probes, dtype, most: as for `log_determinant`.
    """
    left = system.residual(rhs[:, None], value[:, None])[:, 0]
    fit, gap = quadratic_form(rhs, value, left, preconditioner)
    logdet = log_determinant(system, preconditioner, probes, dtype=dtype, most=most)
    return Estimate(
        -0.5 * (fit + logdet.value),
        0.5 * logdet.standard_error,
        0.5 * gap,
        0.5 * logdet.below,
        logdet.probes,
        logdet.steps,
    )


def _whitened(system: Operator, preconditioner: SplitPreconditioner, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """v -> L⁻¹ B L⁻ᵀ v."""
    return lambda v: preconditioner.whiten(system.product(preconditioner.whiten_transposed(v).to(dtype)).double())


def _log(rule: Rule) -> Tensor:
    used = rule.nodes[rule.weights > 0]
    if bool((used <= 0).any()):
        raise SolverError(
            f"the system is not positive definite: an eigenvalue near {float(used.min()):.2g} beside a largest of "
            f"{float(used.max()):.2g}; use float64 products or raise the noise"
        )
    return rule.apply(torch.log)


__all__ = ["Estimate", "log_determinant", "log_evidence", "quadratic_form", "spherical_probes"]
