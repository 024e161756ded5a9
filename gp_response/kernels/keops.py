"""KeOps evaluation: the formula compiled to one C++ or CUDA reduction (the only file that uses pykeops)."""

import shutil
from typing import Any

from torch import Tensor

from gp_response.errors import InputError, MissingDependency
from gp_response.kernels.points import Coordinates, each


def product(kernel: Any, cx: Coordinates, cy: Coordinates, v: Tensor) -> Tensor:
    """K(x, y) @ v for v (m, t), in memory linear in n + m; differentiable.

    Every formula is compiled for each dtype and number of columns t, and so is its gradient in x, in y and in every
    parameter of the formula: some 10 s each, cached on disk.
    Raises MissingDependency without pykeops or a C++ compiler, InputError for kernels that have no KeOps formula.
    """
    if v.dim() != 2:
        raise InputError(f'backend="keops" multiplies matrices (m, t), not {tuple(v.shape)}; use backend="dense"')
    LazyTensor = _lazy_tensor()
    x = each(lambda t: LazyTensor(t.contiguous()[:, None, :]), cx)
    y = each(lambda t: LazyTensor(t.contiguous()[None, :, :]), cy)
    # The outputscale stays outside: one formula less to compile for its gradient.
    return kernel.scaled(kernel.formula(x, y) @ v.contiguous())


def _lazy_tensor() -> Any:
    try:
        import pykeops
        from pykeops.torch import LazyTensor
    except ImportError as error:
        raise MissingDependency(f'backend="keops" needs pykeops ({error}): pip install "gp_response[keops]"') from None
    if not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        raise MissingDependency('backend="keops" compiles its formulas and finds no C++ compiler: install g++')
    pykeops.set_verbose(False)
    return LazyTensor


__all__ = ["product"]
