"""Kernel principal components: samples drawn where their losses' fluctuations put them (Schölkopf, Smola & Müller 1998)."""

from typing import Any, NamedTuple

from torch import Tensor

from gp_response.response.influence.eigenmodes import eigenmodes


class Components(NamedTuple):
    """Coordinates of the n samples.

    Attributes:
        coordinates: (n, k), `√λ u` of the centred W: their inner products are the best approximation of rank k to it.
        values: (k,) eigenvalues in nat², and error: (k,), within which an eigenvalue of the centred W lies.
        share: (k,), of the centred trace.
        residual: (k,), measured norms of the pairs.
    """

    coordinates: Tensor
    values: Tensor
    error: Tensor
    share: Tensor
    residual: Tensor


def components(operator: Any, k: int, *, tolerance: float, most: int, seed: int) -> Components:
    """The k leading components. The sign of each is such that its largest coordinate in size is positive."""
    found = eigenmodes(operator, k, tolerance=tolerance, most=most, seed=seed, centred=True)
    peak = found.vectors.gather(0, found.vectors.abs().argmax(dim=0, keepdim=True)).sign()
    coordinates = found.vectors * peak * found.values.clamp_min(0.0).sqrt()
    return Components(coordinates, found.values, found.error, found.share, found.residual)


__all__ = ["Components", "components"]
