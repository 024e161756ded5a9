"""A fully connected network."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gp_response.errors import InputError, unknown_name

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


class MLP(nn.Module):
    """in_dim -> widths[0] -> ... -> widths[-1], an activation between layers and none after the last.

    Weights are float64, uniform in ±√(6 / (fan in + fan out)) (Glorot & Bengio 2010), biases 0.

    Args:
        in_dim: columns of the rows that come in.
        widths: output size of every layer; the last one is the dimension of the features.
        activation: "tanh" (default), "relu", "silu" or "gelu". Smooth by default: the response of a refitted model is a
            derivative of the features, and a kink makes it jump.
        seed: of the initial weights, drawn from a generator of its own; the global random state is left alone.

    Raises:
        InputError: sizes that are not positive integers, unknown activations.
    """

    def __init__(self, in_dim: int, widths: Sequence[int], *, activation: str = "tanh", seed: int = 0) -> None:
        super().__init__()
        sizes = [in_dim, *widths] if isinstance(widths, Sequence) else []
        if len(sizes) < 2 or not all(isinstance(s, int) and s > 0 for s in sizes):
            raise InputError(f"MLP sizes are {in_dim!r}, {widths!r}; give positive integers, e.g. MLP(8, [64, 64, 4])")
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [linear(fan_in, fan_out, generator), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with float64 weights of Glorot & Bengio 2010, and biases 0."""
    # skip_init: nn.Linear's own initialisation would draw from the global random state.
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.zero_()
    return layer


__all__ = ["MLP"]
