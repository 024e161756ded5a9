"""Positive hyperparameters: float64, constrained, with priors, read and set in their natural units."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gpytorch
import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.priors import Prior
from gpytorch.utils.transforms import inv_softplus
from torch import Tensor, nn

from gp_response.errors import InputError

Value = float | Sequence[float] | Tensor

# torch's softplus turns into the identity above 20, where it is still 2e-9 away from it: 36 is exact in float64.
_SOFTPLUS = nn.Softplus(threshold=36.0)


def positive() -> Positive:
    """The constraint of a positive hyperparameter, whose inverse is exact in float64."""
    return Positive(_SOFTPLUS, inv_softplus)


class Parametrised(gpytorch.kernels.Kernel):
    """A gpytorch kernel whose hyperparameters are plain attributes: `kernel.alpha`, `kernel.alpha = 2.0`.

    The unconstrained value is the float64 parameter `raw_alpha`; `raw_alpha_constraint` maps it, gpytorch-fashion.
    """

    _natural: dict[str, bool]  # name -> has one value a dimension

    def register_positive(
        self,
        name: str,
        value: Value,
        *,
        per_dimension: bool = False,
        prior: Prior | None = None,
        constraint: Interval | None = None,
    ) -> None:
        """Create the hyperparameter `name`.

        `self.<name>` has shape (1,) without a batch shape, so that it broadcasts over (n, m) and is a KeOps parameter,
        and (*batch, 1, 1) with one; `per_dimension=True` makes it (*batch, 1, d), for use in `coordinates`.
        Raises InputError when the value is not positive or not inside the constraint.
        """
        start = checked(name, value)
        width = start.shape[-1] if per_dimension and start.dim() else 1
        self.__dict__.setdefault("_natural", {})[name] = per_dimension
        self.register_parameter(f"raw_{name}", nn.Parameter(start.new_zeros(*self._batch_shape, 1, width)))
        self.register_constraint(f"raw_{name}", constraint or positive())
        self._set_natural(name, start)
        if prior is not None:
            self.register_prior(f"{name}_prior", prior, name)

    def natural_hyperparameters(self) -> dict[str, Tensor]:
        """Every hyperparameter of this kernel and of those inside it, in natural units, by dotted name."""
        kernels = [(p, m) for p, m in self.named_modules() if isinstance(m, Parametrised)]
        return {f"{p}.{n}".lstrip("."): getattr(m, n) for p, m in kernels for n in m.__dict__.get("_natural", {})}

    def expand_batch(self, *sizes: Any) -> "Parametrised":
        """The same kernel with parameters expanded to a batch shape."""
        shape = torch.Size(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)
        return self._with_parameters(lambda p: p.expand(*shape, *p.shape[-2:]).clone())

    def __getitem__(self, index: Any) -> "Parametrised":
        """The kernel of some batches."""
        index = index if isinstance(index, tuple) else (index,)
        return self._with_parameters(lambda p: p[index] if p.dim() > 2 else p)

    def _with_parameters(self, change: Callable[[Tensor], Tensor]) -> "Parametrised":
        new = deepcopy(self)
        kernels = [m for m in new.modules() if isinstance(m, gpytorch.kernels.Kernel)]
        stock = [type(k).__name__ for k in kernels if not isinstance(k, Parametrised)]
        if stock:
            raise InputError(
                f"gpytorch's {stock[0]} keeps batches in its own way; expand or index it before it is wrapped"
            )
        for kernel in kernels:
            for parameter in kernel.parameters(recurse=False):
                parameter.data = change(parameter.data)
                kernel.batch_shape = parameter.shape[:-2]
        return new

    def _set_natural(self, name: str, value: Value) -> None:
        raw = getattr(self, f"raw_{name}")
        constraint = getattr(self, f"raw_{name}_constraint")
        new = checked(name, value).to(raw.device)
        if not constraint.check(new):
            raise InputError(f"{name} = {new.tolist()} is outside {constraint}; give a {name} inside it")
        if not self._natural[name] and new.dim() == len(self._batch_shape) > 0:
            new = new[..., None, None]
        try:
            new = new.expand_as(raw)
        except RuntimeError:
            got, expected = tuple(new.shape), tuple(raw.shape)
            raise InputError(f"{name} has shape {got}; this kernel takes a number or {expected}") from None
        with torch.no_grad():
            raw.copy_(constraint.inverse_transform(new))

    def _set_lengthscale(self, value: Value) -> None:
        # gpytorch's own goes through the default dtype, which would round 0.3 to float32.
        self._set_natural("lengthscale", value)

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_natural", ()):
            raw = getattr(self, f"raw_{name}")
            value = getattr(self, f"raw_{name}_constraint").transform(raw)
            return value if self._natural[name] or raw.dim() > 2 else value.reshape(1)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_natural", ()):
            self._set_natural(name, value)
        else:
            super().__setattr__(name, value)


def checked(name: str, value: Value) -> Tensor:
    """The value in float64; InputError when it is not made of positive numbers."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{name} = {value!r} is not a number; give a positive number or one a dimension") from None
    if not bool(((tensor > 0) & tensor.isfinite()).all()) or not tensor.numel():
        raise InputError(f"{name} = {tensor.tolist()} must be positive and finite; give a positive number")
    return tensor


__all__ = ["Parametrised", "Value", "checked", "positive"]
