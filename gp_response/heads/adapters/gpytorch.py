"""A trained GPyTorch or BoTorch model as a posterior of ours."""

from typing import Any

import torch

from gp_response.data import Dataset, dataset
from gp_response.errors import InputError
from gp_response.heads.adapters.kernels import translate_kernel
from gp_response.heads.adapters.parts import Parts, read_parts
from gp_response.heads.adapters.units import translate_mean
from gp_response.heads.exact import Exact
from gp_response.kernels import Kernel
from gp_response.posterior import Posterior


def from_gpytorch(
    model: Any, *, likelihood: Any = None, train_x: Any = None, train_y: Any = None, solver: Any = None
) -> Posterior:
    """The posterior of a model trained elsewhere, by explicit solves at its hyperparameters.

    Takes exact GPs of one output: GPyTorch's ExactGP with GaussianLikelihood or FixedNoiseGaussianLikelihood, BoTorch's
    SingleTaskGP (also with train_Yvar), whose transforms are undone: points, targets and answers are in the units the
    model was given its data in. The model is read and copied, not changed; priors are not carried over.

    Args:
        likelihood: None takes `model.likelihood`.
        train_x, train_y: (n, d), (n,) in the user's units, in place of the model's own rows.
        solver: as for `Exact`.

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
    parts = read_parts(model, likelihood, train_x, train_y)
    return Exact(kernel_of(parts), parts.noise, solver=solver, mean=mean_of(parts)), data_of(parts)


def kernel_of(parts: Parts) -> Kernel:
    """The kernel of the field in the user's units."""
    scale = None if parts.outcome.scale == 1.0 else parts.outcome.scale**2
    kernel = translate_kernel(parts.covar_module, parts.few, scale=scale)
    return kernel if parts.inputs is None else kernel.on(parts.inputs)


def mean_of(parts: Parts) -> float | torch.nn.Module:
    return translate_mean(parts.mean_module, parts.inputs, parts.outcome)


def data_of(parts: Parts) -> Dataset:
    return dataset(parts.x, parts.y, noise=parts.known, standardise=False)


__all__ = ["data_of", "from_gpytorch", "head_from_gpytorch", "kernel_of", "mean_of"]
