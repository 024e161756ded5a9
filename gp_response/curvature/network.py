"""A module as a function of chosen parameters: outputs, and products with the Jacobian J of the outputs."""

from collections.abc import Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from gp_response.curvature.attention import plain_attention
from gp_response.curvature.frozen import refuse_unfrozen, refuse_unsteady
from gp_response.curvature.modes import ForwardMode, Mode, Parts, ReverseMode
from gp_response.curvature.plain import PlainFunctions
from gp_response.curvature.probe import choose_mode, refuse_detached, rows_batch
from gp_response.curvature.selection import Selection, select
from gp_response.errors import GPResponseError, InputError
from gp_response.linalg.transforms import inside_transform


class Network:
    """A trained module, taken as it stands and never changed: its layers, parameters and buffers are copied, so that training it
    on, switching its mode or swapping a layer does not matter here.

    Attributes:
        names, shapes: of the P parameters chosen, in the order of a flat vector.
        count: P.
        origin: their values, (P,), put together at every call.
        parts: their values by name.

    Args:
        module: maps inputs with rows first to outputs (n,), (n, C), or (n, L, C) for sequences; in evaluation mode.
        parameters: see `select`.

    Raises:
        InputError: layers in training mode, parameters of several types or devices, none chosen; a module that cannot be copied.
    """

    def __init__(self, module: nn.Module, parameters: Selection = "all"):
        if not isinstance(module, nn.Module):
            raise InputError(f"got a {type(module).__name__}; expected a torch.nn.Module")
        _refuse_wrapped(module)
        _refuse_lazy(module)
        self.names = select(module, parameters)
        refuse_unfrozen(module)
        given = {name: p.detach() for name, p in module.named_parameters()}
        self.shapes = tuple(given[name].shape for name in self.names)
        self.module = _layers(module)
        _refuse_mixed({name: given[name] for name in self.names})
        # Tensors of their own: forward mode gives a view into a long vector a tangent as long as the vector.
        self.parts: Parts = {name: given[name].clone(memory_format=torch.contiguous_format) for name in self.names}
        self._fixed = {name: p.clone() for name, p in given.items() if name not in set(self.names)}
        self._buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
        self._mode: Mode | None = None
        self._batches: bool | None = None

    @property
    def count(self) -> int:
        """P, the number of parameters chosen."""
        return sum(part.numel() for part in self.parts.values())

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[self.names[0]].dtype

    @property
    def device(self) -> torch.device:
        return self.parts[self.names[0]].device

    @property
    def origin(self) -> Tensor:
        return self.vector(self.parts)

    def double(self) -> "Network":
        """The same network in float64."""
        other = copy(self)
        other.parts = {name: part.double() for name, part in self.parts.items()}
        other._fixed = {name: _doubled(t) for name, t in self._fixed.items()}
        other._buffers = {name: _doubled(t) for name, t in self._buffers.items()}
        return other

    @property
    def held(self) -> Parts:
        """Parameters not chosen, and buffers, by name: copies."""
        return {**self._fixed, **self._buffers}

    def narrowed(self, parameters: Selection) -> "Network":
        """The same network with fewer parameters chosen; the rest are held where they are.

        Raises:
            InputError: none of those chosen here.
        """
        names = tuple(name for name in select(self.module, parameters) if name in self.names)
        if not names:
            raise InputError(f"parameters={parameters!r} are none of the {len(self.names)} tensors chosen before")
        other = copy(self)
        other.names, other.shapes = names, tuple(self.parts[name].shape for name in names)
        other.parts = {name: self.parts[name] for name in names}
        other._fixed = {**self._fixed, **{name: part for name, part in self.parts.items() if name not in names}}
        other._mode = None
        return other

    def vector(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Tensors by name as one vector (P,).

        Raises:
            InputError: names missing or unknown, or other shapes.
        """
        wrong = sorted(set(parts) ^ set(self.names))
        if wrong:
            raise InputError(f"tensors by name: {wrong[0]!r} is missing or not among the parameters chosen")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if parts[name].shape != shape:
                raise InputError(f"{name!r} has shape {tuple(parts[name].shape)}; expected {tuple(shape)}")
        return torch.cat([parts[name].reshape(-1) for name in self.names])

    def tree(self, vector: Tensor) -> Parts:
        """A vector (..., P) as tensors by name, (..., *shape): views."""
        if vector.shape[-1:] != (self.count,):
            raise InputError(f"got a vector of shape {tuple(vector.shape)}; expected (..., {self.count})")
        pieces = vector.split([shape.numel() for shape in self.shapes], dim=-1)
        named = zip(self.names, self.shapes, pieces, strict=True)
        return {name: piece.unflatten(-1, shape) if len(shape) else piece[..., 0] for name, shape, piece in named}

    def call(self, theta: Tensor, x: Tensor) -> Tensor:
        """Outputs (n, C) or (n, L, C) at parameters θ (P,); differentiable in both."""
        return self.at(self.tree(theta), x)

    def at(self, parts: Parts, x: Tensor) -> Tensor:
        """Outputs at parameters by name; floating inputs are cast to the network's type."""
        x = self.inputs(x).clone()  # a forward may write into what it is given
        with plain_attention(), PlainFunctions():
            found = functional_call(self.module, {**self._fixed, **self._buffers, **parts}, (x,))
        return _rows_first(found, len(x), self.dtype)

    def output(self, x: Tensor) -> Tensor:
        """Outputs (n, C), or (n, L, C), of the network as it stands, without gradients.

        Raises:
            InputError: it cannot be called on these rows, or returns something else.
        """
        try:
            with torch.no_grad():
                return self.at(self.parts, x)
        except GPResponseError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(self._refusal(x, error)) from error

    def _refusal(self, x: Tensor, error: Exception) -> str:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        given = self.inputs(x)
        wide = "" if self.dtype == torch.float32 else '; of a network that is float32 inside, give precision="float32"'
        return (
            f"{type(self.module).__name__}, in {str(self.dtype)[6:]}, cannot be called on rows of shape {tuple(given.shape)}, "
            f"{str(given.dtype)[6:]}: {said}; give x as its forward takes it, rows first{wide}"
        )

    def inputs(self, x: Tensor) -> Tensor:
        """Rows on the network's device, floating ones in its type."""
        return x.to(self.device, self.dtype) if x.is_floating_point() else x.to(self.device)

    def push(self, x: Tensor, V: Tensor) -> Tensor:
        """J V of directions (P, t) for these rows, (*outputs, t), by forward mode where the network has one."""
        return self.push_rows(x, _columns(V, self.count))[1].movedim(0, -1)

    def pull(self, x: Tensor, U: Tensor) -> Tensor:
        """Jᵀ U of cotangents (*outputs, t) summed over these rows, (P, t), by reverse mode."""
        parts = self.pull_rows(x, U.movedim(-1, 0))
        return torch.cat([parts[name].reshape(U.shape[-1], -1) for name in self.names], dim=1).mT

    def push_rows(self, x: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs, and J v for every row v of V (t, P): (t, *outputs)."""
        return self.mode(x).push(partial(self.at, x=x), self.parts, self.tree(V))

    def pull_rows(self, x: Tensor, U: Tensor) -> Parts:
        """Jᵀ u for every u of U (t, *outputs), by name, (t, *shape)."""
        return self.mode(x).pull(partial(self.at, x=x), self.parts, U)

    def mode(self, x: Tensor) -> Mode:
        """How derivatives are taken, chosen at the first rows seen."""
        if self._mode is None:
            at, f = self.parts, partial(self.at, x=x[:1])
            mode = choose_mode(f, at, (ForwardMode(), ReverseMode()))
            refuse_detached(f, at, mode)
            self._mode = mode
        return self._mode

    @property
    def known_mode(self) -> Mode | None:
        """The mode, where one has been chosen."""
        return self._mode

    def batches(self, x: Tensor) -> bool:
        """Whether gradients of several rows are had by one vmap over them, tried at the first rows seen; inside a transform, where
        nothing can be tried, it is taken for granted."""
        if self._batches is None and inside_transform():
            return True
        if self._batches is None:
            self._batches = rows_batch(self.at, self.parts, x[:2])
        return self._batches

    def use(self, mode: Mode) -> None:
        """Take derivatives this way from now on."""
        self._mode = mode

    def check(self, x: Tensor) -> None:
        """Raise InputError unless the output of a row is a function of the row and the parameters alone.

        The first rows of x are evaluated twice, and one at a time.
        """
        refuse_unsteady(self.output, self.inputs(x[:4]), self._buffers)

    def __repr__(self) -> str:
        chosen = f"{self.count} parameters in {len(self.names)} tensors"
        return f"Network({type(self.module).__name__}, {chosen}, {str(self.dtype)[6:]} on {self.device})"


def _doubled(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def _refuse_mixed(chosen: Parts) -> None:
    kinds = {(p.dtype, p.device) for p in chosen.values()}
    if len(kinds) > 1:
        raise InputError(f"parameters chosen are of {len(kinds)} types or devices, {kinds}; give a network of one")
    if next(iter(kinds))[1].type == "meta":
        raise InputError("parameters are on the meta device, where they have no values; load them first")
    if next(iter(kinds))[0] not in (torch.float32, torch.float64):
        raise InputError(f"parameters are {next(iter(kinds))[0]}; call net.float() or net.double() on a copy first")


def _layers(module: nn.Module) -> nn.Module:
    """The layers copied, with their parameters and buffers shared: calls put other tensors in the place of those."""
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    # A tensor computed from others, as older weight norms keep it, is copied by no deepcopy.
    loose = [t for layer in module.modules() for t in vars(layer).values() if isinstance(t, Tensor) and not t.is_leaf]
    try:
        return deepcopy(module, {**shared, **{id(t): t.detach().clone() for t in loose}})
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise InputError(
            f"{type(module).__name__} cannot be copied ({error}); a network is kept as it stands: take out what "
            "copy.deepcopy cannot copy, or give it a __deepcopy__"
        ) from error


def _refuse_wrapped(module: nn.Module) -> None:
    """What calls with other parameters are not made of."""
    for layer in module.modules():
        if isinstance(layer, torch.jit.ScriptModule | nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise InputError(
                f"got a {type(layer).__name__}, which cannot be called with other parameters; give the module it was made of"
            )


def _refuse_lazy(module: nn.Module) -> None:
    lazy = [name for name, p in module.named_parameters() if is_lazy(p)]
    if lazy:
        raise InputError(f"parameter {lazy[0]!r} has no shape yet; call the network on some rows, and train it, first")


def _rows_first(output: Any, n: int, dtype: torch.dtype) -> Tensor:
    if not isinstance(output, Tensor):
        raise InputError(f"the network returned a {type(output).__name__}; wrap it in a module that returns one tensor")
    if output.dtype != dtype:
        raise InputError(
            f"the network returned {str(output.dtype)[6:]} from {str(dtype)[6:]} parameters; return numbers in the "
            "parameters' type, whose rounding is what error bounds count"
        )
    output = output[:, None] if output.ndim == 1 else output
    if output.ndim not in (2, 3) or len(output) != n:
        raise InputError(
            f"the network returned shape {tuple(output.shape)} for {n} rows; expected ({n},), ({n}, C) or ({n}, L, C)"
        )
    return output


def _columns(V: Tensor, count: int) -> Tensor:
    if V.ndim != 2 or len(V) != count:
        raise InputError(f"got directions of shape {tuple(V.shape)}; expected ({count}, t)")
    return V.mT.contiguous()


__all__ = ["Network"]
