"""The Laplace approximation of a trained network, as a posterior that every response can be asked of."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn

from gp_response.curvature import Network
from gp_response.curvature.loss import IGNORED
from gp_response.data import Dataset, by_label, check, dataset, same_labels
from gp_response.errors import InputError, unknown_name
from gp_response.heads.exact_posterior import ExactPosterior
from gp_response.heads.laplace_solver import chosen_solver
from gp_response.heads.network_classes import NetworkClassPosterior
from gp_response.heads.network_curvature import KINDS
from gp_response.heads.network_model import NetworkModel
from gp_response.heads.network_output import OneOutput
from gp_response.heads.network_outputs import NetworkOutputs, NetworkOutputSites
from gp_response.heads.network_posterior import NetworkPosterior
from gp_response.heads.network_sites import NetworkSites
from gp_response.heads.prior_evidence import prior_by_evidence
from gp_response.heads.tangent_map import Inputs, TangentMap
from gp_response.likelihoods import Categorical, Gaussian, Likelihood
from gp_response.linalg.memory import free_bytes
from gp_response.solvers import Cholesky

PRECISIONS = ("float32", "float64")
# By whether noise is Gaussian: of one label a sample, and of several.
POSTERIORS = {True: (NetworkPosterior, NetworkOutputs), False: (NetworkSites, NetworkOutputSites)}
DOUBLED = 64  # vectors of the parameters' length that must fit in float64 where a float32 network is computed in it


def laplace(
    net: nn.Module,
    data: Dataset | tuple[Any, ...],
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
        net: in evaluation mode, rows first. Outputs (n,) or (n, 1) are one number a sample, (n, C) are C numbers, each with a
            label of its own, or the classes of `Categorical(C)`; (n, T, C) are those of each of T tokens. Copied.
        data: a Dataset, with weights and known noise; or (x, y) or (x, y, weights): x (n, ...) of any shape, rows first,
            integers for tokens; y as the outputs are, but for a last axis of one or of classes: (n,), (n, C), (n, T) or
            (n, T, C). A token of label -100 has none, where labels are classes or counts. Points are then rows flattened
            to (n, d), and labels to a row each (`gr.Dataset.label_shape`).
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
        With several outputs a sample, observables at x (p, d) are asked of every output, but for the loss, of labels (p, *axes),
        which is a sum over them; of one output at points (p, d + q), which have its place in further columns. `reweight`,
        `delete` and `insert` take samples whole, `relabel` moves label by label.

    Raises:
        InputError: an argument or a network that cannot be used.
        SolverError: a precision that is not positive definite.
    """
    _check(likelihood, curvature, beta, localise, batch_size)
    assert likelihood is not None
    network = _in_precision(Network(net, parameters), precision)
    data, tangent = read_data(data, network, likelihood)
    data = data.to(device=network.device)
    one = torch.ones((), dtype=torch.float64, device=network.device)
    model = NetworkModel(tangent, one, likelihood, curvature, float(beta), solver, batch_size)
    choice = prior_by_evidence(model.curvature(data), network.origin) if prior_precision == "evidence" else None
    prior = _precision(prior_precision if choice is None else choice.precision, network) + float(localise)
    model = replace(model, precision=prior, solver=chosen_solver(solver, network.count, data, bool(tangent.axes)))
    posterior = _posterior(model, data)
    posterior.prior_choice = choice
    return posterior


def read_data(data: Dataset | tuple[Any, ...], network: Network, likelihood: Likelihood) -> tuple[Dataset, TangentMap]:
    """Data as rows of numbers, one a label, and the network as a function of them.

    Raises:
        InputError: outputs that the likelihood cannot read, or labels that are not theirs.
    """
    if isinstance(data, Dataset):
        if data.label_shape:
            raise InputError("laplace got a Dataset of several labels a sample; give the pair (x, y) it was made of")
        inputs = Inputs((data.dim,))
        return data, TangentMap(network, inputs, _axes(network, inputs, data.train.x, likelihood, ()))
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise InputError(f"laplace got data of type {type(data).__name__}; expected a Dataset or a pair (x, y)")
    x, y, weights = (*data, None)[:3]
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"laplace got x of type {type(x).__name__}; expected one array or tensor, rows first (wrap a network of several "
            "inputs in a module that takes them from one)"
        ) from None
    if x.ndim < 1 or not x.numel():
        raise InputError(f"laplace got x of shape {tuple(x.shape)}; expected rows first, (n, ...)")
    inputs = Inputs(tuple(x.shape[1:]) or (1,), None if x.is_floating_point() else x.dtype)
    rows, _ = check.points(x.reshape(len(x), -1), "x")
    y = check.arrays(y, "y", rows=len(rows), of="x")
    axes = _axes(network, inputs, rows, likelihood, tuple(y.shape[1:]))
    label_shape = axes[:-1] if isinstance(likelihood, Categorical) else axes
    if not label_shape:
        return dataset(rows, y, weights=weights, standardise=False), TangentMap(network, inputs, axes)
    names = ("output",) if len(axes) == 1 else ("token", "output")[: len(label_shape)]
    ignored = IGNORED if likelihood.discrete else None
    long = by_label(rows, y, shape=label_shape, names=names, weights=weights, ignored=ignored)
    return long, TangentMap(network, inputs, axes)


