"""The Hessian of the loss in chosen parameters."""

from torch import Tensor, nn

from gp_response.curvature.curvature import Curvature
from gp_response.curvature.loss import RowLoss
from gp_response.curvature.modes import Parts
from gp_response.curvature.network import Network
from gp_response.curvature.rows import Labelled, Rows
from gp_response.curvature.selection import Selection
from gp_response.likelihoods import Likelihood


class Hessian(Curvature):
    """`β Σ_i ρ_i ∇²ℓ_i`; see `hessian`."""

    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        def energy(parts: Parts) -> Tensor:
            return rows.weigh(self.loss.rows(self.net.at(parts, rows.x), rows.y)[None])[0].sum()

        return self.net.mode(rows.x).bend(energy, self.net.tree(self.net.origin), self.net.tree(V))


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
