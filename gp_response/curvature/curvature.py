"""A symmetric matrix over chosen parameters that is a sum over rows, known by its products alone."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from gp_response.curvature.activations import activation_bytes
from gp_response.curvature.loss import RowLoss, loss_of
from gp_response.curvature.modes import Parts
from gp_response.curvature.network import Network
from gp_response.curvature.rows import Labelled, Rows, labelled_rows
from gp_response.curvature.selection import Selection
from gp_response.errors import InputError
from gp_response.likelihoods import Likelihood
from gp_response.linalg.blocks import block_size, byte_budget

PASSES = 4  # times a row's activations that a direction and its pullback hold at once, on the safe side
VECTORS = 6  # of length P a direction costs while it is multiplied
MOST = 64  # directions at once: more gain nothing
LARGEST = 8192  # parameters of a matrix that is written out


class Curvature(ABC):
    """`β Σ_i ρ_i C_i`, (P, P), where a subclass says what C_i of a row is.

    Products are taken a batch of rows and some vectors at a time, so that memory holds a batch's activations and a few vectors
    of length P. Batches are summed in float64, so that their size does not matter beyond rounding.

    Attributes:
        net: the network; its `names` are the parameters, in order.
        rows: the data.
        batch_size: rows at a time.
    """

    def __init__(
        self, net: nn.Module | Network, data: Labelled, *, likelihood: Likelihood | RowLoss,
        parameters: Selection = "all", batch_size: int | None = None, beta: float = 1.0,
    ):  # fmt: skip
        self.net = _network(net, parameters)
        self.loss = loss_of(likelihood)
        rows = labelled_rows(data).to(self.net.device, self.net.dtype)
        if not 0.0 < float(beta) < float("inf"):
            raise InputError(f"beta={beta!r}; expected a positive finite number")
        self.beta = float(beta)
        self.net.check(rows.x)
        self.net.mode(rows.x[:1])  # what cannot be differentiated is refused now
        first = self.net.output(rows.x[:1])
        self.rows = replace(rows, y=self.loss.labels(rows.y, first.expand(len(rows), *first.shape[1:])))
        self._each = activation_bytes(self.net, self.rows.x)
        self._budget = byte_budget(None, self.net.device)
        self.batch_size = self._batch_size(batch_size)

    def _batch_size(self, given: int | None) -> int:
        if given is None:
            return block_size(PASSES * self._each, self._budget, most=len(self.rows))
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise InputError(f"batch_size={given!r}; expected a number of rows, 1 or more, or None")
        return given

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return (self.net.count, self.net.count)

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    @property
    def device(self) -> torch.device:
        return self.net.device

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of a vector."""
        return self.net.names

    def matmat(self, V: Tensor) -> Tensor:
        """C V for V (P, t), in the network's type.

        Raises:
            InputError: vectors of another length, type or device.
        """
        if V.ndim != 2 or len(V) != self.net.count or V.dtype != self.dtype or V.device != self.device:
            raise InputError(
                f"got vectors of shape {tuple(V.shape)}, {V.dtype} on {V.device}; expected ({self.net.count}, t), "
                f"{self.dtype} on {self.device} (double() of the network computes in float64)"
            )
        size = self._columns(V.shape[1])
        found = [self._product(part.contiguous()) for part in V.mT.split(size)]
        return (found[0] if len(found) == 1 else torch.cat(found)).mT if found else torch.zeros_like(V)

    def __matmul__(self, V: Tensor) -> Tensor:
        """C v for v (P,), C V for V (P, t)."""
        return self.matmat(V[:, None])[:, 0] if V.ndim == 1 else self.matmat(V)

    def dense(self) -> Tensor:
        """The matrix written out, (P, P).

        Raises:
            InputError: more than 8192 parameters.
        """
        if self.net.count > LARGEST:
            raise InputError(
                f"{self.net.count} parameters; a matrix of more than {LARGEST} is not written out: use products"
            )
        return self.matmat(torch.eye(self.net.count, dtype=self.dtype, device=self.device))

    def _columns(self, t: int) -> int:
        """Vectors at a time."""
        batch = min(self.batch_size, len(self.rows)) * self._each
        each = batch + VECTORS * self.net.count * torch.finfo(self.dtype).bits // 8
        return block_size(each, self._budget, most=max(1, min(t, MOST)))

    def _product(self, V: Tensor) -> Tensor:
        """C v for every row v of V, (t, P)."""
        wide = torch.float64 if len(self.rows) > self.batch_size else self.dtype
        total = torch.zeros(V.shape, dtype=wide, device=self.device)
        with torch.no_grad():
            into = self.net.tree(total)
            for batch in self.rows.batches(self.batch_size):
                for name, part in self._batch(batch, V).items():
                    into[name] += part
        return total.mul_(self.beta).to(self.dtype)

    @abstractmethod
    def _batch(self, rows: Rows, V: Tensor) -> Parts:
        """`Σ_i ρ_i C_i v` over some rows, for every row v of V (t, P); by name, (t, *shape)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.net!r}, {len(self.rows)} rows, {self.batch_size} at a time)"


def _network(net: nn.Module | Network, parameters: Selection) -> Network:
    if not isinstance(net, Network):
        return Network(net, parameters)
    if parameters != "all":
        raise InputError(f"a Network has its parameters chosen already; leave out parameters={parameters!r}")
    return net


__all__ = ["Curvature"]
