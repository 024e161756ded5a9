"""A trained GPyTorch or BoTorch model as a posterior of ours."""

from typing import Any

import gpytorch
import torch

from gp_response.data import Dataset, dataset
from gp_response.errors import InputError
from gp_response.heads.adapters.kernels import translate_kernel
from gp_response.heads.adapters.parts import Parts, read_parts
from gp_response.heads.adapters.sparse import is_inducing, sgpr_of, variational_head
from gp_response.heads.adapters.units import translate_mean
from gp_response.heads.exact import Exact
from gp_response.kernels import Kernel
from gp_response.posterior import Posterior


def from_gpytorch(
    model: Any, *, likelihood: Any = None, train_x: Any = None, train_y: Any = None, solver: Any = None
) -> Posterior:
    """The posterior of a model trained elsewhere, by explicit solves at its hyperparameters.

    Takes models of one output. Exact GPs: GPyTorch's ExactGP with GaussianLikelihood or FixedNoiseGaussianLikelihood,
    BoTorch's SingleTaskGP (also with train_Yvar), whose transforms are undone: points, targets and answers are in the
    units the model was given its data in. Sparse ones: ExactGP with an InducingPointKernel becomes `SGPR`, ApproximateGP
    becomes `SVGP`, whose Gaussian over the inducing points is the best one at the model's hyperparameters rather than the
    one training has reached. For an InducingPointKernel GPyTorch trains Titsias' bound, whose optimum SGPR is, but predicts with
    FITC's diagonal added to the noise unless its setting sgpr_diagonal_correction is off: expect its means to differ by
    that. The model is read and copied, not changed; priors are not carried over.

    Args:
        likelihood: None takes `model.likelihood`; an ApproximateGP has none, and needs it.
        train_x, train_y: (n, d), (n,) in the user's units, in place of the model's own rows; an ApproximateGP has none.
        solver: as for `Exact`; not for sparse models.

    Returns:
        a posterior whose `head` conditions again: `gr.refit_response(posterior.head, posterior.data, ...)`.

    Raises:
        InputError: batches, several outputs, non-Gaussian likelihoods, outcome transforms that are not affine, a forward
            that does more than apply mean_module and covar_module.
    """
    head, data = head_from_gpytorch(model, likelihood=likelihood, train_x=train_x, train_y=train_y, solver=solver)
    posterior = head.condition(data)
    posterior.head = head
    return posterior


def head_from_gpytorch(
    model: Any, *, likelihood: Any = None, train_x: Any = None, train_y: Any = None, solver: Any = None
) -> tuple[Any, Dataset]:
    """The head and the data of `from_gpytorch`, not conditioned."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"from_gpytorch got a {type(model).__name__}; expected a GPyTorch or BoTorch model")
    if isinstance(model, gpytorch.models.ApproximateGP):
        _refuse_solver(model, solver)
        return variational_head(model, likelihood, train_x, train_y)
    parts = read_parts(model, likelihood, train_x, train_y)
    if not is_inducing(parts.covar_module):
        kernel = kernel_of(parts, parts.covar_module)
        return Exact(kernel, parts.noise, solver=solver, mean=mean_of(parts)), data_of(parts)
    _refuse_solver(model, solver)
    return sgpr_of(parts, kernel_of(parts, parts.covar_module.base_kernel), mean_of(parts)), data_of(parts)


def _refuse_solver(model: Any, solver: Any) -> None:
    if solver is not None:
        raise InputError(f"{type(model).__name__} is a sparse model, which needs no solver; leave solver out")


def kernel_of(parts: Parts, covar_module: Any) -> Kernel:
    """The kernel of the field in the user's units."""
    scale = None if parts.outcome.scale == 1.0 else parts.outcome.scale**2
    kernel = translate_kernel(covar_module, parts.few, scale=scale)
    return kernel if parts.inputs is None else kernel.on(parts.inputs)


def mean_of(parts: Parts) -> float | torch.nn.Module:
    return translate_mean(parts.mean_module, parts.inputs, parts.outcome)


def data_of(parts: Parts) -> Dataset:
    return dataset(parts.x, parts.y, noise=parts.known, standardise=False)


__all__ = ["data_of", "from_gpytorch", "head_from_gpytorch", "kernel_of", "mean_of"]
