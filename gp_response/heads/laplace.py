"""The Laplace approximation of a trained network, as a posterior that every response can be asked of."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.curvature import Network
from gp_response.data import Dataset, dataset
from gp_response.errors import InputError, unknown_name
from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.laplace_solver import chosen_solver
from gp_response.heads.network_classes import NetworkClassPosterior
from gp_response.heads.network_curvature import KINDS
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_output import OneOutput
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.network_sites import NetworkSites
from gp_response.heads.prior_evidence import prior_by_evidence
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.likelihoods import Categorical, Gaussian, Likelihood
from gp_response.linalg.memory import free_bytes
from gp_response.solvers import Cholesky

PRECISIONS = ("float32", "float64")
DOUBLED = 64  # vectors of the parameters' length that must fit in float64 where a float32 network is computed in it


def laplace(
    net: nn.Module,
    data: Dataset | tuple[Any, Any],
    *,
    likelihood: Likelihood | None = None,
    parameters: Any = "all",
    prior_precision: float | Tensor | str = 1.0,
    localise: float = 0.0,
    curvature: str = "ggn",
    solver: Any = None,
    beta: float = 1.0,
    batch_size: int | None = None,
    precision: str | None = None,
) -> NetworkPosterior | NetworkClassPosterior | NetworkSites | ExactPosterior:
    """The posterior of a trained network: its parameters are Gaussian around where they are, with the precision
    `Λ = β Σ ρ_i J_iᵀ H_i J_i + Λ₀`, and its outputs linear in them (Khan et al. 2019; Immer, Korzepa & Bauer 2021).

    The network is taken as it stands: the prior `N(θ₀, Λ₀⁻¹)` is centred where that makes the trained parameters stationary,
    `θ₀ = θ* + Λ₀⁻¹ β Σ ρ ∇ℓ`, at zero for a network that was trained by ridge with Λ₀. Then it is a Gaussian process with the
    tangent kernel `J(x) Λ₀⁻¹ J(x')ᵀ`, of which the posterior mean is the network itself, and `posterior.head` is that process.
    Of several classes it is the linear network under the softmax, whose mode given other data is found by Newton's method.

    Args:
        net: in evaluation mode, of one output a row, or of C for `Categorical(C)`. Copied.
        data: a Dataset, with weights and known noise, or a pair (x, y): x (n, ...) of any shape, rows first, integers for
            tokens; y (n,). Points are then rows flattened to (n, d).
        likelihood: such as `Gaussian(noise=0.1)`, `Bernoulli()` or `Categorical(C)`.
        parameters: "all", "head" (the last layer), names, patterns, or a callable; see `gr.select`. The others stay as they are.
        prior_precision: Λ₀, a number or (P,); "evidence" takes the number at the maximum of the evidence of a prior around zero.
        localise: γ, a further precision around the trained parameters themselves (Lau et al. 2023); no part of the evidence.
        curvature: "ggn"; "hessian", by which the network's own optimum moves: means then answer as the network would when
            trained again, to first order, variances and finite changes do not, and too little prior precision is an error;
            or "fisher", which for these likelihoods is the same as "ggn".
        solver: `Dense()`, `CG()`, `Lanczos()`; `Cholesky()` is function space, a system of the n rows. None chooses by size.
            What was used is `posterior.solver`.
        beta: inverse temperature.
        batch_size: rows swept together; results do not depend on it.
        precision: "float64" or "float32" for all passes through the network; None: float64 where that fits. What float32 rounds
            is in the error bounds.

    Returns:
        a posterior: every observable and perturbation for Gaussian noise, those of means (and losses) for other likelihoods.

    Raises:
        InputError: an argument or a network that cannot be used.
        SolverError: a precision that is not positive definite.
    """
    data, inputs = as_rows(data)
    _check(likelihood, curvature, beta, localise, batch_size)
    assert likelihood is not None
    network = _in_precision(Network(net, parameters), precision)
    data = data.to(device=network.device)
    _check_outputs(network, data, inputs, likelihood)
    several = likelihood.classes if isinstance(likelihood, Categorical) else None
    one = torch.ones((), dtype=torch.float64, device=network.device)
    model = NetworkModel(
        TangentMap(network, inputs, several), one, likelihood, curvature, float(beta), solver, batch_size
    )
    choice = prior_by_evidence(model.curvature(data), network.origin) if prior_precision == "evidence" else None
    prior = _precision(prior_precision if choice is None else choice.precision, network) + float(localise)
    model = replace(model, precision=prior, solver=chosen_solver(solver, network.count, data, several))
    posterior = _posterior(model, data)
    posterior.prior_choice = choice
    return posterior


def as_rows(data: Dataset | tuple[Any, Any]) -> tuple[Dataset, Inputs]:
    """Data as rows of numbers, and what the module takes for a row."""
    if isinstance(data, Dataset):
        return data, Inputs((data.dim,))
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputError(f"laplace got data of type {type(data).__name__}; expected a Dataset or a pair (x, y)")
    x = torch.as_tensor(data[0])
    if x.ndim < 1 or not x.numel():
        raise InputError(f"laplace got x of shape {tuple(x.shape)}; expected rows first, (n, ...)")
    kind = None if x.is_floating_point() else x.dtype
    return dataset(x.reshape(len(x), -1), data[1], standardise=False), Inputs(tuple(x.shape[1:]) or (1,), kind)


def _check(likelihood: Any, curvature: str, beta: float, localise: float, batch_size: int | None) -> None:
    if not isinstance(likelihood, Likelihood):
        raise InputError(
            f"laplace got likelihood={likelihood!r}; give the one the network was trained with, such as "
            "gr.Gaussian(noise=0.1) or gr.Categorical(10)"
        )
    if not likelihood.concave:
        raise InputError(
            f"{likelihood!r} takes precision away from rows far off, which laplace does not follow; use gr.Exact"
        )
    if curvature not in KINDS:
        raise unknown_name("curvature", str(curvature), KINDS)
    if curvature != "ggn" and not isinstance(likelihood, Gaussian | Categorical):
        raise InputError(
            f'under {likelihood!r} sites move with the network, which curvature={curvature!r} does not; use "ggn"'
        )
    if not 0.0 < float(beta) < float("inf") or not 0.0 <= float(localise) < float("inf"):
        raise InputError(f"laplace(beta={beta!r}, localise={localise!r}): expected beta > 0 and localise >= 0, finite")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"laplace(batch_size={batch_size!r}): expected an integer of 1 or more, or None")


def _in_precision(network: Network, precision: str | None) -> Network:
    if precision not in (None, *PRECISIONS):
        raise unknown_name("precision", str(precision), PRECISIONS)
    if precision == "float32" and network.dtype != torch.float32:
        raise InputError('precision="float32" got a float64 network; give net.float()')
    free = free_bytes(network.device)
    fits = free is None or DOUBLED * 8 * network.count <= free
    return network.double() if precision == "float64" or (precision is None and fits) else network


def _check_outputs(network: Network, data: Dataset, inputs: Inputs, likelihood: Likelihood) -> None:
    """Refuse a network whose outputs the likelihood cannot read."""
    few = inputs.of(data.train.x[:4].to(network.dtype))
    network.check(few)
    shape = tuple(network.output(few).shape[1:])
    expected = (likelihood.classes,) if isinstance(likelihood, Categorical) else (1,)
    if shape != expected:
        raise InputError(
            f"the network gives outputs of shape {shape} a row; {likelihood!r} needs {expected}: wrap it in a module that "
            "returns one number a row, or a number for each class"
        )


def _precision(value: Any, network: Network) -> Tensor:
    try:
        precision = torch.as_tensor(value, dtype=torch.float64).to(network.device)
    except (TypeError, ValueError):
        raise InputError(f"prior_precision={value!r}; expected a number, (P,) numbers, or 'evidence'") from None
    precision = precision.reshape(()) if precision.numel() == 1 else precision
    positive = bool(((precision > 0) & precision.isfinite()).all())
    if precision.shape not in ((), (network.count,)) or not positive:
        raise InputError(
            f"prior_precision of shape {tuple(precision.shape)}; expected a positive number or ({network.count},) of them"
        )
    return precision


def _posterior(model: NetworkModel, data: Dataset) -> Any:
    if isinstance(model.likelihood, Categorical):
        return NetworkClassPosterior(model, data).settled()
    kind = NetworkPosterior if isinstance(model.likelihood, Gaussian) else NetworkSites
    posterior: OneOutput = kind(model, data)
    if not isinstance(model.solver, Cholesky):
        return posterior.settled()
    posterior.head.solver = model.solver
    found = posterior.head.condition(data)
    found.head = posterior.head
    return found


__all__ = ["as_rows", "laplace"]
