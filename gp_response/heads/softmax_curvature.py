"""The Gauss-Newton matrix of a classifier that is linear in its parameters, which is its Hessian: J stays, the softmax moves."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from gp_response.curvature import Curvature
from gp_response.curvature.loss import IGNORED, ClassLoss


class GivenProbabilities(ClassLoss):
    """The loss of classes at probabilities that stand in the place of labels, (n, C) or (n, L, C), whatever the outputs."""

    def bend(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        pu = y * u
        return pu - y * pu.sum(dim=-1, keepdim=True)  # (diag p - p pᵀ) u


def softmax_curvature(curvature: Curvature, probabilities: Tensor) -> Curvature:
    """`β Σ ρ_i J_iᵀ (diag p_i - p_i p_iᵀ) J_i` for given p, out of the one at the network's own outputs.

    Args:
        curvature: "ggn" or "fisher", of classes.
        probabilities: (n, C), a row for every label.
    """
    found, labels = copy.copy(curvature), curvature.rows.y
    p = probabilities.reshape(*labels.shape, -1).to(curvature.dtype)
    found.rows = replace(curvature.rows, y=torch.where((labels != IGNORED)[..., None], p, 0.0))
    found.loss = GivenProbabilities(curvature.loss.likelihood)  # type: ignore[attr-defined]
    return found


__all__ = ["softmax_curvature"]
