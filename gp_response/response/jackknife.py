"""The frequentist covariance of posterior expectations from their responses to weights, without a refit.

A bootstrap gives sample i a random number of copies, of variance one and, n copies in all, covariance -1/n. To first order an
expectation then moves by `Σ_i χ_i (copies_i - 1)` (Giordano & Broderick 2023, "The Bayesian infinitesimal jackknife for
variance"), whose covariance is a sum over samples.
"""

from typing import Any

import torch
from torch import Tensor

from gp_response.arguments import as_tensor, shown
from gp_response.data import sample_weights
from gp_response.errors import InputError
from gp_response.posterior import Certified, rounded
from gp_response.response.result import Susceptibility


def jackknife_covariance(chi: Susceptibility, *, weights: Any = None) -> Certified:
    """How m expectations would scatter if the n rows were drawn again: `Σ_i (χ̃_i - χ̃)(χ̃_i - χ̃)ᵀ` with `χ̃_i = ρ_i χ_i`.

    n times this is the `V^IJ` of Giordano & Broderick, `1/n Σ ψ_i ψ_iᵀ` of `ψ_i = n χ̃_i` less their mean. It holds also where
    the model is wrong, unlike the posterior covariance, and leaves out what hyperparameters do. Of samples that move their own
    neighbourhood by much, first order says too much or too little.

    Args:
        chi: first-order response to `reweight()` of every row.
        weights: ρ (n,) of the rows; None takes those of chi's own data, or one where chi does not know it any more.

    Returns:
        covariance (m, m), in the units of the observables, and a bound on its error from that of chi.

    Raises:
        InputError: another response.
    """
    if not isinstance(chi, Susceptibility):
        raise InputError(f"jackknife_covariance got {shown(chi)}; expected what gr.susceptibility returns")
    if chi.kind != "reweight" or chi.order not in ("first", "refit derivative") or not chi.every_sample:
        raise InputError(
            f"jackknife_covariance got a response to {chi.kind} ({chi.order}, {chi.shape[1]} columns); give it "
            "gr.susceptibility(posterior, observable, gr.reweight())"
        )
    if chi.convention != "rho":
        raise InputError(f"jackknife_covariance got convention {chi.convention!r}; give it the original response")
    scale = _weights(chi, weights)
    moved, off = chi.matrix.double() * scale, chi.error.double() * scale
    moved, off = moved - moved.mean(dim=1, keepdim=True), off + off.mean(dim=1, keepdim=True)
    size = moved.abs()
    cross = size @ off.T
    error = cross + cross.T + off @ off.T + 8.0 * torch.finfo(torch.float64).eps * size @ size.T
    return rounded(Certified(moved @ moved.T, error), chi.matrix.dtype)


def _weights(chi: Susceptibility, weights: Any) -> Tensor:
    n = chi.shape[1]
    if weights is None:
        if chi.source is None:
            return chi.matrix.new_ones(n).double()
        return sample_weights(chi.source.posterior.data.train).double()
    expected = f"({n},) finite numbers of 0 or more"
    given = as_tensor(
        weights, "jackknife_covariance's weights", expected, dtype=torch.float64, device=chi.matrix.device
    )
    if given.shape != (n,) or not bool((given.isfinite() & (given >= 0)).all()):
        raise InputError(f"jackknife_covariance got weights of shape {tuple(given.shape)}; expected {expected}")
    return given


__all__ = ["jackknife_covariance"]
