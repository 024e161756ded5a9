"""Features that are the points themselves."""

from torch import Tensor, nn


class Identity(nn.Module):
    """x -> x, the features that change nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x


__all__ = ["Identity"]
