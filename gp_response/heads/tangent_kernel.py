"""A trained network seen as a Gaussian process: the tangent kernel of chosen parameters, and the prior mean that belongs to it.

With a Gaussian prior of precision Λ₀ and centre θ₀ the linearised network `f(x; θ*) + J(x)(θ - θ*)` is the field with mean
`m(x) = f(x; θ*) + J(x)(θ₀ - θ*)` and covariance `k(x, x') = J(x) Λ₀⁻¹ J(x')ᵀ` (Jacot et al. 2018; Khan et al. 2019).
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.curvature import Network
from gp_response.errors import InputError
from gp_response.heads.groups import Groups, layers, masks
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.kernels import DotKernel


class TangentKernel(DotKernel):
    """`k(x, x') = J(x) Λ₀⁻¹ J(x')ᵀ` of one reading; its features `J(x) Λ₀^-½`, (n, P), are computed in the network's precision.

    Args:
        network: of rows (n, d), with one output.
        prior_precision: Λ₀, a positive number, which is then a hyperparameter, or its diagonal (P,).
        inputs: what the module takes for a row; None: the row itself.
        groups: of parameters, the terms of which the field is a sum; None: the layers.
        axes: shape of a row's outputs where there are several, and points read one of them; see `TangentMap`.

    Raises:
        InputError: prior_precision is not positive, or of another length.
    """

    settings = ("parameters",)

    def __init__(
        self, network: Network, prior_precision: float | Tensor = 1.0, *, inputs: Inputs | None = None,
        groups: Groups | None = None, axes: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__(lengthscale=None, outputscale=None)
        self.place: Tensor | None = None  # of a part's parameters among those that have a precision each
        precision = torch.as_tensor(prior_precision, dtype=torch.float64).to(network.device)
        if precision.numel() not in (1, network.count) or not bool(((precision > 0) & precision.isfinite()).all()):
            raise InputError(
                f"prior_precision of shape {tuple(precision.shape)}; expected a positive number or ({network.count},) of them"
            )
        self.inputs, self.axes = inputs, axes
        self.network, self.groups = network, layers(network) if groups is None else groups
        if precision.numel() == 1:
            self.register_positive("prior_precision", precision.reshape(()))
        else:
            self.register_buffer("prior_precision", precision.reshape(-1))
        # What the kernel is made of, for fingerprints of results; the network itself is no part of the module.
        self.register_buffer("origin", network.origin.detach())
        self.register_buffer("held", _held(network))

    def coordinates(self, x: Tensor) -> Tensor:
        tangent = TangentMap(self.network, self.inputs or Inputs((x.shape[-1] - len(self.axes),)), self.axes)
        precision = self.prior_precision.to(x)
        if self.place is not None and precision.numel() > 1:
            precision = precision[self.place]
        return tangent.gradient(x).to(x) / precision.sqrt()

    def component_names(self) -> list[str]:
        """The groups: `J Λ₀⁻¹ Jᵀ` is a sum over parameters."""
        return list(self.groups) if len(self.groups) > 1 else super().component_names()

    def part(self, component: int) -> "TangentKernel":
        self.component_names()
        name, names = list(self.groups.items())[component]
        place = masks(self.network, {name: names})[:, 0].nonzero().flatten()
        inner = {"network": self.network.narrowed(names), "groups": {name: names}, "place": place}
        other = copy.copy(self)  # of the same hyperparameter
        other.__dict__ = {**self.__dict__, **inner}
        return other

    def profile(self, s: Any) -> Any:
        return s

    def __repr__(self) -> str:
        precision = f"{float(self.prior_precision):.4g}" if self.prior_precision.numel() == 1 else "(P,)"
        return f"TangentKernel({type(self.network.module).__name__}, {self.network.count:,} parameters, {precision})"


class TangentMean(nn.Module):
    """`m(x) = f(x; θ*) + J(x) v`, (n, d) -> (n,): the field's mean where the parameters are moved by v = θ₀ - θ*.

    Args:
        tangent: of one output.
        move: v, (P,).
    """

    def __init__(self, tangent: TangentMap, move: Tensor) -> None:
        super().__init__()
        self.tangent = tangent
        self.move: Tensor
        self.register_buffer("move", move.detach().double())

    def forward(self, x: Tensor) -> Tensor:
        return (self.tangent.value(x) + self.tangent.moved(x, self.move)).to(x)


def _held(network: Network) -> Tensor:
    """The module's other numbers, flat."""
    kept = [t.detach().double().reshape(-1) for t in network.held.values()]
    return torch.cat(kept) if kept else network.origin.new_zeros(0)


__all__ = ["TangentKernel", "TangentMean"]
