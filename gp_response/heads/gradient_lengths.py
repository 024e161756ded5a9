"""Lengths of the gradients of every output at every row, which bounds on errors are made of: as few sweeps as there are.

A row is passed forward once for all of its outputs, whose cotangents are then pulled back together, and of gradients nothing is
kept but their lengths. Where a row has more outputs than there are parameters, directions are pushed forward instead.
"""

import torch
from torch import Tensor
from torch.func import vjp, vmap

from gp_response.heads.tangent_map import TangentMap
from gp_response.linalg.blocks import block_size

PUSHES = 2  # of a direction forward cost no more than one pull back, which also makes gradients of weights
COPIES = 3  # of a gradient while it is made, and of a row's outputs moved


def gradient_lengths(tangent: TangentMap, x: Tensor, root: Tensor, *, room: int, batch: int) -> Tensor:
    """`‖Λ₀^-½ ∇f_c(x_i)‖` of rows x (n, d) and their C outputs, (n, C) float64.

    Args:
        root: Λ₀^½, 0-dim or (P,) float64.
        room: bytes to work in. batch: rows swept together at most.
    """
    if tangent.reversed_rows(x[:1]):
        squares = [_pulled(tangent, row[None], root) for row in x]
    elif tangent.count <= PUSHES * tangent.outputs:
        squares = [_pushed(tangent, some, root, room) for some in x.split(batch)]
    else:
        squares = _all_pulled(tangent, x, root, room, batch)
    return torch.cat(squares).sqrt()


def _all_pulled(tangent: TangentMap, x: Tensor, root: Tensor, room: int, batch: int) -> list[Tensor]:
    """Squared lengths of some rows after the other, by one forward pass a row."""
    most = block_size(COPIES * 8 * tangent.count, room, most=batch * tangent.outputs)
    rows, together = max(1, most // tangent.outputs), min(most, tangent.outputs)
    network, inputs = tangent.network, tangent.inputs.of(x.to(tangent.network.dtype))
    roots = network.tree(root.expand(network.count))
    every = torch.eye(tangent.outputs, dtype=network.dtype, device=network.device)

    def one(row: Tensor) -> Tensor:
        pull = vjp(lambda parts: network.at(parts, row[None]).flatten(), network.parts)[1]

        def square(u: Tensor) -> Tensor:
            parts = pull(u)[0]
            return torch.stack([(part.double() / roots[name]).square().sum() for name, part in parts.items()]).sum()

        return vmap(square, chunk_size=together)(every)

    return [vmap(one)(some) for some in inputs.split(rows)]


def _pulled(tangent: TangentMap, row: Tensor, root: Tensor) -> Tensor:
    """The same of one row (1, d) where torch.func cannot transform the network, (1, C)."""
    every = torch.eye(tangent.outputs, dtype=torch.float64, device=row.device)
    return torch.cat([
        (tangent.pull(row, some[None]).double() / (root if root.ndim == 0 else root[:, None])).square().sum(dim=0)
        for some in every.split(64, dim=1)
    ])[None]  # fmt: skip


def _pushed(tangent: TangentMap, x: Tensor, root: Tensor, room: int) -> Tensor:
    """The same of some rows by forward mode, (b, C)."""
    total = torch.zeros(len(x), tangent.outputs, dtype=torch.float64, device=x.device)
    step = block_size(COPIES * 8 * len(x) * tangent.outputs, room, most=tangent.count)
    roots = root.expand(tangent.count)
    for some in torch.arange(tangent.count, device=x.device).split(step):
        unit = torch.zeros(tangent.count, len(some), dtype=torch.float64, device=x.device)
        unit[some, torch.arange(len(some), device=x.device)] = 1.0 / roots[some]
        total += tangent.push(x, unit).double().square().sum(dim=-1)
    return total


__all__ = ["gradient_lengths"]
