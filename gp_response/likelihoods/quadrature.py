"""Gauss-Hermite quadrature under a standard normal."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

COUNT = 64


@lru_cache
def _rule(count: int) -> tuple[Tensor, Tensor]:
    at, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    keep = weights > 1e-40  # beyond, log-sums gain nothing
    return torch.from_numpy(at[keep].copy()), torch.from_numpy(weights[keep].copy())


def nodes(like: Tensor, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Points ξ (q,) and weights w (q,), summing to one, with `E g(ξ) = Σ w g(ξ)` for ξ ~ N(0, 1)."""
    at, weights = _rule(count)
    return at.to(like), weights.to(like)


__all__ = ["COUNT", "nodes"]
