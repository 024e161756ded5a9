"""A trained network as features: frozen and evaluated once, or fine-tuned with the kernel."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gp_response.errors import InputError
from gp_response.features.kept import Kept
from gp_response.features.pretrained import pretrained_module


class Encoder(nn.Module):
    """Rows (..., n, d) -> features (..., n, f) by a torch module that was trained elsewhere.

    The module always runs in evaluation mode, whatever `train()` says: dropout off, batch normalisation by its stored
    statistics. So a row's features do not depend on the rows beside it.

    Frozen, its weights ask for no gradients (derivatives with respect to the rows remain), and its outputs are kept: rows
    seen before, by content, cost no second pass as long as weights and dtype are the same. Copies share what is kept.

    Args:
        module: takes (b, *shape) and gives (b, ...), flattened to (b, f). It is used as it is, not copied.
        frozen: False makes every parameter trainable; outputs are then kept only where nothing is differentiated.
        head: a module after the encoder, such as an MLP to fewer columns; trained in both cases.
        batch: rows evaluated at a time.
        shape: of one row before the module, e.g. (3, 64, 64) for images in rows of 12,288 columns. None: as it is.
        keep: rows whose outputs are kept; the oldest go. 0 keeps none, and saves hashing the weights on every call.

    Raises:
        InputError: arguments outside these; rows that do not fill `shape`; a module that gives another number of rows.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        frozen: bool = True,
        head: nn.Module | None = None,
        batch: int = 256,
        shape: Sequence[int] | None = None,
        keep: int = 50_000,
    ) -> None:
        super().__init__()
        for name, value in (("module", module), ("head", head)):
            if not isinstance(value, nn.Module) and not (name == "head" and value is None):
                raise InputError(f"{name} is a {type(value).__name__}; expected a torch.nn.Module")
        for name, number, least in (("batch", batch, 1), ("keep", keep, 0)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise InputError(f"{name}={number!r}; expected a whole number, at least {least}")
        self.module, self.head = module.requires_grad_(not frozen).eval(), head
        self.frozen, self.batch = frozen, batch
        self.shape = None if shape is None else tuple(shape)
        self._kept = Kept(keep)

    @classmethod
    def pretrained(cls, name: str, *, size: int = 224, **options: Any) -> "Encoder":
        """A published network without its last layer.

        "efficientnet-lite0": 1,280 features of RGB images (ImageNet, 3.4 M weights), for rows that are (3, size, size) pixels
        scaled as `(pixel - 127) / 128`, not standardised. Options are those of `Encoder`.

        Raises InputError for unknown names, MissingDependency without the extra `encoders`.
        """
        return cls(pretrained_module(name, size), **{"shape": (3, size, size), **options})

    def train(self, mode: bool = True) -> "Encoder":
        super().train(mode)
        self.module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        z = self._encoded(x)
        return z if self.head is None else self.head(z)

    def _encoded(self, x: Tensor) -> Tensor:
        state = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        own = [t.detach() for t in state.values()] if self.frozen else list(state.values())
        if _differentiated([x, *own]):
            # Detached, so that a caller who turns gradients on for all parameters of a kernel gets none here.
            return self._passed(x, dict(zip(state, own, strict=True)) if self.frozen else None)
        # What is kept under inference mode could not be differentiated through later.
        with torch.inference_mode(False), torch.no_grad():
            if not self._kept.most:
                return self._passed(x, None)
            rows = x.reshape(-1, x.shape[-1])
            return self._kept.of(rows, own, lambda t: self._passed(t, None)).reshape(*x.shape[:-1], -1)

    def _passed(self, x: Tensor, state: dict[str, Tensor] | None) -> Tensor:
        """All rows through the module, a batch at a time."""
        width = x.shape[-1]
        if self.shape is not None and math.prod(self.shape) != width:
            raise InputError(f"rows have {width} columns; shape={self.shape} needs {math.prod(self.shape)}")
        rows = x.reshape(-1, *(self.shape or (width,)))
        dtype = next((t.dtype for t in self.module.parameters() if t.is_floating_point()), x.dtype)
        parts = [self._batch(rows[at : at + self.batch].to(dtype), state) for at in range(0, len(rows), self.batch)]
        return torch.cat(parts).to(x.dtype).reshape(*x.shape[:-1], -1) if parts else x.new_zeros(*x.shape[:-1], 0)

    def _batch(self, rows: Tensor, state: dict[str, Tensor] | None) -> Tensor:
        out = self.module(rows) if state is None else functional_call(self.module, state, (rows,))
        if not isinstance(out, Tensor) or out.dim() < 2 or len(out) != len(rows):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(
                f"{type(self.module).__name__} maps {tuple(rows.shape)} to {got}; expected ({len(rows)}, ...)"
            )
        return out.flatten(1)


def _differentiated(tensors: list[Tensor]) -> bool:
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if any(wrapped(t) for t in tensors):
        return True
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


__all__ = ["Encoder"]
