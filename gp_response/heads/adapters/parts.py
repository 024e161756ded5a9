"""What of a trained model is needed, read from it and checked: points, targets, noise, kernel and mean."""

from dataclasses import dataclass
from typing import Any

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.errors import InputError
from gp_response.heads.adapters.units import Inputs, Outcome, inputs_of, outcome_of

FEW = 12  # points at which forward is held against covar_module
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Parts:
    """A model of one output, in the user's units where not said otherwise.

    Attributes:
        x, y: training rows (n, d), (n,).
        known: known noise variances (n,), None where there are none.
        noise: trained noise variance σ².
        inputs, outcome: from the user's units to the model's, and back.
        covar_module, mean_module: the model's own, in its units.
    """

    x: Tensor
    y: Tensor
    known: Tensor | None
    noise: float
    inputs: Inputs | None
    outcome: Outcome
    covar_module: Any
    mean_module: Any

    @property
    def few(self) -> Tensor:
        """Some training points in the model's units."""
        return self.inside(self.x[:: max(1, len(self.x) // FEW)][:FEW])

    def inside(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x if self.inputs is None else self.inputs(x.double()).to(x)


def read_parts(model: Any, likelihood: Any, train_x: Any, train_y: Any) -> Parts:
    """Read an exact GP. Raises InputError, in one line, for what is not one of one output."""
    covar, mean = modules_of(model)
    x, y = _rows(model, train_x, train_y)
    outcome, inputs = outcome_of(model), inputs_of(model, x)
    known, noise = noise_of(getattr(model, "likelihood", None) if likelihood is None else likelihood, len(x))
    square = outcome.scale**2
    parts = Parts(
        x, y if train_y is not None else outcome.shift + outcome.scale * y.double(),
        None if known is None else square * known, square * noise, inputs, outcome, covar, mean,
    )  # fmt: skip
    check_forward(model, parts)
    return parts


def modules_of(model: Any) -> tuple[Any, Any]:
    """covar_module and mean_module."""
    covar, mean = (getattr(model, name, None) for name in ("covar_module", "mean_module"))
    if not isinstance(covar, gpytorch.kernels.Kernel) or not isinstance(mean, nn.Module):
        raise InputError(
            f"{type(model).__name__} has no mean_module and covar_module to read; name them so, or build gr.Exact(kernel)"
        )
    return covar, mean


def noise_of(likelihood: Any, n: int) -> tuple[Tensor | None, float]:
    """Known noise of n rows and σ², in the model's units."""
    kinds = gpytorch.likelihoods
    if isinstance(likelihood, kinds.FixedNoiseGaussianLikelihood) and likelihood.noise_covar.noise.shape == (n,):
        second = likelihood.second_noise_covar
        known = likelihood.noise_covar.noise.detach().double()
        return known, 0.0 if second is None else _one(second.noise)
    plain = isinstance(likelihood, kinds.GaussianLikelihood)
    if plain and isinstance(likelihood.noise_covar, kinds.noise_models.HomoskedasticNoise):
        return None, _one(likelihood.noise)
    shape = tuple(getattr(likelihood, "noise", torch.zeros(())).shape)
    raise InputError(
        f"likelihood {type(likelihood).__name__} with noise of shape {shape}; expected GaussianLikelihood, or "
        f"FixedNoiseGaussianLikelihood with the noise of the {n} training rows"
    )


def _one(noise: Tensor) -> float:
    if noise.numel() != 1:
        raise InputError(f"noise of shape {tuple(noise.shape)}; give a model of one output and no batch")
    return float(noise.detach())


def _rows(model: Any, train_x: Any, train_y: Any) -> tuple[Tensor, Tensor]:
    """Points in the user's units and targets as given, or in the model's units when they are the model's."""
    if (train_x is None) != (train_y is None):
        raise InputError("from_gpytorch got one of train_x and train_y; give both, or neither to take the model's own")
    if train_x is not None:
        return as_rows(train_x, train_y)
    inputs = getattr(model, "train_inputs", None)
    if not inputs or len(inputs) != 1 or model.train_targets is None:
        raise InputError(f"{type(model).__name__} holds no single set of training inputs; give train_x and train_y")
    # A BoTorch model in evaluation mode keeps transformed inputs in their place.
    transformed = getattr(model, "_has_transformed_inputs", False)
    return as_rows(model._original_train_inputs if transformed else inputs[0], model.train_targets)


def as_rows(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """(n, d) and (n,)."""
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    x = x[:, None] if x.dim() == 1 else x
    y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 and y.shape[0] == x.shape[0] else y
    if x.dim() != 2 or y.shape != x.shape[:1]:
        raise InputError(
            f"training inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}; "
            "expected (n, d) and (n,): a model of one output without a batch"
        )
    return x, y


def check_forward(model: Any, parts: Parts) -> None:
    """The covariance and mean of `model.forward` are those of its modules: what forward does besides cannot be seen."""
    z, training = parts.few, model.training
    # In training mode a BoTorch model would transform the points, and fit the transform to them.
    model.training = False
    try:
        with torch.no_grad():
            prior = model.forward(z)
            seen = (prior.covariance_matrix, prior.mean)
            read = (parts.covar_module(z).to_dense(), parts.mean_module(z))
    except Exception as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _hidden(model, f"they cannot be evaluated at the training inputs ({said[:120]})") from None
    finally:
        model.training = training
    for what, one, other in zip(("covariance", "mean"), seen, read, strict=True):
        scale = float(seen[0].detach().diagonal().max()) ** (1.0 if what == "covariance" else 0.5)
        if one.shape != other.shape or float((one - other).detach().abs().max()) > AGREEMENT[z.dtype] * scale:
            raise _hidden(model, f"the {what} of forward differs at the training inputs")


def _hidden(model: Any, why: str) -> InputError:
    return InputError(
        f"{type(model).__name__}.forward is more than its mean_module and covar_module: {why}; "
        "for features, build gr.Exact(kernel.on(features), noise=...)"
    )


__all__ = ["Parts", "as_rows", "check_forward", "modules_of", "noise_of", "read_parts"]
