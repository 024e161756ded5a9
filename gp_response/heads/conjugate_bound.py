"""A lower bound of the log evidence that a conjugate-gradient solution tightens.

Artemev, Burt & van der Wilk 2021, "Tighter bounds on the log marginal likelihood of Gaussian process regression using conjugate
gradients". With A = K + S, sites' variances `S = σ²/(βρ)`, `Q <= K` through inducing points, targets r, any v and `e = r - A v`,

    rᵀA⁻¹r  <=  2 vᵀr - vᵀA v + eᵀ(Q + S)⁻¹e,            with equality for A v = r, and off by at most eᵀ(Q + S)⁻¹e,
    log det (1 + S^-½ K S^-½)  <=  log det C + n log (1 + t/n),    C = 1 + S^-½ Q S^-½,    t = tr S^-½ (K - Q) S^-½.

Titsias' bound has v = 0 and t in the place of the logarithm. v is found by conjugate gradients on the exact kernel, with
Q + S as the preconditioner, whose norm of the residual is the last term; it starts from the v of the last step.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.heads.collapsed_bound import collapsed, residual_of_mean
from gp_response.heads.whitening import Whitening, whiten
from gp_response.kernels.symmetric import symmetric_product
from gp_response.kernels.system import KernelSystem
from gp_response.linalg.block_cg import Goal, block_cg
from gp_response.linalg.preconditioner import Preconditioner

SLACK = 0.1  # nats that the quadratic term may be off by; at 1 its gradient was rough enough to end L-BFGS early on 26,666 rows
FEW = 4000  # rows up to which products in float64 cost nothing worth saving
# Largest movement of eigenvalues by float32 entries, against the smallest (see `stochastic`): of products whose residuals are
# looked at in float64, and of gradients, which nothing looks at.
SOLVED, DIFFERENTIATED = 3.0, 0.3
REACHED = 0.7  # of the norm allowed, where the last cycle is to stop
FALL = 1e-2  # of the residual, in one cycle
SLOW = 0.5


class Solved(NamedTuple):
    """v, and `A v` in float64, (n,) each, and the products that v took."""

    value: Tensor
    image: Tensor
    products: int


class ConjugateBound:
    """The bound of a head on all rows; remembers v from call to call.

    Args:
        slack: nats by which the quadratic term may be below its best.
        limit: most products for one v; where they do not suffice the bound is lower, and a bound still.
        precision: "auto", "float32" or "float64", of the products; residuals are in float64.
    """

    def __init__(self, *, slack: float = SLACK, limit: int = 200, precision: str = "auto"):
        self.slack, self.limit, self.precision = slack, limit, precision
        self.products = 0
        self._value: Tensor | None = None

    def __call__(self, head: Any, data: Dataset) -> Tensor:
        """The bound, 0-dim, once differentiable in hyperparameters and points."""
        noise = row_noise(data, head.noise.to(data.train.x.device)).double()
        target = residual_of_mean(head, data)
        with torch.no_grad():
            found = self._solve(
                head, data, target, whiten(data, noise, head.beta), self._dtype(head, data, noise, SOLVED)
            )
        self._value, self.products = found.value, found.products
        spread = _spread(data, noise, head.beta)
        dtype = self._dtype(head, data, noise, DIFFERENTIATED)
        image = _with_gradient(found, head.kernel, data.train.x, spread, dtype)
        parts = collapsed(head, data, target - image)
        n = int((data.train.weights > 0).sum())
        quadratic = 2.0 * found.value.dot(target) - found.value.dot(image) + parts.quadratic
        logdet = parts.logdet + n * (parts.left_out.clamp_min(0.0) / n).log1p()
        return -0.5 * (quadratic + logdet + parts.gibbs)

    def _solve(self, head: Any, data: Dataset, target: Tensor, white: Whitening, dtype: torch.dtype) -> Solved:
        """In cycles, each on the residual in float64 of those before: products in float32 lose it on the way."""
        system = KernelSystem(head.kernel, data.train.x.double(), white.scale, white.shift)
        rhs = (white.scale * target)[:, None]
        seen = white.scale > 0
        # In the whitened form v = p x; where nothing is seen there is nothing to find.
        value, products = torch.zeros_like(rhs), 0
        if self._value is not None and self._value.shape == target.shape:
            value[seen, 0] = (self._value.to(target) / white.scale)[seen]
        preconditioner = self._prepared(head, data, white)
        allowed = (2.0 * self.slack) ** 0.5
        left = system.residual(rhs, value)
        size = float(preconditioner.whiten(left).norm())
        while size > allowed and products < self.limit:
            cycle = block_cg(
                system.product, preconditioner, left, Goal.none(rhs), floor=max(FALL, REACHED * allowed / size),
                limit=self.limit - products, precision=dtype,
            )  # fmt: skip
            products += cycle.iterations
            other = value + cycle.value
            rest = system.residual(rhs, other)
            now = float(preconditioner.whiten(rest).norm())
            if now < size:
                value, left = other, rest
            if now > SLOW * size:  # the precision gives no more
                if dtype == torch.float64:
                    break
                dtype = torch.float64
            size = min(size, now)
        return Solved(white.scale * value[:, 0], torch.where(seen, target - left[:, 0] / white.scale, target), products)

    def _prepared(self, head: Any, data: Dataset, white: Whitening) -> Preconditioner:
        """`Q + S`, scaled. Of these very hyperparameters and points: the norm of another one allows slacks of its own."""
        basis = head.basis(frozen=True)
        rows = basis.at(data.train.x) * white.scale
        rest = white.scale**2 * basis.diagonal(data.train.x) - rows.square().sum(dim=0)
        none = torch.zeros(0, dtype=torch.long, device=rows.device)
        return Preconditioner(rows, white.shift, below=True, pivots=none, left=float(rest.sum()))

    def _dtype(self, head: Any, data: Dataset, noise: Tensor, most: float) -> torch.dtype:
        if self.precision != "auto":
            return getattr(torch, self.precision)
        x, n = data.train.x[:1000].double(), len(data.train)
        ratio = float(head.kernel.diagonal(x).max()) * head.beta * float(data.train.weights.max()) / float(noise.min())
        moved = 4 * torch.finfo(torch.float32).eps * ratio * n**0.5
        return torch.float32 if n > FEW and moved < most else torch.float64


def _spread(data: Dataset, noise: Tensor, beta: float) -> Tensor:
    """S of every row, differentiable in the noise; of rows that are not seen, that of weight one."""
    weights = data.train.weights.double()
    return noise / (beta * torch.where(weights > 0, weights, torch.ones_like(weights)))


def _with_gradient(found: Solved, kernel: Any, x: Tensor, spread: Tensor, dtype: torch.dtype) -> Tensor:
    """`A v`, its value in float64 and its gradient by products in `dtype`."""
    image = symmetric_product(kernel, x.to(dtype), found.value[:, None].to(dtype))[:, 0].double() + spread * found.value
    return found.image + (image - image.detach())


__all__ = ["ConjugateBound"]
