"""What the Matérn kernels of smoothness p + 1/2 share."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gp_response.kernels.blocks import InPlace, InPlaceSlope
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


def matern_slope_in_place(p: int) -> InPlaceSlope:
    """The profile of q = (2p + 1) r2 in the place of q, and its derivative by r2."""

    def overwrite(q: Tensor, work: Buffer, other: Buffer) -> Tensor:
        s = torch.sqrt(q.clamp_min_(0.0), out=work(*q.shape))
        decay = torch.neg(s, out=other(*q.shape)).exp_()
        if p == 0:
            # As in `sqrt`: no slope where points coincide.
            torch.div(decay, s.masked_fill_(q == 0.0, math.inf), out=s)
            q.copy_(decay)
            return s.mul_(-0.5)
        if p == 1:
            torch.addcmul(decay, decay, s, out=q)
            return decay.mul_(-1.5)
        s.mul_(decay).add_(decay)
        torch.add(s, q.mul_(decay), alpha=1.0 / 3.0, out=q)
        return s.mul_(-5.0 / 6.0)

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
