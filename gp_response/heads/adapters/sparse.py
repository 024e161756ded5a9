"""GPyTorch's sparse models: SGPR by InducingPointKernel, and variational GPs."""

from typing import Any

import gpytorch
from torch import Tensor

from gp_response.data import Dataset, dataset
from gp_response.errors import InputError
from gp_response.heads.adapters.kernels import own_copy, translate_kernel
from gp_response.heads.adapters.parts import Parts, as_rows, check_forward, modules_of, noise_of
from gp_response.heads.adapters.units import Outcome, translate_mean
from gp_response.heads.sgpr import SGPR
from gp_response.heads.svgp import SVGP
from gp_response.kernels import Kernel
from gp_response.likelihoods import Gaussian, Likelihood, Probit, StudentT

InducingPointKernel = gpytorch.kernels.InducingPointKernel
STRATEGIES = (gpytorch.variational.VariationalStrategy, gpytorch.variational.UnwhitenedVariationalStrategy)


def is_inducing(kernel: Any) -> bool:
    """Whether a kernel is one of inducing points. Raises InputError where it is only a part of it."""
    if type(kernel) is InducingPointKernel:
        return True
    if any(isinstance(module, InducingPointKernel) for module in kernel.modules()):
        raise InputError(
            f"an InducingPointKernel inside a {type(kernel).__name__}; give InducingPointKernel(ScaleKernel(...), ...) itself"
        )
    return False


def sgpr_of(parts: Parts, kernel: Kernel, mean: Any) -> SGPR:
    """The head of a model whose covariance is an InducingPointKernel around `kernel`."""
    if parts.covar_module.active_dims is not None:
        raise InputError("an InducingPointKernel with active_dims; give them to its base kernel instead")
    return SGPR(kernel, inducing_points(parts.covar_module), parts.noise, mean=mean)


def inducing_points(holder: Any) -> Tensor:
    """(m, d) in the units of the model."""
    points = holder.inducing_points.detach().double()
    if points.dim() != 2:
        raise InputError(f"inducing points of shape {tuple(points.shape)}; give a model of one output and no batch")
    return points


def variational_head(model: Any, likelihood: Any, train_x: Any, train_y: Any) -> tuple[SVGP, Dataset]:
    """The head and data of an ApproximateGP, whose inducing points and hyperparameters are taken.

    The Gaussian over the inducing points is not: `condition` finds the best one, at which alone a response is defined.
    """
    given = {"likelihood": likelihood, "train_x": train_x, "train_y": train_y}
    if missing := [name for name, value in given.items() if value is None]:
        raise InputError(
            f"{type(model).__name__} is an ApproximateGP, which keeps no data; from_gpytorch needs {', '.join(missing)}"
        )
    strategy = model.variational_strategy
    if type(strategy) not in STRATEGIES:
        raise InputError(
            f"{type(strategy).__name__} is not supported; expected VariationalStrategy or UnwhitenedVariationalStrategy"
        )
    x, y = as_rows(train_x, train_y)
    (covar, mean), (law, known) = modules_of(model), likelihood_of(likelihood, len(x))
    parts = Parts(x, y, known, 0.0, None, Outcome(), covar, mean)
    check_forward(model, parts)
    kernel, z = translate_kernel(covar, parts.few), inducing_points(strategy)
    largest = float(kernel.matrix(z).diagonal().max().detach())
    head = SVGP(kernel, z, law, mean=translate_mean(mean, None, Outcome()), jitter=strategy.jitter_val / largest)
    return head, dataset(x, y, noise=known, standardise=False)


def likelihood_of(likelihood: Any, n: int) -> tuple[Likelihood, Tensor | None]:
    """Ours, and known noise of the n rows."""
    if type(likelihood) is gpytorch.likelihoods.StudentTLikelihood:
        own = own_copy(likelihood)
        return StudentT(scale=float(own.noise.detach()), degrees=float(own.deg_free.detach())), None
    if type(likelihood) is gpytorch.likelihoods.BernoulliLikelihood:
        return Probit(), None
    if isinstance(likelihood, gpytorch.likelihoods.GaussianLikelihood):
        known, noise = noise_of(likelihood, n)
        return Gaussian(noise), known
    raise InputError(
        f"likelihood {type(likelihood).__name__} has no counterpart here; expected Gaussian-, Bernoulli- or StudentTLikelihood"
    )


__all__ = ["inducing_points", "is_inducing", "likelihood_of", "sgpr_of", "variational_head"]
