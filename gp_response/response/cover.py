"""Which ends of pairs to solve for, so that every pair has one: few vertices that touch all edges of a graph."""

import torch
from torch import Tensor


def cover(pairs: Tensor, count: int) -> Tensor:
    """Vertices (k,), sorted, at least one of every pair of pairs (q, 2), out of `count`: the busiest one first, greedily."""
    left = pairs.clone()
    chosen: list[Tensor] = []
    while len(left):
        # A pair of one vertex with itself leaves no choice: twice in the count.
        busiest = torch.bincount(left.flatten(), minlength=count).argmax()
        chosen.append(busiest)
        left = left[(left != busiest).all(dim=1)]
    return torch.stack(chosen).sort().values


__all__ = ["cover"]
