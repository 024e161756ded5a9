"""The next points of a Bayesian search: an exact GP of this package, read by BoTorch's acquisition functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gp_response.acquisition import to_botorch
from gp_response.acquisition.botorch import library
from gp_response.data import dataset
from gp_response.heads import Exact, Training
from gp_response.kernels import Matern52
from gp_response.sweep.space import Space

CANDIDATES = 1024
DRAWS = 128


def start_count(space: Space) -> int:
    """Points that are spread evenly before any model is asked."""
    return max(4, 2 * len(space.axes))


def spread(space: Space, count: int, seed: int, *, skip: int = 0) -> list[dict[str, Any]]:
    """Points of a scrambled Sobol sequence, after the first `skip`."""
    shares = torch.quasirandom.SobolEngine(len(space.axes), scramble=True, seed=seed).draw(
        skip + count, dtype=torch.float64
    )
    return [space.point(row) for row in shares[skip:].tolist()]


def propose(
    space: Space, seen: Sequence[tuple[dict[str, Any], float]], waiting: Sequence[dict[str, Any]], count: int, seed: int
) -> list[dict[str, Any]]:
    """Points where logarithmic noisy expected improvement (Ament et al. 2023) is largest, among evenly spread candidates.

    Args:
        seen: points with the objective that is to become large.
        waiting: points that run, whose outcomes are integrated over.
        count: of points wanted; fewer where the space has no others.
        seed: of the candidates and draws.
    """
    x = torch.tensor([space.encode(point) for point, _ in seen], dtype=torch.float64)
    y = torch.tensor([value for _, value in seen], dtype=torch.float64)
    y = (y - y.mean()) / y.std().clamp_min(1e-12 + 1e-9 * float(y.abs().max()))
    # The codes lie in the unit cube already; the model is to be asked in these units.
    head = Exact(Matern52(ard=x.shape[1], lengthscale=0.5), noise=1e-3)
    model = to_botorch(head.fit(dataset(x, y, standardise=False), training=Training(progress=False)))
    chosen: list[dict[str, Any]] = []
    for _ in range(count):
        known = [point for point, _ in seen] + list(waiting) + chosen
        candidates = [point for point in spread(space, CANDIDATES, seed + len(known)) if point not in known]
        if not candidates:
            break
        codes = torch.tensor([space.encode(point) for point in candidates], dtype=torch.float64)
        pending = (
            torch.tensor([space.encode(point) for point in [*waiting, *chosen]], dtype=torch.float64)
            if waiting or chosen
            else None
        )
        best = int(_improvement(model, x, codes, pending, seed).argmax())
        chosen.append(candidates[best])
    return chosen


def _improvement(model: Any, x: Tensor, codes: Tensor, pending: Tensor | None, seed: int) -> Tensor:
    botorch = library()
    sampler = botorch.sampling.SobolQMCNormalSampler(torch.Size([DRAWS]), seed=seed)
    with torch.no_grad():
        asked = botorch.acquisition.logei.qLogNoisyExpectedImprovement(
            model, X_baseline=x, sampler=sampler, X_pending=pending, prune_baseline=False, cache_root=False
        )
        return asked(codes[:, None, :])


__all__ = ["propose", "spread", "start_count"]
