"""How much memory a row takes while it is differentiated."""

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from gp_response.curvature.network import Network


def activation_bytes(net: Network, x: Tensor) -> int:
    """Bytes that the backward pass of one row keeps, parameters not counted."""
    at = {name: part.detach().requires_grad_() for name, part in net.parts.items()}
    own = {part.untyped_storage().data_ptr() for part in at.values()}
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(note, lambda t: t), torch.enable_grad():
        output = net.at(at, x[:1])
    return sum(kept.values()) + output.numel() * output.element_size()


__all__ = ["activation_bytes"]
