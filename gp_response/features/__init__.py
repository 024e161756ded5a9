"""Features: torch modules from points to points, for `kernel.on(features)`. Any nn.Module works; chain with nn.Sequential."""

from .identity import Identity
from .mlp import MLP
from .unit_box import UnitBox

__all__ = ["MLP", "Identity", "UnitBox"]
