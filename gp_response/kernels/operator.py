"""A kernel matrix that is never stored, as a LinearOperator; one class for all backends."""

from collections.abc import Callable
from typing import Any

import torch
from linear_operator import to_linear_operator
from linear_operator.operators import LinearOperator
from linear_operator.utils.getitem import _noop_index
from torch import Tensor

from gp_response.errors import InputError, unknown_name
from gp_response.kernels import blocked, dense, keops
from gp_response.kernels.casting import call_in_dtype_of, call_with
from gp_response.kernels.choice import Choice, choose

BACKENDS: dict[str, Callable[..., Tensor]] = {
    "dense": dense.product,
    "blocked": blocked.product,
    "keops": keops.product,
}


class KernelOperator(LinearOperator):
    """k(x_i, y_j) for x (*batch, n, d) and y (*batch, m, d).

    The kernel's parameters are arguments, so that gradients of whatever linear_operator computes reach them. The size
    of the matrix never changes the algorithm: products are exact to rounding, and solves are left to the caller.
    """

    def __init__(self, x: Tensor, y: Tensor, *parameters: Tensor, kernel: Any, backend: str) -> None:
        super().__init__(x, y, *parameters, kernel=kernel, backend=backend)
        self.x, self.y, self.parameters, self.kernel, self.backend = x, y, parameters, kernel, backend

    @property
    def choice(self) -> Choice:
        """The backend of the products, and why it is that one."""
        return choose(self.kernel, self.x, self.y) if self.backend == "auto" else Choice(self.backend, "as asked")

    def __repr__(self) -> str:
        choice, shape = self.choice, " x ".join(map(str, self.shape))
        return f"KernelOperator({shape}, {self.kernel!r}, backend={choice.backend!r}: {choice.reason})"

    @classmethod
    def of(cls, kernel: Any, x: Tensor, y: Tensor, *, backend: str) -> "KernelOperator":
        """The operator with the kernel's parameters as they are now; raises InputError for an unknown backend.

        "auto" lets `choice` say which.
        """
        if backend not in ("auto", *BACKENDS):
            raise unknown_name("backend", backend, ["auto", *BACKENDS])
        if backend == "keops" and (x.dim() > 2 or y.dim() > 2 or len(kernel.batch_shape)):
            raise InputError('backend="keops" takes points of shape (n, d) and no batches; use backend="dense"')
        return cls(x, y, *kernel.parameters(), kernel=kernel, backend=backend)

    def _call(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """`function(kernel, ...)` under this operator's parameters, in the dtype of the points."""
        names = [name for name, _ in self.kernel.named_parameters()]
        tensors = dict(zip(names, self.parameters, strict=True))
        return call_with(self.kernel, tensors, _in_dtype, self.x, function, *args)

    def _size(self) -> torch.Size:
        batch = torch.broadcast_shapes(self.x.shape[:-2], self.y.shape[:-2], self.kernel.batch_shape)
        return torch.Size([*batch, self.x.shape[-2], self.y.shape[-2]])

    def _matmul(self, rhs: Tensor) -> Tensor:
        vector = rhs.dim() == 1
        result = self._call(_product, self.x, self.y, rhs.unsqueeze(-1) if vector else rhs, self.choice.backend)
        return result.squeeze(-1) if vector else result

    def _transpose_nonbatch(self) -> "KernelOperator":
        return self._with(self.y, self.x)

    def to_dense(self) -> Tensor:
        """The matrix itself, by torch whatever the backend."""
        differentiated = dense.differentiated(self.kernel, self.x, self.y, *self.parameters)
        y = None if self.y is self.x else self.y
        return self._call(dense.matrix, self.x, y, differentiated).expand(self.shape)

    def _diagonal(self) -> Tensor:
        return self._call(_pairs, self.x, self.y).expand(self.shape[:-1])

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        if all(index is _noop_index for index in batch_indices):
            return self._with(self.x[..., row_index, :], self.y[..., col_index, :])
        if len(self.kernel.batch_shape) or not (isinstance(row_index, slice) and isinstance(col_index, slice)):
            return to_linear_operator(self.to_dense())._getitem(row_index, col_index, *batch_indices)
        x, y = (t.expand(*self.batch_shape, *t.shape[-2:]) for t in (self.x, self.y))
        return self._with(x[(*batch_indices, row_index)], y[(*batch_indices, col_index)])

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        if batch_indices:
            return self.to_dense()[(*batch_indices, row_index, col_index)]
        shape = torch.broadcast_shapes(row_index.shape, col_index.shape)
        rows, columns = row_index.expand(shape).reshape(-1), col_index.expand(shape).reshape(-1)
        return self._call(_pairs, self.x[rows], self.y[columns]).reshape(shape)

    def _expand_batch(self, batch_shape: Any) -> "KernelOperator":
        x, y = (t.expand(*batch_shape, *t.shape[-2:]) for t in (self.x, self.y))
        return self._with(x, y)

    def _unsqueeze_batch(self, dim: int) -> LinearOperator:
        if len(self.kernel.batch_shape):
            return super()._unsqueeze_batch(dim)
        return self._with(self.x.unsqueeze(dim), self.y.unsqueeze(dim))

    def _with(self, x: Tensor, y: Tensor) -> "KernelOperator":
        return type(self)(x, y, *self.parameters, kernel=self.kernel, backend=self.backend)


def _in_dtype(kernel: Any, x: Tensor, function: Callable[..., Tensor], *args: Any) -> Tensor:
    return call_in_dtype_of(x, kernel, function, *args)


def _product(kernel: Any, x: Tensor, y: Tensor, rhs: Tensor, backend: str) -> Tensor:
    cx = kernel.coordinates(x)
    return BACKENDS[backend](kernel, cx, cx if y is x else kernel.coordinates(y), rhs)


def _pairs(kernel: Any, x: Tensor, y: Tensor) -> Tensor:
    cx = kernel.coordinates(x)
    return kernel.pairs(cx, cx if y is x else kernel.coordinates(y)).squeeze(-1)


__all__ = ["KernelOperator"]
