"""How much chains of draws say: effective sample size and split R-hat, of many traces at once.

Both after Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, "Rank-normalization, folding, and localization"; sums of
autocorrelations are cut by Geyer's initial monotone sequence (Geyer 1992).
"""

import torch
from scipy.stats import rankdata
from torch import Tensor

from gp_response.errors import InputError

FEWEST = 4  # draws of half a chain, below which no autocorrelation can be had


def traces(x: Tensor) -> Tensor:
    """Traces (chains, draws, k), or of one chain (draws, k), as float64 (chains, draws, k).

    Raises:
        InputError: another shape, too few draws, or numbers that are not finite.
    """
    x = x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1] < 2 * FEWEST:
        raise InputError(
            f"traces of shape {tuple(x.shape)}; expected (chains, draws, k) with at least {2 * FEWEST} draws"
        )
    if not bool(torch.isfinite(x).all()):
        chain, draw, _ = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise InputError(
            f"draw {draw} of chain {chain} is NaN or inf; the chain has left the posterior (smaller step?)"
        )
    return x.double()


def effective_size(x: Tensor) -> Tensor:
    """Number of independent draws that would give the traces' means as sharply, (k,); see `traces` for x.

    A trace that never moves counts in full: nothing about it is uncertain.
    """
    halves = _split(traces(x))
    chains, draws, _ = halves.shape
    total = float(chains * draws)
    moments = _autocovariances(halves)
    within = moments[0] * draws / (draws - 1)
    pooled = within * (draws - 1) / draws + halves.mean(dim=1).var(dim=0)
    still = pooled <= 1e-28 * halves.square().mean(dim=(0, 1))
    correlation = 1.0 - (within - moments) / torch.where(still, torch.ones_like(pooled), pooled)
    even = draws // 2 * 2
    pairs = correlation[0:even:2] + correlation[1:even:2]
    positive = (pairs > 0).cumprod(dim=0)
    tau = 2.0 * (pairs.cummin(dim=0).values * positive).sum(dim=0) - 1.0
    size = total / tau.clamp_min(1.0 / max(1.0, torch.log10(torch.tensor(total)).item()))
    return torch.where(still, torch.full_like(size, total), size)


def split_rhat(x: Tensor) -> Tensor:
    """Rank-normalised split R-hat, the larger of bulk and folded, (k,): near 1 where all halves of chains agree."""
    halves = _split(traces(x))
    middle = halves.flatten(0, 1).median(dim=0).values
    return torch.maximum(_plain_rhat(_ranked(halves)), _plain_rhat(_ranked((halves - middle).abs())))


def _split(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return torch.cat([x[:, :half], x[:, x.shape[1] - half :]])


def _autocovariances(x: Tensor) -> Tensor:
    """Mean over chains of `Σ_t c_t c_{t+s} / draws` for every lag s, (draws, k), by FFT."""
    draws = x.shape[1]
    centred = x - x.mean(dim=1, keepdim=True)
    power = torch.fft.rfft(centred, n=2 * draws, dim=1).abs().square()
    return (torch.fft.irfft(power, n=2 * draws, dim=1)[:, :draws] / draws).mean(dim=0)


def _ranked(x: Tensor) -> Tensor:
    """Normal scores of ranks over all chains; ties share theirs."""
    flat = x.flatten(0, 1)
    ranks = torch.as_tensor(rankdata(flat.cpu().numpy(), axis=0)).to(flat)
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).unflatten(0, x.shape[:2])


def _plain_rhat(x: Tensor) -> Tensor:
    draws = x.shape[1]
    within, between = x.var(dim=1).mean(dim=0), x.mean(dim=1).var(dim=0)
    ratio = ((draws - 1) / draws + between / within).sqrt()
    # Nothing varies within chains: they agree only where nothing varies between them either.
    return torch.where(within > 0, ratio, torch.where(between > 0, float("inf"), 1.0))


__all__ = ["effective_size", "split_rhat", "traces"]
