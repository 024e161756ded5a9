"""The kernel noun: one formula, and everything that follows from it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gpytorch
import torch
from gpytorch.constraints import Interval
from gpytorch.priors import Prior
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels import dense
from gp_response.kernels.blocks import Blocks
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.kernels.operator import KernelOperator
from gp_response.kernels.parameters import Parametrised, Value, checked
from gp_response.kernels.points import Coordinates, batch_shape, check_points, each, leaves
from gp_response.shapes import Matrix, OtherPoints, Points, Values


class Kernel(Parametrised):
    """A covariance function, usable wherever a gpytorch kernel is.

    A new kernel defines `formula(x, y)` and perhaps `coordinates(x)`; `StationaryKernel` and `DotKernel` ask only for a
    `profile` and are faster. The matrix is `outputscale * formula(coordinates(x), coordinates(y))`.

    lengthscale: a number, or (d,) numbers for one a dimension (then ard = d). None: no lengthscale.
    outputscale: factor in front, a variance. None: no such parameter.
    ard: number of input dimensions with a lengthscale each.
    active_dims, batch_shape, *_prior, *_constraint: as in gpytorch.

    Hyperparameters are stored in float64 whatever the data; the computation is in the dtype and on the device of the
    points. Raises InputError for values that are not positive, or lengthscales that do not match ard or the points.
    """

    operations: ClassVar[dict[str, Any]] = {}  # "+", "*", "scale", "on", "foreign": filled by their modules

    settings: ClassVar[tuple[str, ...]] = ()  # attributes fixed at construction that repr shows

    def __init_subclass__(cls, *, operation: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if operation is not None:
            Kernel.operations[operation] = cls

    def __init__(
        self,
        *,
        lengthscale: Value | None = 1.0,
        outputscale: Value | None = 1.0,
        ard: int | None = None,
        active_dims: Sequence[int] | None = None,
        batch_shape: Sequence[int] = (),
        lengthscale_prior: Prior | None = None,
        lengthscale_constraint: Interval | None = None,
        outputscale_prior: Prior | None = None,
        outputscale_constraint: Interval | None = None,
    ) -> None:
        value, ard = _lengthscales(lengthscale, ard, active_dims)
        super().__init__(
            ard_num_dims=ard,
            batch_shape=torch.Size(batch_shape),
            active_dims=None if active_dims is None else torch.as_tensor(active_dims, dtype=torch.long),
        )
        self.has_lengthscale = value is not None
        if value is not None:
            self.register_positive(
                "lengthscale", value, per_dimension=True, prior=lengthscale_prior, constraint=lengthscale_constraint
            )
        if outputscale is None:
            self.outputscale = None
        else:
            self.register_positive(
                "outputscale", outputscale, prior=outputscale_prior, constraint=outputscale_constraint
            )

    # What a kernel defines ------------------------------------------------------------------------------------------

    def formula(self, x: Any, y: Any) -> Any:
        """The covariance of broadcasting points without the outputscale.

        x (..., n, 1, d) and y (..., 1, m, d) are coordinates as tensors or as KeOps LazyTensors; reduce the last
        dimension with `.sum(-1)`.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither formula(x, y) nor profile(...)")

    def coordinates(self, x: Tensor) -> Coordinates:
        """What `formula` reads, from points (..., n, d): by default x / lengthscale. Evaluated once a set of points."""
        return x / self.lengthscale if self.has_lengthscale else x

    # What everybody uses --------------------------------------------------------------------------------------------

    def matrix(self, x: Points, y: OtherPoints | None = None) -> Matrix:
        """The matrix k(x_i, y_j), dense, of shape (*batch, n, m), in the dtype and on the device of x.

        y = None means x, and gives an exactly symmetric matrix. Differentiable when gradients are on (also under
        torch.func); filled tile by tile, with no more memory than the result, when they are off.
        Raises InputError for points of the wrong shape, type or dimension.
        """
        check_points(x, y)
        return self._matrix(self.select(x), None if y is None else self.select(y), dense.differentiated(self, x, y))

    def diagonal(self, x: Points) -> Values:
        """The variances k(x_i, x_i), of shape (*batch, n)."""
        check_points(x, None)
        return call_in_dtype_of(x, self, _diagonal, self.select(x), self.select(x))

    def operator(self, x: Points, y: OtherPoints | None = None, *, backend: str = "auto") -> KernelOperator:
        """The matrix as a LinearOperator that is never stored.

        backend: "dense" (row tiles of torch, exact distances), "blocked" (blocks in cache, entries right to 32 eps of
        the largest in float32 and 1024 eps in float64), "keops" (compiled), or "auto", which says by
        `operator.choice` what it took and why. All are differentiable.
        """
        check_points(x, y)
        x = self.select(x)
        return KernelOperator.of(self, x, x if y is None else self.select(y), backend=backend)

    def part(self, component: int) -> "Kernel":
        """The kernel of one component of an additive field, with the same parameters. Raises InputError where it is no sum."""
        return self._no_sum()

    def component_names(self) -> list[str]:
        """Names of the components of an additive field. Raises InputError where the kernel is no sum."""
        return self._no_sum()

    def named(self, name: str) -> "Kernel":
        """This kernel with a name, by which `gr.component` finds it in a sum."""
        self.component_name = str(name)
        return self

    def _no_sum(self) -> Any:
        raise InputError(
            f"{type(self).__name__} is no sum of kernels, so its field has no components; use k1 + k2, or for groups of "
            "lengthscales gr.structure"
        )

    def on(self, features: nn.Module) -> "Kernel":
        """This kernel on features of the points: k(f(x), f(y))."""
        return self.operations["on"](self, features)

    # gpytorch's side ------------------------------------------------------------------------------------------------

    def forward(
        self, x1: Tensor, x2: Tensor, diag: bool = False, last_dim_is_batch: bool = False, **params: Any
    ) -> Tensor:
        """Called by gpytorch with points whose active dimensions are already selected."""
        if last_dim_is_batch or params:
            raise InputError(f"{type(self).__name__} does not know {params or 'last_dim_is_batch=True'}; leave it out")
        if diag:
            return call_in_dtype_of(x1, self, _diagonal, x1, x2)
        return self._matrix(x1, None if x1 is x2 else x2, dense.differentiated(self, x1, x2))

    def _matrix(self, x: Tensor, y: Tensor | None, differentiated: bool) -> Tensor:
        return call_in_dtype_of(x, self, dense.matrix, x, y, differentiated)

    @property
    def is_stationary(self) -> bool:
        return False

    # How the parts fit together: composite kernels override these -----------------------------------------------------

    def select(self, x: Tensor) -> Tensor:
        """The active dimensions of points, checked against the number of lengthscales."""
        if self.active_dims is not None:
            if int(self.active_dims.max()) >= x.shape[-1]:
                raise InputError(
                    f"active_dims {self.active_dims.tolist()} reach beyond the {x.shape[-1]} columns of the points; "
                    f"give columns 0 to {x.shape[-1] - 1}"
                )
            x = x.index_select(-1, self.active_dims.to(x.device))
        if self.ard_num_dims not in (None, x.shape[-1]):
            raise InputError(
                f"{type(self).__name__} has {self.ard_num_dims} lengthscales for points of {x.shape[-1]} columns; "
                f"use ard={x.shape[-1]}"
            )
        return x

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        """The dense (..., n, m) block between coordinates."""
        return self.scaled(self.formula(each(lambda t: t.unsqueeze(-2), x), each(lambda t: t.unsqueeze(-3), y)))

    def block_given(self, x: Coordinates, y: Coordinates, given: Any) -> Tensor:
        """`block` with gradients, where `Blocks.given` has computed part of it already; None: nothing.

        To be multiplied with the outputscales of `left_out(given)`.
        """
        return self.block(x, y)

    def left_out(self, given: Any) -> list["Kernel"]:
        """This kernel and those inside it whose outputscale `block_given` leaves to its caller."""
        return []

    def fast_blocks(self, x: Coordinates, y: Coordinates, dtype: torch.dtype, exact: bool) -> Blocks:
        """Blocks between coordinates without gradients, as fast as this kernel can; take them from `blocks_of`."""
        return Blocks(self, x, y, dtype)

    def pairs(self, x: Coordinates, y: Coordinates) -> Tensor:
        """k(x_i, y_i) as (..., n, 1)."""
        return self.scaled(self.formula(each(lambda t: t.unsqueeze(-2), x), each(lambda t: t.unsqueeze(-2), y)))

    def width(self, x: Coordinates) -> int:
        """How many numbers a pair of points needs while `block` is evaluated, as a multiple of one entry."""
        return max(1, *(leaf.shape[-1] for leaf in leaves(x)))

    def scaled(self, k: Any) -> Any:
        """The outputscale times k."""
        return k if self.outputscale is None else self.outputscale * k

    # Arithmetic -------------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> "Kernel":
        if not isinstance(other, gpytorch.kernels.Kernel):
            return NotImplemented
        return self.operations["+"](self, other)

    def __radd__(self, other: Any) -> "Kernel":
        return self if isinstance(other, int) and other == 0 else NotImplemented  # sum([k1, k2]) starts at 0

    def __mul__(self, other: Any) -> "Kernel":
        if isinstance(other, int | float | Tensor):
            return self.operations["scale"](self, outputscale=other)
        return self.operations["*"](self, other) if isinstance(other, gpytorch.kernels.Kernel) else NotImplemented

    __rmul__ = __mul__

    def __repr__(self) -> str:
        own = [f"{name}={getattr(self, name)}" for name in self.settings]
        own += [f"{name}={_short(getattr(self, name))}" for name in self.__dict__.get("_natural", ())]
        return f"{type(self).__name__}({', '.join(own)})"


