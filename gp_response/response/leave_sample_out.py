"""Samples of several labels left out whole: the block of their labels is taken out of the covariance (a downdate by Woodbury).

With S and r the covariance and residuals of a sample's labels, R = (βρ)^½/σ on the diagonal and `L = 1 - R S R`,

    S without the sample = S + S R L⁻¹ R S,    y - mean without it = r + S R L⁻¹ R r.
"""

import torch
from torch import Tensor

from gp_response.linalg.system import ROUNDING
from gp_response.posterior import Certified, Posterior
from gp_response.response.blocks import DefiniteBlocks
from gp_response.response.within_samples import Within, rows_of, within_samples

EPS = torch.finfo(torch.float64).eps


def leave_sample_out(posterior: Posterior, *, progress: bool = False) -> tuple[dict[str, Certified], Tensor]:
    """Means, variances and residuals of all rows (n,), log densities of samples (N,), by name, and which samples' solves
    converged, bool (N,)."""
    train = posterior.data.train
    n, like = len(train), posterior.residuals.value
    sizes = {"mean": n, "variance": n, "residual": n, "log_density": train.samples}
    found = {name: Certified(like.new_zeros(size), like.new_zeros(size)) for name, size in sizes.items()}
    settled = torch.zeros(train.samples, dtype=torch.bool, device=like.device)
    for some in within_samples(posterior, progress=progress):
        parts, settled[some.samples] = _without(posterior, some), some.converged
        for name, part in parts.items():
            at = some.samples if name == "log_density" else some.rows
            for whole, entries in zip(found[name], part, strict=True):
                whole[at] = entries
    return found, settled


def _without(posterior: Posterior, some: Within) -> dict[str, Certified]:
    train, covariance = posterior.data.train, some.covariance
    noise = posterior.row_noise.double().expand(len(train))[some.rows]
    weight = posterior.beta * train.weights.double()[some.rows]
    y, own = train.y.double()[some.rows], rows_of(posterior.residuals, some.rows)
    root = (weight / noise).sqrt()
    seen = Certified(*(root[:, :, None] * part for part in covariance))  # R S
    eye = torch.eye(root.shape[1], dtype=root.dtype, device=root.device)
    left = DefiniteBlocks(Certified(eye - seen.value * root[:, None], seen.error * root[:, None]))
    pulled = left.solve(Certified(*((root * part)[:, :, None] for part in own)))
    moved = _times(_turned(seen), pulled)
    residual = Certified(*(a + b[:, :, 0] for a, b in zip(own, moved, strict=True)))
    freed = _times(_turned(seen), left.solve(seen))
    without = Certified(*(a + b for a, b in zip(covariance, freed, strict=True)))
    new = noise / torch.where(weight > 0, weight, torch.full_like(weight, posterior.beta))
    total = DefiniteBlocks(
        Certified(without.value + torch.diag_embed(new), without.error + EPS * torch.diag_embed(new))
    )
    return {
        "mean": Certified(y - residual.value, residual.error + EPS * y.abs()),
        "variance": Certified(*(part.diagonal(dim1=1, dim2=2) for part in without)),
        "residual": residual,
        "log_density": total.log_density(residual),
    }


def _times(one: Certified, other: Certified) -> Certified:
    """The product of two matrices for each sample."""
    (a, a_error), (b, b_error) = one, other
    error = a.abs() @ (b_error + ROUNDING * EPS * b.abs()) + a_error @ (b.abs() + b_error)
    return Certified(a @ b, error)


def _turned(part: Certified) -> Certified:
    return Certified(part.value.mT, part.error.mT)


__all__ = ["leave_sample_out"]
