"""Kernels made of kernels."""

import copy
from typing import Any, ClassVar

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.kernels.base import Kernel
from gp_response.kernels.blocks import Blocks, JoinedBlocks, blocks_of, follows
from gp_response.kernels.points import Coordinates


class CompositeKernel(Kernel):
    """A kernel whose value is `join` of the values of its parts; its coordinates are the tuple of theirs.

    Stock gpytorch kernels among the parts are wrapped by Foreign.
    """

    def __init__(self, *parts: gpytorch.kernels.Kernel, **options: Any) -> None:
        for part in parts:
            if not isinstance(part, gpytorch.kernels.Kernel):
                raise InputError(f"{type(self).__name__} got a {type(part).__name__}; give kernels")
        super().__init__(lengthscale=None, **{"outputscale": None, **options})
        wrap = self.operations["foreign"]
        self.kernels = nn.ModuleList(part if isinstance(part, Kernel) else wrap(part) for part in parts)

    passes_on: ClassVar[bool] = False  # whether `join` gives back the value of the one part

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels it is made of."""
        return tuple(self.kernels)  # type: ignore[arg-type]

    def part(self, component: int) -> Kernel:
        return self.with_parts(self.parts[0].part(component)) if self._passes_on() else super().part(component)

    def component_names(self) -> list[str]:
        return self.parts[0].component_names() if self._passes_on() else super().component_names()

    def with_parts(self, *parts: Kernel) -> Kernel:
        """The same kernel with other parts; parameters and features are shared, not copied."""
        other = copy.copy(self)
        other.__dict__ = {**self.__dict__, "_modules": {**self._modules, "kernels": nn.ModuleList(parts)}}
        return other

    def join(self, values: list[Any]) -> Any:
        """The value from those of the parts: tensors, or KeOps LazyTensors."""
        raise NotImplementedError

    def coordinates(self, x: Tensor) -> Coordinates:
        return tuple(kernel.coordinates(kernel.select(x)) for kernel in self.parts)

    def formula(self, x: Coordinates, y: Coordinates) -> Any:
        return self.join([k.scaled(k.formula(u, v)) for k, u, v in zip(self.parts, x, y, strict=True)])

    def block(self, x: Coordinates, y: Coordinates) -> Tensor:
        return self._joined("block", x, y)

    def block_given(self, x: Coordinates, y: Coordinates, given: list[Any] | None) -> Tensor:
        if given is None:
            return self.block(x, y)
        parts = zip(self.parts, x, y, given, strict=True)
        if self._passes_on():
            return next(k.block_given(*of) for k, *of in parts)
        return self.join([_scaled_given(k, *of) for k, *of in parts])

    def left_out(self, given: list[Any] | None) -> list[Kernel]:
        if given is None:
            return []
        return [self, *(self.parts[0].left_out(given[0]) if self._passes_on() else [])]

    def _passes_on(self) -> bool:
        return self.passes_on and follows(self, "passes_on", "join")

    def fast_blocks(self, x: Coordinates, y: Coordinates, dtype: torch.dtype, exact: bool) -> Blocks:
        parts = [blocks_of(k, u, v, dtype, exact=exact) for k, u, v in zip(self.parts, x, y, strict=True)]
        in_place = follows(self, "join_blocks", "join")
        return JoinedBlocks(self, parts, self.join_blocks if in_place else self._joined_blocks)

    def join_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        """`join` of blocks times factors, without gradients: a block, which may overwrite them, and its factor."""
        return self._joined_blocks(blocks, factors)

    def _joined_blocks(self, blocks: list[Tensor], factors: list[float]) -> tuple[Tensor, float]:
        return self.join([b.mul_(f) for b, f in zip(blocks, factors, strict=True)]), 1.0

    def pairs(self, x: Coordinates, y: Coordinates) -> Tensor:
        return self._joined("pairs", x, y)

    def width(self, x: Coordinates) -> int:
        return max(k.width(u) for k, u in zip(self.parts, x, strict=True))

    def _joined(self, method: str, x: Coordinates, y: Coordinates) -> Any:
        return self.scaled(self.join([getattr(k, method)(u, v) for k, u, v in zip(self.parts, x, y, strict=True)]))

    @property
    def is_stationary(self) -> bool:
        return all(kernel.is_stationary for kernel in self.parts)

    def __repr__(self) -> str:
        own = super().__repr__()[len(type(self).__name__) + 1 : -1]
        return f"{type(self).__name__}({', '.join([*map(repr, self.parts), *filter(None, [own])])})"


def _scaled_given(kernel: Kernel, x: Coordinates, y: Coordinates, given: Any) -> Tensor:
    block = kernel.block_given(x, y, given)
    for one in kernel.left_out(given):
        block = one.scaled(block)
    return block


__all__ = ["CompositeKernel"]
