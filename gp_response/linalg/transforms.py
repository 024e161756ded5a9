"""Whether a torch.func transform is at work."""

import torch


def inside_transform() -> bool:
    """Inside vmap, jvp and their kin values cannot be looked at and buffers not written; torch has no public test."""
    return torch._C._functorch.maybe_current_level() is not None


__all__ = ["inside_transform"]
