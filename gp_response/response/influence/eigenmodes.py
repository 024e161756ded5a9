"""Leading eigenpairs of the influence matrix: groups of samples whose losses move together."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.arguments import as_integer
from gp_response.linalg.ritz import leading
from gp_response.posterior import Certified, rounded

BLOCK = 4  # vectors a product: a solve for few costs hardly more than for one


class Eigenmodes(NamedTuple):
    """The k leading pairs `W u = λ u`.

    Attributes:
        values: (k,), descending, in nat². error: (k,), within which an eigenvalue of W lies: residual and error of the product.
        vectors: (n, k), orthonormal.
        residual: (k,), measured `‖W u - λ u‖`.
        standard_error: (k,), norms of the standard errors of `W u` where the operator is sampled, else zero; not in `error`.
        share: (k,), of the trace of W.
        products: vectors that W was multiplied with.
    """

    values: Tensor
    error: Tensor
    vectors: Tensor
    residual: Tensor
    standard_error: Tensor
    share: Tensor
    products: int


def eigenmodes(operator: Any, k: int, *, tolerance: float, most: int, seed: int, centred: bool = False) -> Eigenmodes:
    """The k leading eigenpairs of W, or of `C W C` with `C = 1 - 11ᵀ/n` when centred.

    A symmetric W has an eigenvalue within `‖W u - λ u‖ / ‖u‖` of every λ (Parlett 1998, theorem 4.5.1).

    Args:
        tolerance: on residuals, in units of the largest eigenvalue.
        most: directions searched.
    """
    n = operator.n
    k = as_integer(k, "eigenmodes's k", f"an integer from 1 to {n}", least=1, most=n)

    def clean(v: Tensor) -> Tensor:
        return v - v.mean(dim=0) if centred else v

    with torch.no_grad():
        start = torch.randn(n, min(n, BLOCK), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        start = clean(start.to(operator.force.device))
        found = leading(
            lambda v: clean(operator.product(clean(v), bounded=False).value), start, k, tolerance=tolerance, most=most
        )
        # The mean of an error is no larger in norm than the error.
        image = operator.product(clean(found.vectors))
        residual = (clean(image.value) - found.vectors * found.values).norm(dim=0)
        error = residual + image.error.norm(dim=0)
        trace = operator._variances().value.sum()
        if centred:
            ones = torch.ones(n, 1, dtype=torch.float64, device=trace.device)
            trace = trace - operator.product(ones, bounded=False).value.mean()
        values, error = rounded(Certified(found.values, error), operator.dtype)
        rest = (found.vectors, residual, image.standard_error.norm(dim=0), found.values / trace)
        vectors, residual, spread, share = (part.to(operator.dtype) for part in rest)
        return Eigenmodes(values, error, vectors, residual, spread, share, found.products)


__all__ = ["Eigenmodes", "eigenmodes"]
