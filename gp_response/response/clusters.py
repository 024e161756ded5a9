"""Groups of samples that move the same things the same way."""

from typing import Any, NamedTuple

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from gp_response.arguments import as_integer
from gp_response.errors import InputError
from gp_response.response.influence import Influence
from gp_response.response.result import Susceptibility

STARTS = 10


class Clusters(NamedTuple):
    """k groups, the largest first.

    Attributes:
        labels: (n,), the group of each sample.
        sizes: (k,).
        centres: (k, q), mean directions of the groups.
        explained: share of the directions' scatter that lies between the groups.
    """

    labels: Tensor
    sizes: Tensor
    centres: Tensor
    explained: float


def cluster(responses: Susceptibility | Influence, k: int, *, components: int = 8, seed: int = 0) -> Clusters:
    """Samples grouped by the direction of their responses (k-means of unit vectors, the best of ten seeded starts).

    Args:
        responses: a first-order response (m, n), whose columns are centred (the mean response of all samples taken off) and
            made unit vectors; or an influence operator, by whose kernel principal components the samples are placed.
        k: groups, at most the number of samples.
        components: of an influence operator.
        seed: of the starts; equal seeds give equal groups.
    """
    points = _directions(_placed(responses, components))
    k = as_integer(k, "cluster's k", f"an integer from 1 to {len(points)}", least=1, most=len(points))
    found = KMeans(k, n_init=STARTS, random_state=seed).fit(points.cpu().numpy())
    labels = torch.as_tensor(found.labels_, dtype=torch.long)
    order = torch.bincount(labels, minlength=k).argsort(descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(k)
    labels = place[labels]
    scatter = float((points - points.mean(dim=0)).square().sum())
    explained = 1.0 - float(found.inertia_) / scatter if scatter > 0 else 1.0
    centres = torch.as_tensor(found.cluster_centers_, dtype=torch.float64)[order]
    device = points.device
    return Clusters(labels.to(device), torch.bincount(labels, minlength=k).to(device), centres.to(device), explained)


def _placed(responses: Any, components: int) -> Tensor:
    """One row a sample, (n, q)."""
    if isinstance(responses, Influence):
        n = responses.shape[0]
        components = as_integer(components, "cluster's components", "an integer of 1 or more", least=1)
        return responses.components(min(components, n)).coordinates.double()
    if not isinstance(responses, Susceptibility):
        raise InputError(
            f"cluster got a {type(responses).__name__}; expected a susceptibility or gr.influence(posterior)"
        )
    if not bool(torch.isfinite(responses.matrix).all()):
        raise InputError("cluster got responses that are NaN or inf; see chi.flagged")
    points = responses.matrix.double().T
    return points - points.mean(dim=0)


def _directions(points: Tensor) -> Tensor:
    length = points.norm(dim=1, keepdim=True)
    still = length <= 1e-12 * length.max()  # what moves nothing has no direction
    return torch.where(still, torch.zeros_like(points), points / torch.where(still, torch.ones_like(length), length))


__all__ = ["Clusters", "cluster"]
