"""The Hessian of the loss in chosen parameters."""

from functools import partial
from typing import Any

from torch import Tensor, nn

from gp_response.curvature.curvature import Curvature
from gp_response.curvature.loss import RowLoss
from gp_response.curvature.modes import Parts, ReverseMode
from gp_response.curvature.network import Network
from gp_response.curvature.probe import choose_bending_mode
from gp_response.curvature.rows import Labelled, Rows
from gp_response.curvature.selection import Selection
from gp_response.likelihoods import Likelihood


class Hessian(Curvature):
    """`β Σ_i ρ_i ∇²ℓ_i`; see `hessian`."""

    def __init__(self, net: nn.Module | Network, data: Labelled, **given: Any):
        super().__init__(net, data, **given)
        row = self.rows[:1]
        modes = (self.net.mode(row.x), ReverseMode())
        self.net.use(choose_bending_mode(partial(self._energy, row), self.net.parts, modes))

    def _energy(self, rows: Rows, parts: Parts) -> Tensor:
        return (rows.weights * self.loss.rows(self.net.at(parts, rows.x), rows.y)).sum()

    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        at = self.net.parts
        return self.net.mode(rows.x).bend(partial(self._energy, rows), at, self.net.tree(V))


def hessian(
    net: nn.Module | Network, data: Labelled, *, likelihood: Likelihood | RowLoss, parameters: Selection = "all",
    batch_size: int | None = None, beta: float = 1.0,
) -> Hessian:  # fmt: skip
    """The Hessian `β Σ_i ρ_i ∇²ℓ_i` of a network's loss as it stands, as an operator; indefinite in general.

    Arguments and errors as `ggn` has them. Products are forward over reverse mode (Pearlmutter 1994, "Fast exact multiplication
    by the Hessian").
    """
    return Hessian(net, data, likelihood=likelihood, parameters=parameters, batch_size=batch_size, beta=beta)


__all__ = ["Hessian", "hessian"]