def _diagonal(kernel: Kernel, x: Tensor, y: Tensor) -> Tensor:
    cx = kernel.coordinates(x)
    cy = cx if y is x else kernel.coordinates(y)
    values = kernel.pairs(cx, cy).squeeze(-1)
    return values.expand(*batch_shape(kernel, cx, cy), values.shape[-1])


def _lengthscales(
    value: Value | None, ard: int | None, active: Sequence[int] | None
) -> tuple[Value | None, int | None]:
    """The lengthscales to start from, and their number where they count the dimensions."""
    if value is None:
        return None, None
    start = checked("lengthscale", value)
    given = start.shape[-1] if start.dim() == 1 or (start.dim() > 1 and start.shape[-1] > 1) else None
    expected = ard if ard is not None else len(active) if active is not None and given is not None else None
    if given is not None and expected not in (None, given):
        raise InputError(f"{given} lengthscales for {expected} dimensions; give one number, or {expected} of them")
    if ard is not None and active is not None and len(active) != ard:
        raise InputError(f"ard={ard} but {len(active)} active_dims; give ard={len(active)}")
    return (start.expand(ard) if start.dim() == 0 and ard else start), ard or given


def _short(value: Tensor) -> str:
    numbers = [f"{v:.4g}" for v in value.detach().reshape(-1).tolist()]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers[:6])}{', ...' if len(numbers) > 6 else ''}]"


__all__ = ["Kernel"]
