"""The generalised Gauss-Newton matrix: the Hessian of the loss as if the network were linear in its parameters."""

from torch import Tensor, nn

from gp_response.curvature.curvature import Curvature
from gp_response.curvature.loss import RowLoss
from gp_response.curvature.modes import Parts
from gp_response.curvature.network import Network
from gp_response.curvature.rows import Labelled, Rows
from gp_response.curvature.selection import Selection
from gp_response.likelihoods import Likelihood


class GGN(Curvature):
    """`β Σ_i ρ_i J_iᵀ H_i J_i`, H_i the Hessian of the row's loss in its outputs; see `ggn`."""

    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        outputs, moved = self.net.push_rows(rows.x, V)  # v ↦ J v
        bent = self.loss.bend(outputs, rows.y, moved)  # ↦ H J v
        return self.net.pull_rows(rows.x, rows.weigh(bent))  # ↦ Jᵀ ρ H J v


def ggn(
    net: nn.Module | Network, data: Labelled, *, likelihood: Likelihood | RowLoss, parameters: Selection = "all",
    batch_size: int | None = None, beta: float = 1.0,
) -> GGN:  # fmt: skip
    """The generalised Gauss-Newton matrix `β Σ_i ρ_i J_iᵀ H_i J_i` of a network as it stands, as an operator.

    Positive semi-definite where the loss is convex in the outputs (every likelihood with `concave`).

    Args:
        net: a trained module in evaluation mode, rows first: outputs (n,), (n, C), or (n, L, C) for sequences.
        data: a Dataset, whose training weights are ρ, or a pair (x, y) of tensors with rows first.
        likelihood: a gr.Likelihood, or a callable (outputs, y) -> (n,), each row's loss. Labels of sequences are (n, L); -100
            has no loss; a row's loss is the sum over its tokens.
        parameters: "all", "head", names, patterns, a callable, or several of these; see `gr.curvature.select`.
        batch_size: rows at a time; None takes what fits a quarter of the free memory.
        beta: β > 0, inverse temperature.

    Raises:
        InputError: data, labels or a network that cannot be used; a network whose output is random or couples rows.

    Source:
        Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """
    return GGN(net, data, likelihood=likelihood, parameters=parameters, batch_size=batch_size, beta=beta)


__all__ = ["GGN", "ggn"]
