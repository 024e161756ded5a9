"""How a linearised network moves when the precision δ of its prior does, which stays centred where it is.

In whitened parameters `u = δ^½ θ` the precision is `B = 1 + G/δ`, and with `a = δ^½ (θ₀ - ⟨θ⟩)`, z = B⁻¹g of a reading,

    dμ = zᵀa/δ,    ds = -‖z‖²/δ,    d log Z = (½ tr(1 - B⁻¹) - ½‖a‖²)/δ,    tr(1 - B⁻¹) = Σ τ_i S_ii.
"""

from typing import Any

import torch

from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.posterior import Certified
from gp_response.response.prior_motion import PriorMotion, stacked
from gp_response.response.tangent import Tangent


class NetworkPriorMotion(PriorMotion):
    """Of a linearised network; the one hyperparameter is the precision of its prior."""

    posterior: NetworkPosterior

    def __init__(self, posterior: NetworkPosterior, entries: list[Tangent]):
        super().__init__(posterior, entries)
        self.delta = float(posterior.model.precision)
        self.lost = posterior.eps * posterior.away.norm()
        if posterior.move is not None:
            self.lost = self.lost + posterior.energy(posterior.move)[0]

    def _marginals(self, probe: Any, tangent: Tangent) -> tuple[Certified, Certified]:
        away, z = self.posterior.away, probe.solution.value
        # ‖B⁻¹ρ‖ <= √(ρᵀB⁻¹ρ), as B >= 1.
        off = probe.energy + self.posterior.eps * probe.reach
        by_mean = Certified(z.T @ away, off * away.norm() + probe.reach * self.lost)
        by_variance = Certified(-probe.reach.square(), off * (2.0 * probe.reach + off))
        return self._scaled(by_mean), self._scaled(by_variance)

    def log_evidence(self) -> Certified:
        posterior = self.posterior
        every = torch.arange(len(posterior.data.train), device=posterior.away.device)
        own, _ = posterior.own_variance(every)
        trace, off = ((posterior.precisions * part).sum() for part in own)
        away = posterior.away.norm()
        one = self._scaled(Certified(0.5 * (trace - away.square()), 0.5 * off + away * self.lost))
        return stacked([one] * self.columns)

    def learning_coefficient(self) -> Certified:
        """`-½ Σ τ_i ‖z_i‖²/δ`."""
        posterior, value, error = self.posterior, [], []
        for rows in torch.arange(len(posterior.data.train), device=posterior.away.device).split(posterior._step()):
            probe, weight = posterior.probe(posterior.row_points[rows]), posterior.precisions[rows]
            off = probe.energy + posterior.eps * probe.reach
            value.append(-0.5 * (weight * probe.reach.square()).sum())
            error.append(0.5 * (weight * off * (2.0 * probe.reach + off)).sum())
        one = self._scaled(Certified(torch.stack(value).sum(), torch.stack(error).sum()))
        return stacked([one] * self.columns)

    def _scaled(self, part: Certified) -> Certified:
        return Certified(part.value / self.delta, part.error / self.delta)


__all__ = ["NetworkPriorMotion"]
