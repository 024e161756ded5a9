"""`influence`: which way the Hadamard term is had, and the operator made so."""

from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_integer, as_number
from gp_response.errors import InputError, unknown_name
from gp_response.linalg.blocks import block_size, byte_budget
from gp_response.linalg.memory import free_bytes
from gp_response.posterior import Posterior
from gp_response.response.asked import require_posterior
from gp_response.response.influence.covariance import PROBES, RowCovariance
from gp_response.response.influence.kinds import row_covariance
from gp_response.response.influence.operator import Influence
from gp_response.response.influence.samples import SampleInfluence
from gp_response.response.influence.squares import Recomputed, Sampled, Spanned, Squares
from gp_response.solvers import FactoredCholesky

METHODS = ("exact", "low-rank", "sampled")
SOLVED = 2048  # rows up to which a solve each is cheap enough to be chosen without being asked for


def influence(
    posterior: Posterior,
    *,
    method: str | None = None,
    rank: int | None = None,
    tolerance: float = 1e-3,
    probes: int = 32,
    seed: int = 0,
    budget: float | None = None,
) -> Influence:
    """The covariance of all training losses, `W_ij = Cov(ℓ_i, ℓ_j) = r_i r_j S_ij/(σ_i² σ_j²) + S_ij²/(2 σ_i² σ_j²)`.

    The losses are those of samples, unweighted; where these have several labels they are sums, and W is summed over the labels of
    i and of j. S is the part of the field's covariance that responds to data, so that `W = -χ[ℓ, ρ]/β`, and `β² W` is the
    Hessian of the log evidence by the weights. Also called W-kernel (Iba 2023), loss kernel, or influence matrix.

    Args:
        posterior: of `gr.Exact` (any solver), `gr.SGPR`, `gr.SVGP` or `gr.laplace`, with a Gaussian likelihood; of one label
            a sample, or of several.
        method: of the second term. "exact": S itself, kept where memory allows. "low-rank": `S ≈ FᵀF` and the diagonal of
            S, with a bound from the diagonal of what is left; of sparse posteriors it is exact. "sampled": random signs
            around the low-rank part, unbiased, with a standard error. None chooses: low-rank for sparse posteriors, exact
            where a Cholesky factor or few rows make it cheap, low-rank else.
        rank: most columns of the low-rank part; None takes 64 + 8 √n, at most 2048.
        tolerance: of the low-rank part: no more columns once the prior variance left is so small on average, in units of
            the rows' noise.
        probes: random signs of "sampled", 2 or more; each solve has twice as many right-hand sides.
        seed: of pivots and signs.
        budget: bytes S may take; None takes half of what is free.

    Returns:
        a LinearOperator (n, n), n samples; entries in nat².

    Raises:
        InputError: the posterior has no such matrix in closed form; the message says what to use.
    """
    require_posterior(posterior, "influence")
    _check(method, rank, tolerance, probes)
    with torch.no_grad():
        covariance = row_covariance(posterior)
        chosen, reason = _choose(covariance, budget) if method is None else (method, "as asked")
        squares = _squares(covariance, chosen, rank=rank, tolerance=tolerance, probes=probes, seed=seed, budget=budget)
        precision = (1.0 / posterior.row_noise.double()).expand(covariance.n)
        residual = posterior.residuals
        kind = SampleInfluence if posterior.data.label_shape else Influence
        return kind(
            residual.value * precision, precision, slack=residual.error * precision, covariance=covariance,
            squares=squares, method=chosen, reason=reason,
        )  # fmt: skip


def _check(method: Any, rank: Any, tolerance: Any, probes: Any) -> None:
    if method is not None and method not in METHODS:
        raise unknown_name("method", str(method), METHODS)
    if rank is not None:
        as_integer(rank, "influence's rank", "an integer of 1 or more, or None", least=1)
    if not 0.0 <= as_number(tolerance, "influence's tolerance") < 1.0:
        raise InputError(f"influence(tolerance={tolerance!r}): expected a number from 0 to 1")
    as_integer(probes, "influence's probes", "an integer of 2 or more", least=2)


def _choose(covariance: RowCovariance, budget: float | None) -> tuple[str, str]:
    if covariance.spans:
        return "low-rank", "exact for inducing features"
    if not _fits(covariance, budget):
        return "low-rank", "S does not fit into memory"
    if isinstance(covariance.posterior.factor, FactoredCholesky):
        return "exact", "S from the Cholesky factor"
    if covariance.n <= SOLVED:
        return "exact", "few rows"
    return "low-rank", "S would take a solve a row"


def _fits(covariance: RowCovariance, budget: float | None) -> bool:
    need, device = 2 * 8 * covariance.n**2, covariance.every.device
    free = free_bytes(device)
    room = byte_budget(budget, device) if budget is not None or free is None else free // 2
    return need <= room


def _squares(
    covariance: RowCovariance, method: str, *, rank: int | None, tolerance: float, probes: int, seed: int,
    budget: float | None,
) -> Squares:  # fmt: skip
    if method == "exact":
        if covariance.spans and rank is None:
            return covariance.low_rank(None, tolerance=0.0, seed=seed)
        if _fits(covariance, budget):
            return covariance.whole()
        step = block_size(64 * covariance.n, byte_budget(budget, covariance.every.device), most=PROBES)
        return Recomputed(covariance.rows, covariance.own, step=step)
    base = covariance.low_rank(rank, tolerance=tolerance, seed=seed)
    return base if method == "low-rank" else _sampled(covariance, base, probes, seed)


def _sampled(covariance: RowCovariance, base: Spanned, probes: int, seed: int) -> Sampled:
    generator = torch.Generator().manual_seed(seed + 1)
    signs: Tensor = 2.0 * torch.randint(2, (covariance.n, probes), generator=generator).double() - 1.0
    return Sampled(base, covariance.times, signs.to(covariance.every.device))


__all__ = ["influence"]
