"""A sampled covariance drawn towards one that is known without draws, by no more than chance can account for.

Every entry of `sampled - known` loses what is within d standard errors (soft thresholding). d minimises Stein's unbiased estimate
of the squared error of all entries together, which needs no independence among them (Stein 1981; Donoho & Johnstone 1995, "Adapting
to unknown smoothness via wavelet shrinkage"). No entry moves by more than d standard errors, so that what is found tends to the
sampled answer as draws grow, however wrong the known one is (Efron & Morris 1972 limit the translation for the same reason).
"""

from dataclasses import replace

import torch
from torch import Tensor

from gp_response.heads.sampling import SampledCovariance

FARTHEST, STEPS = 4.0, 81  # thresholds tried, in standard errors


def shrunk(found: SampledCovariance, known: Tensor) -> SampledCovariance:
    """`known + soft(found - known)`, with the way it moved as its bias.

    An interval of ±1.96 √(s² + shift²) has at least the level of ±1.96 s in every entry, whatever d and however far off `known` is.
    """
    scale, apart = found.standard_error, found.value - known
    limit = threshold(apart, scale) * scale
    shift = apart.clamp(-limit, limit)
    return replace(found, value=found.value - shift, shift=shift.abs())


def threshold(apart: Tensor, scale: Tensor) -> float:
    """d of the least estimated risk `Σ s² (1 - 2 [|t| ≤ d] + min(t², d²))`, t = apart / s."""
    moves = scale > 0
    square = scale[moves].square()
    t = apart[moves].abs() / scale[moves]
    tried = torch.linspace(0.0, FARTHEST, STEPS, dtype=torch.float64).tolist()
    risks = [float((square * (t.clamp_max(d).square() - 2.0 * (t <= d))).sum()) for d in tried]
    return tried[risks.index(min(risks))]


__all__ = ["shrunk", "threshold"]
