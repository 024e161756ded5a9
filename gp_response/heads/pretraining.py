"""Features first learn the target with a linear readout, so that joint training starts where it cannot collapse."""

from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from gp_response.heads.early_stopping import EarlyStopping
from gp_response.heads.held_out import HeldOut
from gp_response.heads.trace import Trace
from gp_response.kernels import On
from gp_response.kernels.casting import call_in_dtype_of

BATCH = 512
CHECK = 50


def feature_modules(kernel: nn.Module) -> list[On]:
    """The parts of a kernel whose features have weights to train."""
    parts = [module for module in kernel.modules() if isinstance(module, On)]
    return [part for part in parts if any(p.requires_grad for p in part.features.parameters())]


def features_at(part: On, x: Tensor) -> Tensor:
    """Features of points in the dtype of the points, (n, d')."""
    return call_in_dtype_of(x, part.features, lambda features, points: features(points), x)


def feature_parameters(kernel: nn.Module) -> list[nn.Parameter]:
    found = {id(p): p for part in feature_modules(kernel) for p in part.features.parameters() if p.requires_grad}
    return list(found.values())


def pretrain(head: Any, held_out: HeldOut, training: Any, generator: torch.Generator, trace: Trace) -> None:
    """Adam on the squared error of a linear readout, minibatched, stopped on held-out rows; then unit feature scales."""
    for part in feature_modules(head.kernel):
        _pretrain_one(part, held_out, training, generator, trace)


def _pretrain_one(part: On, held_out: HeldOut, training: Any, generator: torch.Generator, trace: Trace) -> None:
    x, y = held_out.train.train.x, held_out.train.train.y
    with torch.no_grad():
        width = features_at(part, x[:2]).shape[-1]
    # Not an nn.Linear: making one draws from the global generator.
    readout = torch.zeros(width + 1, dtype=x.dtype, device=x.device, requires_grad=True)
    weights = [*part.features.parameters(), readout]
    optimiser = torch.optim.AdamW(weights, lr=3e-3, weight_decay=training.decay(len(y)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, training.pretrain_steps)
    stopping = EarlyStopping(part.features, patience=2 * training.patience + 1)
    bar = tqdm(range(training.pretrain_steps), desc="pretraining features", disable=not training.progress, leave=False)
    for step in bar:
        batch = torch.randint(len(y), (min(BATCH, len(y)),), generator=generator).to(x.device)
        loss = _squared_error(part, readout, x[batch], y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % CHECK and step != training.pretrain_steps - 1:
            continue
        with torch.no_grad():
            test = held_out.test.train if held_out.test else None
            score = float(_squared_error(part, readout, test.x, test.y)) if test else loss.item()
        trace.add("pretraining", loss.item(), held_out=score)
        bar.set_postfix(held_out=f"{score:.4f}")
        if stopping.offer(score):
            break
    stopping.restore()
    _match_lengthscale(part, x)


def _squared_error(part: On, readout: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (features_at(part, x) @ readout[:-1] + readout[-1] - y).square().mean()


def _match_lengthscale(part: On, x: Tensor) -> None:
    """Start at the spread of the features: a length-scale far off leaves no gradient to learn from."""
    base: Any = part.kernels[0]
    if not getattr(base, "has_lengthscale", False):
        return
    with torch.no_grad():
        z = features_at(part, x[:: max(1, len(x) // 2000)])
        spread = z.std(dim=0).clamp_min(1e-3)
        old = base.lengthscale
        width = old.shape[-1]
        base.lengthscale = (spread * width**0.5 if width > 1 else spread.norm()).expand(old.shape).to(old)


__all__ = ["feature_modules", "feature_parameters", "pretrain"]
