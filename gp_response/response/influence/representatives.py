"""A few samples that stand for all: the pivots of a greedy Cholesky factor of the influence matrix."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.arguments import as_integer


class Representatives(NamedTuple):
    """Rows that stand for all, and what they leave unexplained.

    Attributes:
        rows: (k,) training rows, in the order chosen; fewer where nothing is left.
        left: (k,), the share of the trace of W that none of the first 1 … k explains: mean conditional variance of the losses
            given those of the chosen samples, as Gaussian variables, in units of their mean variance.
        conditional: (n,), of each sample in nat², at the end.
    """

    rows: Tensor
    left: Tensor
    conditional: Tensor


def representatives(operator: Any, k: int) -> Representatives:
    """Always the sample whose loss the chosen ones say least about (pivoted Cholesky, Harbrecht, Peters & Schneider 2012).

    One row of W each, a solve where S is not kept.
    """
    n = operator.n
    k = as_integer(k, "representatives's k", f"an integer from 1 to {n}", least=1, most=n)
    with torch.no_grad():
        rest = operator._variances().value
        total = float(rest.sum())
        chosen: list[int] = []
        left: list[float] = []
        factor = rest.new_zeros(k, n)
        floor = 1e-12 * float(rest.max())
        while len(chosen) < k and float(rest.max()) > floor:
            pivot = int(rest.argmax())
            row = operator._rows(torch.tensor([pivot], device=rest.device)).value[0]
            row = row - factor[: len(chosen), pivot] @ factor[: len(chosen)]
            if float(row[pivot]) <= floor:  # a variance that is only enclosed may promise more than the row has
                rest[pivot] = 0.0
                continue
            factor[len(chosen)] = row / row[pivot].sqrt()
            rest = (rest - factor[len(chosen)].square()).clamp_min(0.0)
            rest[pivot] = 0.0
            chosen.append(pivot)
            left.append(float(rest.sum()) / total)
        kept = torch.tensor(left, dtype=operator.dtype, device=rest.device)
        return Representatives(torch.tensor(chosen, device=rest.device), kept, rest.to(operator.dtype))


__all__ = ["Representatives", "representatives"]
