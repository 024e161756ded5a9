"""The law of influence operators."""

import torch
from torch import Tensor

from gp_response.data import samples_of
from gp_response.posterior import Certified
from gp_response.response.influence.operator import Influence
from gp_response.response.observables import loss
from gp_response.response.perturbations import reweight
from gp_response.response.susceptibility import susceptibility
from gp_response.testing.report import assert_close

DEVIATIONS = 6.0  # of a sampled product that are chance


def check_influence(w: Influence, *, tolerance: float = 1e-6, seed: int = 0) -> None:
    """W is symmetric positive semi-definite, minus the response of the training losses to weights over β, and its products,
    rows and diagonal are those of the matrix within their own bounds.

    Args:
        w: of a posterior with Gaussian noise, of few enough rows for the matrix.
        tolerance: of symmetry and of the response, relative to the largest entry.
        seed: of the vectors multiplied.
    """
    dense, data, n = w.to_dense().double(), w.posterior.data, w.shape[0]
    assert_close("W = Wᵀ", dense, dense.T, tolerance=tolerance)
    lowest, scale = float(torch.linalg.eigvalsh(0.5 * (dense + dense.T))[0]), float(dense.abs().max())
    if lowest < -tolerance * scale * n:
        raise AssertionError(
            f"W is positive semi-definite: smallest eigenvalue {lowest:.3e}, largest entry {scale:.3g}"
        )
    samples = samples_of(data)
    losses = loss(samples.x, samples.y, noise=data.train.noise)
    response = -susceptibility(w.posterior, losses, reweight()).matrix.double() / w.posterior.beta
    assert_close("W = -dℓ/dρ / β", dense, response, tolerance=tolerance)
    vectors = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dense.device)
    found = w.product(vectors)
    product = Certified(found.value, found.error + DEVIATIONS * found.standard_error)
    slack = tolerance * scale
    _within("W v", product, dense @ vectors, slack * float(vectors.abs().sum(dim=0).max()))
    _within("rows of W", w.rows(range(n)), dense, slack)
    _within("the diagonal of W", w.variances(), dense.diagonal(), slack)


def _within(what: str, found: Certified, expected: Tensor, slack: float) -> None:
    """Raise AssertionError where a value is further from what is expected than its bound, and what both are rounded by, say."""
    off, error = (found.value.double() - expected).abs(), found.error.double()
    outside = ~(off <= error + slack)
    if bool(outside.any()):
        at = tuple(int(i) for i in torch.nonzero(outside)[0])
        raise AssertionError(
            f"{what} lie within their bounds: {int(outside.sum())} of {outside.numel()} do not, the first at {at}, off by "
            f"{float(off[at]):.2e} with a bound of {float(error[at]):.2e}"
        )


__all__ = ["check_influence"]
