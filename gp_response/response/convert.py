"""The same response in the signs and normalisations of other work.

| name         | definition                                                       | from χ_j = d⟨O⟩/dρ_j = -β Cov(O, ℓ_j) |
|--------------|------------------------------------------------------------------|---------------------------------------|
| rho          | d⟨O⟩/dρ_j                                                        | χ_j                                   |
| structural   | (1/nβ) d⟨O⟩/dh on q → (1-h) q + h δ_j (arXiv:2504.18274)         | χ_j/β - mean_j(χ_j/β)                 |
| bif          | -Cov(ℓ_j, O), Bayesian influence function (arXiv:2509.26544)     | χ_j/β                                 |
| devinterp    | +Cov of loss traces, as the package devinterp returns            | -χ_j/β                                |
| kernel       | W_ij = Cov(ℓ_i, ℓ_j), W-kernel, loss kernel (arXiv:2311.13017)   | -χ_j/β, for losses only               |
| ij           | N d⟨O⟩/dρ_j, Bayesian infinitesimal jackknife (Giordano & Broderick) | N χ_j                             |
"""

from typing import Any

from torch import Tensor

from gp_response.errors import InputError, unknown_name

CONVENTIONS = ("rho", "structural", "bif", "devinterp", "kernel", "ij")


def convert(chi: Any, convention: str) -> tuple[Tensor, Tensor, str]:
    """Matrix, error and unit of a first-order reweighting response in another convention."""
    if convention not in CONVENTIONS:
        raise unknown_name("convention", str(convention), CONVENTIONS)
    _check(chi, convention)
    matrix, error = chi.matrix / chi.beta, chi.error / chi.beta
    per = f"({chi.unit}) / beta"
    if convention == "rho":
        return chi.matrix, chi.error, chi.unit
    if convention == "ij":
        return chi.samples * chi.matrix, chi.samples * chi.error, f"{chi.samples} x ({chi.unit})"
    if convention == "structural":
        centred = matrix - matrix.mean(dim=1, keepdim=True)
        return centred, error + error.mean(dim=1, keepdim=True), f"{per}, rows sum to 0"
    return (matrix if convention == "bif" else -matrix), error, per


def _check(chi: Any, convention: str) -> None:
    if chi.convention != "rho":
        raise InputError(f"this response is already in convention {chi.convention!r}; convert the original one")
    if convention == "rho":
        return
    if chi.kind != "reweight" or chi.order not in ("first", "sampled", "refit derivative"):
        raise InputError(
            f"{convention!r} is defined for derivatives by sample weights; this is {chi.kind} ({chi.order})"
        )
    if convention == "structural" and not chi.every_sample:
        raise InputError("'structural' averages over every training sample; use reweight() without rows")
    if convention == "kernel" and chi.observable != "loss":
        raise InputError(f"'kernel' is Cov(loss, loss); the observable here is {chi.observable}")


__all__ = ["CONVENTIONS", "convert"]
