"""Refusing networks whose output is not a function of the row and the parameters alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from gp_response.errors import InputError

ROWS = 4  # looked at
TOLERANCE = {
    torch.float32: 1e-3,
    torch.float64: 1e-9,
}  # of a row alone against the row among others: sums run otherwise


def refuse_unfrozen(module: nn.Module) -> None:
    """Raise InputError for layers that draw random numbers or change their state when they are called."""
    for name, layer in module.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})" if name else f"the network ({type(layer).__name__})"
        if layer.training and _differs_in_training(layer):
            raise InputError(f"{where} is in training mode; call net.eval() first")
        if getattr(layer, "max_norm", None) is not None and isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            raise InputError(f"{where} renormalises its weights when called (max_norm); set max_norm to None first")


def _differs_in_training(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return True
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return layer.track_running_stats
    if isinstance(layer, nn.RReLU):
        return True
    rate = getattr(layer, "p", 0.0) if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0.0


def refuse_unsteady(output: Callable[[Tensor], Tensor], x: Tensor, state: dict[str, Tensor]) -> None:
    """Raise InputError unless two evaluations of the first rows agree, a row alone gives what it gives among others,
    everything is finite and `state` stays as it was."""
    before = {name: t.clone() for name, t in state.items()}
    x = x[:ROWS]
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []), torch.no_grad():
        first, drawn = output(x), _drawn(x)
        second, again = output(x), _drawn(x)
        alone = _alone(output, x)
    if not bool(first.isfinite().all()):
        raise InputError("the network's output is not finite on the first rows; look at the inputs and the parameters")
    _refuse_difference(
        first, second, "two evaluations of the same rows differ", "switch off what is random in its forward"
    )
    if not torch.equal(drawn, again):  # which four rows need not show
        raise InputError(
            "the network's forward draws random numbers, so it has no curvature; call net.eval() or take them out"
        )
    changed = [name for name, t in state.items() if not torch.equal(t, before[name])]
    if changed:
        raise InputError(
            f"calling the network changes {changed[0]!r}; call net.eval() first, or keep forward from writing"
        )
    _refuse_difference(
        first, alone, "a row's output depends on the other rows of its batch",
        "use layers that treat rows apart (batch norm with running statistics, in eval mode)",
    )  # fmt: skip


def _drawn(x: Tensor) -> Tensor:
    """How far torch has come with random numbers where x is."""
    return torch.cuda.get_rng_state(x.device) if x.device.type == "cuda" else torch.random.get_rng_state()


def _alone(output: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    try:
        return torch.cat([output(row[None]) for row in x])
    except (ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(
            f"the network's output depends on the other rows of its batch: of one row it says {said!r}"
        ) from None


def _refuse_difference(one: Tensor, other: Tensor, what: str, do: str) -> None:
    gap, scale = float((one - other).abs().max()), float(one.abs().max())
    if not gap <= TOLERANCE[one.dtype] * scale:
        raise InputError(f"{what} (by {gap:.2g} of {scale:.2g}), so it has no curvature; {do}")


__all__ = ["refuse_unfrozen", "refuse_unsteady"]
