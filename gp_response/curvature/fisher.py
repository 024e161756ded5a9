"""Fisher matrices: the covariance of the loss's gradient, under the model's own labels or under the data's."""

from torch import Tensor, nn

from gp_response.curvature.curvature import Curvature
from gp_response.curvature.loss import RowLoss
from gp_response.curvature.modes import Parts
from gp_response.curvature.network import Network
from gp_response.curvature.rows import Labelled, Rows
from gp_response.curvature.selection import Selection
from gp_response.likelihoods import Likelihood


class Fisher(Curvature):
    """`β Σ_i ρ_i J_iᵀ F_i J_i`, F_i the expected Hessian of the row's loss in its outputs; see `fisher`."""

    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        outputs, moved = self.net.push_rows(rows.x, V)  # v ↦ J v
        known = self.loss.information(outputs, rows.y, moved)  # ↦ F J v
        return self.net.pull_rows(rows.x, rows.weigh(known))  # ↦ Jᵀ ρ F J v


class EmpiricalFisher(Curvature):
    """`β Σ_i ρ_i g_i g_iᵀ`, g_i the gradient of the row's loss; see `fisher`."""

    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        outputs, moved = self.net.push_rows(rows.x, V)  # v ↦ J v
        slope = self.loss.slope(outputs, rows.y)
        along = (slope * moved).flatten(2).sum(dim=2)  # ↦ g_iᵀ v, (t, n)
        spread = along.reshape(*along.shape, *(1,) * (slope.ndim - 1)) * slope
        return self.net.pull_rows(rows.x, rows.weigh(spread))  # ↦ Σ ρ_i g_i (g_iᵀ v)


def fisher(
    net: nn.Module | Network, data: Labelled, *, likelihood: Likelihood | RowLoss, empirical: bool = False,
    parameters: Selection = "all", batch_size: int | None = None, beta: float = 1.0,
) -> Fisher | EmpiricalFisher:  # fmt: skip
    """The Fisher information `β Σ_i ρ_i E[g_i g_iᵀ]` of a network as it stands, as an operator; g_i is the gradient of ℓ_i.

    Args:
        empirical: the labels of the data instead of the expectation over the likelihood's own: another matrix, which is not an
            estimate of the information (Kunstner, Balles & Hennig 2019). A row's gradient is the sum over its tokens.

    Other arguments and errors as `ggn` has them; also InputError for the expected one of a callable loss.

    Source:
        Martens 2020, "New insights and perspectives on the natural gradient method".
    """
    kind = EmpiricalFisher if empirical else Fisher
    return kind(net, data, likelihood=likelihood, parameters=parameters, batch_size=batch_size, beta=beta)


__all__ = ["EmpiricalFisher", "Fisher", "fisher"]
