"""Exact changes of a field at any change of rows' noise: the system moves linearly in it, `A(h) = A + h E`, `E = 1/βρ` at the rows.

By Woodbury's formula, with `R = √(βρ)/σ²` and `1/σ² - R S_JJ R = Q Λ Qᵀ` over the rows J of a column,

    dμ_x = -h Σ_k u_xk w_k / (1 + h λ_k),    dS_xx = h Σ_k u_xk² / (1 + h λ_k),    u = S_xJ R Q,    w = Qᵀ R r.
"""

import torch
from torch import Tensor

from gp_response.posterior import Posterior, Probe
from gp_response.response.among import among
from gp_response.response.energy import Energy
from gp_response.response.moves import Moves, SetMoves
from gp_response.response.sites import covariances, stand


def noise_moves(posterior: Posterior, probe: Probe, energy: Energy) -> list[Moves | SetMoves]:
    """What h more noise at the rows of each column does at a probe's points.

    Args:
        energy: of the noise, by which rows and columns are known.
    """
    ground, at = stand(posterior, energy), energy.at
    noise = posterior.row_noise.expand(len(posterior.data.train))[at]
    root = (posterior.beta * posterior.data.train.weights.double()[at]).sqrt() / noise
    reach = covariances(posterior, probe, energy, ground).value * root
    size, still = -root * posterior.residuals.value[at], reach.new_zeros(len(reach), 1)
    if energy.one_each:
        rate = 1.0 / noise - root.square() * posterior.own_variance(at)[0].value
        rate, down = rate.clamp_min(0.0)[None], torch.full_like(rate, -1.0)[None]
        return [Moves(reach, size[None], rate, down, torch.zeros_like(reach), -noise)]
    shared, found = among(posterior, energy, None), []
    for c in range(energy.columns):
        mine = torch.nonzero(energy.column == c).flatten()
        block = -root[mine][:, None] * shared.block(mine)[0].value * root[mine]
        block.diagonal().add_(1.0 / noise[mine])
        rate, modes = torch.linalg.eigh(0.5 * (block + block.T))
        found.append(_rotated(reach[:, mine], size[mine], rate.clamp_min(0.0), modes, still, -noise[mine].min()))
    return list(found)


def _rotated(reach: Tensor, size: Tensor, rate: Tensor, modes: Tensor, still: Tensor, floor: Tensor) -> SetMoves:
    return SetMoves(reach @ modes, modes.T @ size, rate, torch.full_like(rate, -1.0), still, floor[None])


__all__ = ["noise_moves"]
