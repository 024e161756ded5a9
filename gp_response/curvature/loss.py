"""The loss ℓ_i of each row, a sum over its outputs or tokens, and its derivatives in the row's outputs.

`labels` brings the labels of some rows beside their outputs; everything else takes what it returns.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from gp_response.curvature.rows import refuse_infinite
from gp_response.errors import InputError
from gp_response.likelihoods import Categorical, Likelihood, RowGaussian

IGNORED = -100  # the label of a token that has none, as torch's cross-entropy has it
FEW = 4  # rows a callable is tried on
RowLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Loss(Protocol):
    """What curvature needs of a loss. `outputs` are (n, C) or (n, L, C); directions `u` (t, *outputs)."""

    def labels(self, y: Tensor, outputs: Tensor) -> Tensor:
        """Labels in the shape and type the loss takes; InputError where they do not fit the outputs."""

    def rows(self, outputs: Tensor, y: Tensor) -> Tensor:
        """ℓ, (n,)."""

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        """∂ℓ_i/∂f_i, as the outputs."""

    def bend(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """∂²ℓ_i/∂f_i² u_i."""

    def information(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        """The expectation of ∂²ℓ_i/∂f_i² over labels that the likelihood itself makes, times u_i."""


def loss_of(likelihood: Likelihood | RowLoss) -> Loss:
    """The loss of a likelihood, or of a callable (outputs, y) -> (n,).

    Raises:
        InputError: neither, or noise that differs from row to row.
    """
    if isinstance(likelihood, RowGaussian):
        raise InputError("noise that differs from row to row is not taken here; give Gaussian(noise=...) and weights")
    if isinstance(likelihood, Categorical):
        return ClassLoss(likelihood)
    if isinstance(likelihood, Likelihood):
        return ElementLoss(likelihood)
    if callable(likelihood):
        return CallableLoss(likelihood)
    raise InputError(
        f"likelihood={likelihood!r}; expected a gr.Likelihood such as Gaussian(noise=0.1), or a callable (outputs, y) -> (n,)"
    )


class ElementLoss:
    """-log p(y | f) summed over the outputs of a row; labels as the outputs, without the last axis where that is one.

    Labels of counts and classes may be -100, which leaves the output out.
    """

    def __init__(self, likelihood: Likelihood):
        self.likelihood = likelihood

    def labels(self, y: Tensor, outputs: Tensor) -> Tensor:
        y = y[..., None] if y.ndim == outputs.ndim - 1 else y
        if y.shape != outputs.shape:
            raise InputError(
                f"labels have shape {tuple(y.shape)} beside outputs {tuple(outputs.shape)}; expected one for each output"
            )
        refuse_infinite("y", y)
        y = y.to(outputs)
        self.likelihood.check(y[self._given(y)])
        return y

    def _given(self, y: Tensor) -> Tensor:
        return y != IGNORED if self.likelihood.discrete else torch.ones_like(y, dtype=torch.bool)

    def _kept(self, of: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """of(labels), zero where there is none."""
        given = self._given(y)
        return torch.where(given, of(torch.where(given, y, 0.0)), 0.0)

    def rows(self, outputs: Tensor, y: Tensor) -> Tensor:
        return -self._kept(lambda at: self.likelihood.log_prob(outputs, at), y).flatten(1).sum(dim=1)

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        return -self._kept(lambda at: self.likelihood.slopes(outputs, at).first, y)

    def bend(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return -self._kept(lambda at: self.likelihood.slopes(outputs, at).second, y) * u

    def information(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return self._kept(lambda at: self.likelihood.information(outputs), y) * u


class ClassLoss:
    """Cross-entropy of classes, summed over a row's tokens; labels (n,) or (n, L), -100 where a token has none."""

    def __init__(self, likelihood: Categorical):
        self.likelihood = likelihood

    def labels(self, y: Tensor, outputs: Tensor) -> Tensor:
        if outputs.shape[-1] != self.likelihood.classes:
            count = outputs.shape[-1]
            raise InputError(f"the network has {count} outputs for {self.likelihood!r}; give Categorical({count})")
        if y.shape != outputs.shape[:-1]:
            expected = tuple(outputs.shape[:-1])
            raise InputError(
                f"labels have shape {tuple(y.shape)} beside outputs {tuple(outputs.shape)}; expected {expected}"
            )
        self.likelihood.check(y[y != IGNORED])
        return y.long()

    def rows(self, outputs: Tensor, y: Tensor) -> Tensor:
        given = y != IGNORED
        chosen = torch.where(given, y, 0)[..., None]
        each = torch.log_softmax(outputs, dim=-1).gather(-1, chosen)[..., 0]
        return -torch.where(given, each, 0.0).reshape(len(y), -1).sum(dim=1)

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        given = (y != IGNORED)[..., None]
        p = torch.softmax(outputs, dim=-1)
        ones = torch.zeros_like(p).scatter(-1, torch.where(given, y[..., None], 0), 1.0)
        return torch.where(given, p - ones, 0.0)

    def bend(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        p = torch.where((y != IGNORED)[..., None], torch.softmax(outputs, dim=-1), 0.0)
        pu = p * u
        return pu - p * pu.sum(dim=-1, keepdim=True)  # (diag p - p pᵀ) u

    def information(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return self.bend(outputs, y, u)  # which does not depend on the label


class CallableLoss:
    """A loss given as a function, differentiated automatically."""

    def __init__(self, function: RowLoss):
        self.function = function

    def labels(self, y: Tensor, outputs: Tensor) -> Tensor:
        found = self.function(outputs[:FEW], y[:FEW])
        if not isinstance(found, Tensor) or found.shape != outputs[:FEW].shape[:1]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise InputError(
                f"likelihood(outputs, y) returned {got}; expected one loss for each of {len(outputs[:FEW])} rows (reduction='none')"
            )
        return y

    def rows(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.function(outputs, y)

    def slope(self, outputs: Tensor, y: Tensor) -> Tensor:
        return grad(lambda f: self.function(f, y).sum())(outputs)

    def bend(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        return vmap(lambda v: jvp(lambda f: self.slope(f, y), (outputs,), (v,))[1])(u)

    def information(self, outputs: Tensor, y: Tensor, u: Tensor) -> Tensor:
        raise InputError("a callable loss has no distribution to average over; use fisher(..., empirical=True) or ggn")


__all__ = ["Loss", "RowLoss", "loss_of"]
