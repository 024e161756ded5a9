"""The Gaussian around a network that its Laplace approximation is, as coordinates in which the posterior is nearly white."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gp_response.curvature import Curvature
from gp_response.linalg.lanczos import Lanczos


@dataclass(frozen=True, eq=False)
class Reference:
    """`θ = c + Λ₀^-½ (1 + U s Uᵀ)^-½ z` with z standard normal: the Laplace approximation where U s Uᵀ is the whitened curvature.

    Of part of the curvature's modes it is another Gaussian, which a sampler that refuses may use as well.

    Attributes:
        centre: c, (P,). root: Λ₀^½, (P,). vectors: U, orthonormal, (P, k). values: s ≥ 0, (k,).
        products: with the curvature, spent to find them.
    """

    centre: Tensor
    root: Tensor
    vectors: Tensor
    values: Tensor
    products: int

    def place(self, z: Tensor) -> Tensor:
        """θ of z, (chains, P)."""
        return self.centre + self._scaled(z, (1.0 + self.values).rsqrt()) / self.root

    def white(self, theta: Tensor) -> Tensor:
        """z of θ, (chains, P)."""
        return self._scaled((theta - self.centre) * self.root, (1.0 + self.values).sqrt())

    def pull(self, force: Tensor) -> Tensor:
        """A gradient in θ as one in z, (chains, P)."""
        return self._scaled(force / self.root, (1.0 + self.values).rsqrt())

    def around(self, centre: Tensor) -> "Reference":
        return Reference(centre, self.root, self.vectors, self.values, self.products)

    def _scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """x with its parts along U multiplied."""
        return x + ((x @ self.vectors) * (factors - 1.0)) @ self.vectors.T


def reference(curvature: Curvature, precision: Tensor, centre: Tensor, *, rank: int) -> Reference:
    """From at most `rank` products with the curvature (P, P); precision: Λ₀ > 0, (P,).

    Lanczos' space ends early where the curvature has fewer distinct eigenvalues, and is then all there is to know.
    """
    root = precision.double().sqrt()
    start = torch.randn(len(root), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        return curvature.matmat((v / root[:, None]).to(precision.dtype)).double() / root[:, None]

    space = Lanczos(product, start.to(root.device), most=rank)
    while not space.exhausted:
        space.step()
    k, (values, turn) = space.steps, (part[0] for part in space.ritz())
    vectors = space.basis[0, :k].T @ turn
    return Reference(centre, root.to(precision), vectors.to(precision), values.clamp_min(0.0).to(precision), k)


__all__ = ["Reference", "reference"]
