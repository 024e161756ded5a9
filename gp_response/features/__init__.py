"""Features for `kernel.on(features)`: torch modules from points to points. Any will do; chain with nn.Sequential."""

from gp_response.features.encoder import Encoder
from gp_response.features.identity import Identity
from gp_response.features.mlp import MLP
from gp_response.features.spectral import SpectralResNet
from gp_response.features.unit_box import UnitBox

__all__ = ["MLP", "Encoder", "Identity", "SpectralResNet", "UnitBox"]
