"""Sums over the training rows of products of inducing features, with a gradient written by hand.

With `Φ = L⁻¹ K(Z, x)`, `G = Φ W Φᵀ` and `b = Φ W t`, a gradient H by G (made symmetric) and h by b gives

    Φ̄ = (2 H Φ + h tᵀ) W,    K̄ = L⁻ᵀ Φ̄,    L̄ = -tril(L⁻ᵀ Φ̄ Φᵀ) = -tril(L⁻ᵀ (2 H G + h bᵀ)),    ⟨K̄, K⟩ = 2 ⟨H, G⟩ + hᵀb:

of the two passes of n m² that a tape would make of K̄ and the two of L̄ one is left, and a block of rows is all that is held
beside Φ.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gp_response.heads.basis import Basis
from gp_response.kernels.blocked import block_matrix
from gp_response.kernels.casting import call_in_dtype_of, call_with, state
from gp_response.kernels.gradients import add_crossed_gradients
from gp_response.kernels.points import Coordinates, each, leaves, length, take
from gp_response.linalg.memory import free_bytes
from gp_response.linalg.transforms import inside_transform

ROWS = 2048  # whose features are made, and differentiated, at a time
STRIP = 256  # columns of G made at a time: what lies below its diagonal is not computed
SHARE = 0.25  # of the free memory may go into features kept for the gradient


class Moments(NamedTuple):
    """`gram` Φ W Φᵀ (m, m) and `pulled` Φ W t (m,)."""

    gram: Tensor
    pulled: Tensor


def feature_moments(basis: Basis, x: Tensor, weight: Tensor, target: Tensor) -> Moments:
    """Moments of the features of x (n, d) under weights W (n,) and of targets t (n,), in float64.

    Once differentiable in the kernel, its features, the points, the weights and the targets; under torch.func transforms, and
    for kernels in batches, by a tape instead.
    """
    if inside_transform() or len(basis.kernel.batch_shape):
        features = basis.at(x)
        return Moments((features * weight) @ features.T, features @ (weight * target))
    z = basis.z(x)
    return Moments(*call_in_dtype_of(z, basis.kernel, _moments, basis.points, z, basis.lower, weight, target))


def _moments(kernel: Any, points: Tensor, z: Tensor, lower: Tensor, weight: Tensor, target: Tensor) -> Any:
    nests = tuple(kernel.coordinates(kernel.select(part)) for part in (points, z))
    own = state(kernel)
    shape = each(lambda _: None, nests)
    return _Moments.apply(kernel, list(own), shape, lower, weight, target, *leaves(nests), *own.values())


class _Moments(torch.autograd.Function):
    """The kernel's own tensors are inputs, as they were at the forward pass; see `recompute`."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Any, names: list[str], nests: Coordinates, lower: Tensor, weight: Tensor, target: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.kernel, ctx.names, ctx.nests, ctx.kept = kernel, names, nests, []
        seen = _Seen(kernel, names, nests, tensors, lower)
        keeps = any(ctx.needs_input_grad) and seen.bytes <= SHARE * (free_bytes(lower.device) or 2**32)
        gram, pulled = torch.zeros_like(lower), lower.new_zeros(len(lower))
        for rows in seen.rows():
            features = seen.features(rows)
            _add_gram(gram, features, features * weight[rows])
            pulled += features @ (weight[rows] * target[rows])
            ctx.kept.append(features if keeps else None)
        gram = gram.triu() + gram.triu(1).T
        ctx.save_for_backward(gram, pulled, lower, weight, target, *tensors)
        return gram, pulled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_gram: Tensor, to_pulled: Tensor) -> tuple[Any, ...]:
        gram, pulled, lower, weight, target, *tensors = ctx.saved_tensors
        wanted = dict(zip(("lower", "weight", "target"), ctx.needs_input_grad[3:6], strict=True))
        seen = _Seen(ctx.kernel, ctx.names, ctx.nests, [t.detach() for t in tensors], lower)
        twice = to_gram + to_gram.T
        value = (twice * gram).sum() + to_pulled.dot(pulled)
        into = seen.sums(ctx.needs_input_grad[6:])
        core, force = (torch.linalg.solve_triangular(lower.T, t, upper=True) for t in (twice, to_pulled[:, None]))
        to_weight, to_target = torch.zeros_like(weight), torch.zeros_like(target)
        for rows, kept in zip(seen.rows(), ctx.kept, strict=True):
            features = seen.features(rows) if kept is None else kept
            along = features.T @ to_pulled
            to_target[rows] = weight[rows] * along
            if wanted["weight"]:
                to_weight[rows] = 0.5 * (features * (twice @ features)).sum(dim=0) + target[rows] * along
            if into.any:
                entries = torch.addmm(force * target[rows], core, features).mul_(weight[rows])
                seen.add(rows, entries, value, into)
                value = torch.zeros_like(value)  # of all rows: it counts once
        to_lower = torch.addmm(force * pulled, core, gram).tril_().neg_() if wanted["lower"] else None
        return (
            None, None, None, to_lower, to_weight if wanted["weight"] else None, to_target if wanted["target"] else None,
            *into.found(),
        )  # fmt: skip


