"""The curvature of a data set's loss in a network's parameters, as a model's likelihood and weights make it."""

import torch

from gp_response.curvature import GGN, Curvature, Fisher, Hessian, Network
from gp_response.curvature.loss import IGNORED
from gp_response.curvature.rows import Rows
from gp_response.data import Dataset, samples_of
from gp_response.heads.tangent_map import Inputs
from gp_response.likelihoods import Gaussian, Likelihood

KINDS: dict[str, type[Curvature]] = {"ggn": GGN, "hessian": Hessian, "fisher": Fisher}


def curvature_of(
    network: Network,
    inputs: Inputs,
    data: Dataset,
    likelihood: Likelihood,
    kind: str,
    *,
    beta: float,
    batch: int | None,
) -> Curvature:
    """`β Σ ρ_i ∇²ℓ_i` at the network as it stands, or what stands for it; known noise of rows goes into their weights."""
    samples, known = samples_of(data), data.train.noise
    weights = samples.weights.double()
    if isinstance(likelihood, Gaussian) and known is not None:
        noise = likelihood.noise.detach().to(weights)
        weights = weights * noise / (noise + known.double())
    labels = torch.where(samples.given, samples.y, float(IGNORED))
    rows = Rows(inputs.of(samples.x.to(network.dtype)), labels, weights)
    return KINDS[kind](network, rows, likelihood=likelihood, batch_size=batch, beta=beta)


__all__ = ["KINDS", "curvature_of"]