def _axes(
    network: Network, inputs: Inputs, x: Tensor, likelihood: Likelihood, labels: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of a sample's outputs, () for a single one; refused where the likelihood or the labels (*labels,) do not fit."""
    few = inputs.of(x[:4].to(network.dtype))
    network.check(few)
    shape = tuple(network.output(few).shape[1:])
    if isinstance(likelihood, Categorical):
        axes, expected = shape, shape[:-1]
        fits = shape[-1] == likelihood.classes
    else:
        axes, expected, fits = (() if shape == (1,) else shape), (() if shape == (1,) else shape), True
    if not fits or not same_labels(labels, expected):
        raise InputError(_misfit(shape, likelihood, labels, expected, fits))
    return axes


def _misfit(
    shape: tuple[int, ...], likelihood: Likelihood, labels: tuple[int, ...], expected: tuple[int, ...], fits: bool
) -> str:
    has = f"the network gives outputs of shape {shape} a row"
    if not fits:
        return f"{has}; {likelihood!r} needs a number for each class in the last axis, ({likelihood.classes},)"
    want, got = (f"(n{''.join(f', {size}' for size in part)}{',' * (not part)})" for part in (expected, labels))
    return (
        f"{has}, so that labels are {want} under {likelihood!r}, and they are {got}; give a pair (x, y) with y {want}"
    )


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
    if not 0.0 < _number(beta) < inf or not 0.0 <= _number(localise) < inf:
        raise InputError(
            f"laplace(beta={beta!r}, localise={localise!r}): expected numbers beta > 0 and localise >= 0, finite"
        )
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InputError(f"laplace(batch_size={batch_size!r}): expected an integer of 1 or more, or None")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return nan


def _in_precision(network: Network, precision: str | None) -> Network:
    if precision not in (None, *PRECISIONS):
        raise unknown_name("precision", str(precision), PRECISIONS)
    if precision == "float32" and network.dtype != torch.float32:
        raise InputError('precision="float32" got a float64 network; give net.float()')
    free = free_bytes(network.device)
    fits = free is None or DOUBLED * 8 * network.count <= free
    return network.double() if precision == "float64" or (precision is None and fits) else network


def _precision(value: Any, network: Network) -> Tensor:
    try:
        precision = torch.as_tensor(value, dtype=torch.float64).to(network.device)
    except (TypeError, ValueError):
        raise InputError(f"prior_precision={value!r}; expected a number, (P,) numbers, or 'evidence'") from None
    precision = precision.reshape(()) if precision.numel() == 1 else precision
    positive = bool(((precision > 0) & precision.isfinite()).all())
    if precision.shape not in ((), (network.count,)) or not positive:
        got = f"{float(precision):g}" if precision.ndim == 0 else f"of shape {tuple(precision.shape)}"
        raise InputError(f"prior_precision {got}; expected a positive finite number or ({network.count},) of them")
    return precision


def _posterior(model: NetworkModel, data: Dataset) -> Any:
    if isinstance(model.likelihood, Categorical):
        return NetworkClassPosterior(model, data).settled()
    single, several = POSTERIORS[isinstance(model.likelihood, Gaussian)]
    posterior: OneOutput = (several if data.label_shape else single)(model, data)
    if not isinstance(model.solver, Cholesky):
        return posterior.settled()
    posterior.head.solver = model.solver
    found = posterior.head.condition(data)
    found.head = posterior.head
    return found


__all__ = ["laplace", "read_data"]
