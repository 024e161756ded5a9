"""Third cumulants of the losses: how the influence matrix itself moves when a weight does."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_places, as_tensor
from gp_response.data import require_one_label
from gp_response.errors import InputError
from gp_response.posterior import Certified, Posterior, rounded
from gp_response.response.asked import require_posterior
from gp_response.response.cover import cover
from gp_response.response.pairs import bounded


@dataclass(frozen=True)
class ThirdCumulant:
    """`κ₃(ℓ_i, ℓ_j, ℓ_k)` of q triples of training rows, in nats cubed.

    Attributes:
        value, error: (q,), and absolute bounds on the errors.
        triples: (q, 3) training rows.
        converged: bool (q,), whether the triple's solves reached their tolerance.
    """

    value: Tensor
    error: Tensor
    triples: Tensor
    converged: Tensor

    def __repr__(self) -> str:
        flag = "" if bool(self.converged.all()) else f", {int((~self.converged).sum())} not converged"
        return f"ThirdCumulant({len(self.value)} triples, error <= {float(self.error.max()):.1e}{flag})"


def third_cumulant(posterior: Posterior, triples: Any) -> ThirdCumulant:
    """Joint third cumulants of the losses of training rows under the posterior.

    With r the residuals, S the posterior covariance and σ_i² the noise of each row,

        κ₃ = [r_i r_k S_ij S_jk + r_i r_j S_ik S_kj + r_j r_k S_ji S_ik + S_ij S_jk S_ki] / σ_i² σ_j² σ_k²

    (losses are quadratic forms; Isserlis 1918). It is the next derivative of the log partition function: of
    `W_ij = Cov(ℓ_i, ℓ_j)`, `dW_ij/dρ_k = -β κ₃`. For a sparse head S is what responds to data.

    Args:
        posterior: with a Gaussian likelihood.
        triples: (q, 3) training rows; a row may stand in a triple more than once. One solve for each of the distinct rows
            that it takes for every two rows of a triple to have one between them.

    Raises:
        InputError: another likelihood; rows out of range.
    """
    require_posterior(posterior, "third_cumulant")
    require_one_label(posterior.data, "third_cumulant")
    if not posterior.conjugate:
        raise InputError(f"third_cumulant needs a Gaussian likelihood and this posterior has {posterior.likelihood!r}")
    asked = _as_triples(triples, len(posterior.data.train)).to(posterior.data.train.x.device)
    with torch.no_grad():
        (ij, jk, ik), converged = _covariances(posterior, asked)
        residuals = [Certified(*(part[asked[:, k]] for part in posterior.residuals)) for k in range(3)]
        noise = posterior.row_noise.double().expand(len(posterior.data.train))
        scale = 1.0 / noise[asked].prod(dim=1)
        found = bounded(_isserlis, 1.0, (ij, jk, ik, *residuals), (scale,))
        short = rounded(found, posterior.data.train.y.dtype)
        return ThirdCumulant(short.value, short.error, asked, converged)


def _isserlis(ij: Tensor, jk: Tensor, ik: Tensor, i: Tensor, j: Tensor, k: Tensor, scale: Tensor) -> Tensor:
    return scale * (i * k * ij * jk + i * j * ik * jk + j * k * ij * ik + ij * jk * ik)


def _covariances(posterior: Posterior, triples: Tensor) -> tuple[list[Certified], Tensor]:
    """S_ij, S_jk and S_ik of the triples, (q,) each, and whether the solves of each triple converged."""
    rows, place = triples.unique(return_inverse=True)
    pairs = torch.cat([place[:, [0, 1]], place[:, [1, 2]], place[:, [0, 2]]])
    solved = cover(pairs, len(rows))
    pairs = torch.where(torch.isin(pairs[:, :1], solved), pairs, pairs.flip(1))
    covariance, converged = posterior.among(rows[solved], None if len(solved) == len(rows) else rows)
    at = torch.searchsorted(solved, pairs[:, 0].contiguous())
    parts = [part[at, pairs[:, 1]].chunk(3) for part in covariance]
    return [Certified(*both) for both in zip(*parts, strict=True)], converged[at].reshape(3, -1).all(dim=0)


def _as_triples(triples: Any, rows: int) -> Tensor:
    asked = as_tensor(triples, "third_cumulant", "(q, 3) training rows")
    one = asked.ndim == 1 and len(asked) == 3
    return as_places(asked[None] if one else asked, "third_cumulant", 3, rows, "training rows")


__all__ = ["ThirdCumulant", "third_cumulant"]
