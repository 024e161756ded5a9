"""Entries of the influence matrix from those of the covariance."""

from torch import Tensor

from gp_response.posterior import Certified
from gp_response.response.influence.squares import ROUNDING


def loss_covariance(
    seen: Certified, force: Certified, precision: Tensor, one: Tensor | slice, other: Tensor | slice
) -> Certified:
    """`Cov(ℓ_i, ℓ_j) = a_i a_j S_ij + ½ p_i p_j S_ij²` of the rows i in `one` and j in `other`, which are broadcast.

    Args:
        seen: S_ij. force: `a = r/σ²` of all rows, (n,). precision: `p = 1/σ²`, (n,).
    """
    (cov, off), (a, slack) = seen, force
    linear, square = a[one] * a[other], 0.5 * precision[one] * precision[other]
    value = linear * cov + square * cov.square()
    error = linear.abs() * off + square * off * (2.0 * cov.abs() + off)
    loose = a[one].abs() * slack[other] + slack[one] * (a[other].abs() + slack[other])
    rounding = ROUNDING * ((linear * cov).abs() + square * cov.square())
    return Certified(value, error + loose * (cov.abs() + off) + rounding)


__all__ = ["loss_covariance"]