def _add_gram(gram: Tensor, features: Tensor, weighted: Tensor) -> None:
    """Add Φ W Φᵀ on and above the diagonal, strip by strip."""
    for start in range(0, len(gram), STRIP):
        at = slice(start, min(start + STRIP, len(gram)))
        gram[: at.stop, at].addmm_(weighted[: at.stop], features[at].T)


class _Sums:
    """Gradients of coordinates and of the kernel's tensors, None where nobody wants one."""

    def __init__(self, points: list[Tensor], own: list[Tensor], wanted: Any):
        zeros = [torch.zeros_like(t) if w else None for t, w in zip([*points, *own], wanted, strict=True)]
        self.points, self.own = zeros[: len(points)], zeros[len(points) :]
        self.any = any(t is not None for t in zeros)

    def found(self) -> list[Tensor | None]:
        return [*self.points, *self.own]


class _Seen:
    """Coordinates of points and rows, and the kernel's tensors, as the forward pass had them."""

    def __init__(self, kernel: Any, names: list[str], nests: Coordinates, tensors: Any, lower: Tensor):
        self.kernel, self.lower = kernel, lower
        items = iter(tensors)
        self.points, self.all = each(lambda _: next(items), nests)
        self.own = dict(zip(names, items, strict=True))
        self.bytes = 8 * len(lower) * length(self.all)

    def rows(self) -> Iterator[slice]:
        n = length(self.all)
        return (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))

    def features(self, rows: slice) -> Tensor:
        """Φ of some rows, (m, b)."""
        made = call_with(self.kernel, self.own, _exact_matrix, self.points, take(self.all, rows))
        return torch.linalg.solve_triangular(self.lower, made, upper=False)

    def sums(self, wanted: Any) -> _Sums:
        return _Sums([*leaves(self.points), *leaves(self.all)], list(self.own.values()), wanted)

    def add(self, rows: slice, entries: Tensor, value: Tensor, into: _Sums) -> None:
        """Add what the derivative by K(Z, x) of some rows contributes; `value` is ⟨K̄, K⟩."""
        count = len(leaves(self.points))
        to_points = [*into.points[:count], *(t if t is None else t[rows] for t in into.points[count:])]
        tracked = {k: t.requires_grad_(s is not None) for (k, t), s in zip(self.own.items(), into.own, strict=True)}
        call_with(
            self.kernel, tracked, add_crossed_gradients, self.points, take(self.all, rows), entries, value, to_points, into.own
        )  # fmt: skip


def _exact_matrix(kernel: Any, cx: Coordinates, cy: Coordinates) -> Tensor:
    return block_matrix(kernel, cx, cy, torch.float64, exact=True)


__all__ = ["Moments", "feature_moments"]
