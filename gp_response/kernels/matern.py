"""What the Matérn kernels of smoothness p + 1/2 share."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.blocks import InPlace
from gp_response.kernels.buffers import Buffer
from gp_response.kernels.maths import sqrt, with_slope

_SLOPES = (0.0, -1.0 / 2.0, -1.0 / 6.0)


def matern(p: int, q: Any) -> Any:
    """exp(-s) times 1, 1 + s or 1 + s + s²/3 for p = 0, 1, 2, with s = √q; Rasmussen & Williams (4.16).

    Its derivative in q is a multiple of the one before. Left to autograd, ds/dq = 1/2s would meet a difference that is
    rounded to 0, and second derivatives in the inputs (covariances of slopes) would vanish where two points coincide.
    """
    return with_slope(partial(_value, p), partial(_slope, p), q) if p else _value(p, q)


def matern_in_place(p: int) -> InPlace:
    """The same, put in the place of q."""

    def overwrite(q: Tensor, work: Buffer) -> None:
        s = torch.clamp_min(q, 0.0, out=work(*q.shape)).sqrt_()
        if p == 0:
            torch.neg(s, out=q).exp_()
            return
        if p == 1:
            torch.neg(s, out=q).exp_().addcmul_(q, s)
            return
        torch.addcmul(s, s, s, value=1.0 / 3.0, out=q)
        decay = s.neg_().exp_()
        torch.addcmul(decay, decay, q, out=q)

    return overwrite


def _value(p: int, q: Any) -> Any:
    s = sqrt(q)
    decay = (-s).exp()
    if p == 0:
        return decay
    return (1.0 + s) * decay if p == 1 else (1.0 + s + q / 3.0) * decay


def _slope(p: int, q: Any) -> Any:
    return _SLOPES[p] * matern(p - 1, q)


__all__ = ["matern"]
