"""gpytorch's own kernels among ours."""

from typing import Any

import gpytorch
import torch
from linear_operator import to_dense
from torch import Tensor

from gp_response.errors import InputError
from gp_response.kernels.base import Kernel


class Foreign(Kernel, operation="foreign"):
    """Any gpytorch kernel as one of ours: dense evaluation through its own code, no KeOps.

    Many of gpytorch's kernels cannot be differentiated by torch.func; InputError says so.
    """

    def __init__(self, kernel: gpytorch.kernels.Kernel) -> None:
        super().__init__(lengthscale=None, outputscale=None)
        self.kernel = kernel

    def formula(self, x: Any, y: Any) -> Any:
        name = type(self.kernel).__name__
        raise InputError(f'gpytorch\'s {name} has no KeOps formula here; use backend="dense" or one of gr.kernels')

    def block(self, x: Tensor, y: Tensor) -> Tensor:
        try:
            return to_dense(self.kernel(x, y))
        except RuntimeError as error:
            if not any(sign in str(error) for sign in ("setup_context", "Batching rule")):
                raise
            name = type(self.kernel).__name__
            raise InputError(f"torch.func cannot differentiate gpytorch's {name}; use one of gr.kernels") from None

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        if len(x) == x.shape[-1] > 1:  # gpytorch may take values of n points by n columns for a matrix of pairs
            return torch.cat([self.pairs(x[:1], y[:1]), self.pairs(x[1:], y[1:])])
        return to_dense(self.kernel(x, y, diag=True)).unsqueeze(-1)

    @property
    def is_stationary(self) -> bool:
        return self.kernel.is_stationary

    def __repr__(self) -> str:
        return f"Foreign({type(self.kernel).__name__})"


__all__ = ["Foreign"]
