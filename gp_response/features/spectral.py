"""A residual network that keeps distances: deep kernels whose points cannot collapse onto one another."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from gp_response.errors import InputError, unknown_name
from gp_response.features.mlp import ACTIVATIONS, linear

# Largest slopes; those of silu and gelu are found where their second derivative is zero.
SLOPES = {"tanh": 1.0, "relu": 1.0, "silu": 1.0998394, "gelu": 1.1289042}
SQUARINGS = 10  # leaves the norm of a matrix of rank r at most a factor r^(1/2048) too large: 0.3 % for r = 512


class SpectralResNet(nn.Module):
    """dim -> width, then `depth` blocks x + g(x) with g of Lipschitz constant at most `bound`, then perhaps -> out.

    The features of deterministic uncertainty estimation (van Amersfoort et al. 2021, "On feature collapse and deep kernel
    learning for single forward pass uncertainty"; Liu et al. 2020). A block stretches every distance by a factor between
    1 - bound and 1 + bound, so with width >= dim and without `out` no two points become one; `distortion()` says by how
    much distances can change.

    Spectral norms come from repeated squaring of WᵀW (Gram iteration, Delattre et al. 2023), a power iteration of all
    vectors at once: never too small, without a state to update and smooth in W. So the features are a function of
    points and weights alone, in training and evaluation, and there is no dropout.

    Args:
        dim: columns of the points.
        width: columns inside, and of the features where there is no `out`.
        depth: blocks; 0 leaves the first layer alone.
        out: columns of the features after a last linear layer, whose norm is free. None: no such layer.
        bound: of the first layer's norm and of each block's Lipschitz constant, in (0, 1).
        activation: "tanh" (default), "relu", "silu" or "gelu".
        seed: of the initial weights, drawn from a generator of its own.

    Weights are float64. Raises InputError for arguments outside these.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        *,
        out: int | None = None,
        bound: float = 0.95,
        activation: str = "tanh",
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = [dim, width, *([] if out is None else [out])]
        if not all(isinstance(s, int) and s > 0 for s in sizes) or not isinstance(depth, int) or depth < 0:
            got = f"dim={dim!r}, width={width!r}, depth={depth!r}, out={out!r}"
            raise InputError(f"SpectralResNet({got}): expected positive integers, e.g. SpectralResNet(8, 64, 4)")
        if not 0.0 < bound < 1.0:
            raise InputError(f"bound={bound!r}; expected a number between 0 and 1, such as 0.95")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        generator = torch.Generator().manual_seed(seed)
        self.bound, self.activation = bound, ACTIVATIONS[activation]()
        self._block_bound = bound / SLOPES[activation]
        self.first = linear(dim, width, generator)
        self.residuals = nn.ModuleList(linear(width, width, generator) for _ in range(depth))
        self.last = None if out is None else linear(width, out, generator)

    def forward(self, x: Tensor) -> Tensor:
        z = functional.linear(x, bounded(self.first.weight, self.bound), self.first.bias)
        for layer in self.residuals:
            weight = bounded(layer.weight, self._block_bound)  # type: ignore[arg-type]
            z = z + self.activation(functional.linear(z, weight, layer.bias))  # type: ignore[arg-type]
        return z if self.last is None else self.last(z)

    @torch.no_grad()
    def distortion(self) -> tuple[float, float]:
        """Factors (low, high) with low |x - y| <= |f(x) - f(y)| <= high |x - y| for all points, at the present weights."""
        ends = [bounded(self.first.weight, self.bound), *([] if self.last is None else [self.last.weight])]
        low, high = 1.0, 1.0
        for weight in ends:
            values = torch.linalg.svdvals(weight)
            low *= float(values[-1]) if weight.shape[0] >= weight.shape[1] else 0.0
            high *= float(values[0])
        slope = self.bound / self._block_bound
        for layer in self.residuals:
            size = slope * float(spectral_norm(bounded(layer.weight, self._block_bound)))  # type: ignore[arg-type]
            low, high = low * max(0.0, 1.0 - size), high * (1.0 + size)
        return low, high


def bounded(weight: Tensor, bound: float) -> Tensor:
    """The matrix, made smaller where its spectral norm is above the bound."""
    return weight * (bound / spectral_norm(weight)).clamp_max(1.0)


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value, 0-dim, from above by less than a factor r^(1/2048) for rank r; differentiable.

    `‖(WᵀW)^(2^k)‖_F^(1/2^(k+1))` is a Schatten norm, at least the spectral one, and closer with every squaring.
    """
    gram = weight.mT @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.mT
    tiny = torch.finfo(weight.dtype).tiny
    # Sizes are divided out before each squaring, which would otherwise over- or underflow, and collected as a logarithm.
    log_norm, power = torch.zeros((), dtype=weight.dtype, device=weight.device), 0.5
    for k in range(SQUARINGS + 1):
        size = gram.square().sum().clamp_min(tiny).sqrt()
        log_norm = log_norm + power * size.log()
        if k < SQUARINGS:
            gram = gram / size
            gram, power = gram @ gram, 0.5 * power
    return log_norm.exp()


__all__ = ["SpectralResNet"]
