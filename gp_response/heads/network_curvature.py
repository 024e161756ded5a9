"""The curvature of a data set's loss in a network's parameters, as a model's likelihood and weights make it."""

from gp_response.curvature import GGN, Curvature, Fisher, Hessian, Network
from gp_response.curvature.rows import Rows
from gp_response.data import Dataset
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
    train = data.train
    weights = train.weights.double()
    if isinstance(likelihood, Gaussian) and train.noise is not None:
        noise = likelihood.noise.detach().to(weights)
        weights = weights * noise / (noise + train.noise.double())
    rows = Rows(inputs.of(train.x.to(network.dtype)), train.y, weights)
    return KINDS[kind](network, rows, likelihood=likelihood, batch_size=batch, beta=beta)


__all__ = ["KINDS", "curvature_of"]
