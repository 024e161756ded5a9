"""What shifts of training rows do, as quadratic energies in the field's values, slopes and bends at the rows.

Along `x_i → x_i + h v` the loss `(y - f(x_i + h v))²/2σ²` has derivatives `V' = -(y - f)f'/σ²`, `V'' = (f'² - (y - f)f'')/σ²`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from gp_response.kernels.look import Look
from gp_response.posterior import Certified, Posterior
from gp_response.response.motion import precisions, require_gaussian
from gp_response.response.quadratic import Quadratic
from gp_response.response.sites import require_anywhere

BLOCK = 1024  # rows whose slopes are looked at together


def shift_energy(posterior: Posterior, at: Tensor, direction: Tensor, column: Tensor, columns: int) -> Quadratic:
    """`V'` of shifted rows: sites are the rows, then their slopes, which are solved for.

    Args:
        at: (k,) rows. direction: (k, d) what each moves by. column: (k,) of each; columns: their number.
    """
    require_gaussian(posterior, "shift_inputs")
    require_anywhere(posterior, "shift_inputs")
    k, tau = len(at), _weights(posterior, at)
    slopes = posterior.probe(_look(posterior, at, direction))
    residual = Certified(*(part[at] for part in posterior.residuals))
    return Quadratic(
        posterior, at, (slopes,), column.repeat(2), columns,
        Certified.joined([_scaled(slopes.mean, -tau), _scaled(residual, tau)]), tau.repeat(2),
        torch.arange(2 * k, device=at.device).roll(k),
    )  # fmt: skip


def shift_bend(posterior: Posterior, at: Tensor, direction: Tensor, column: Tensor, columns: int) -> Quadratic:
    """`V''` of shifted rows: sites are the rows, their slopes and their bends, none of which is solved for."""
    k, tau = len(at), _weights(posterior, at)
    slopes = _look(posterior, at, direction)
    bends = replace(slopes, order=2)
    residual = Certified(*(part[at] for part in posterior.residuals))
    force = [
        _scaled(_means(posterior, bends), -tau),
        _scaled(_means(posterior, slopes), -2.0 * tau),
        _scaled(residual, tau),
    ]
    row, slope, bend = torch.arange(3 * k, device=at.device).split(k) if k else (at, at, at)
    return Quadratic(
        posterior, at, (slopes, bends), column.repeat(3), columns, Certified.joined(force),
        torch.cat([tau, 2.0 * tau, tau]), torch.cat([bend, slope, row]),
    )  # fmt: skip


def _weights(posterior: Posterior, at: Tensor) -> Tensor:
    """`ρ_i/σ_i²`."""
    return precisions(posterior)[at] / posterior.beta


def _look(posterior: Posterior, at: Tensor, direction: Tensor) -> Look:
    return Look(posterior.data.train.x[at].double(), direction)


def _means(posterior: Posterior, look: Look) -> Certified:
    return Certified.joined(
        [posterior.mean_of(some) for some in look.split(BLOCK)] or [Certified(*2 * [look.points[:, 0]])]
    )


def _scaled(part: Certified, by: Tensor) -> Certified:
    return Certified(by * part.value, by.abs() * part.error)


__all__ = ["shift_bend", "shift_energy"]
