"""BoTorch's side: the posterior as one of its models, and acquisition functions that ask for response.

BoTorch is imported when something here is first used, never with the package; its classes are made then.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import gpytorch
import torch
from linear_operator import to_linear_operator
from torch import Tensor

from gp_response.acquisition.field import Field, field_of, new_noise
from gp_response.errors import InputError, MissingDependency
from gp_response.posterior import Posterior
from gp_response.response import Observable
from gp_response.response.observables import Value


def to_botorch(posterior: Posterior) -> Any:
    """A BoTorch `Model` of one output, for its acquisition functions and `optimize_acqf`.

    `model.posterior(X)` gives the joint field at X (..., q, d), differentiable in X, from a float64 Cholesky factor; inputs
    and outputs are in the units of `posterior.data.train`. `fantasize` and `condition_on_observations` add rows at fixed
    hyperparameters, with noise σ² (the mean of the known noise where that is all there is) unless they are told another.

    Raises:
        MissingDependency: BoTorch is not installed.
        InputError: no exact posterior.
    """
    field = field_of(posterior)
    return _classes().Model(posterior, field)


def ExpectedSusceptibility(posterior: Posterior, observable: Observable) -> Any:
    """Acquisition: how far the label to be seen at x is expected to move an observable, `E_y (δ⟨O⟩)²`, x (b, 1, d) → (b,).

    The label is `y ~ N(⟨f(x)⟩, S_xx + σ²)` and enters with weight one, so that `δ⟨O⟩ = S_Ox (y - ⟨f(x)⟩)/(S_xx + σ²/β)`, and
    for β = 1 the expectation is `S_Ox²/(S_xx + σ²)`: by how much the label lowers the variance of O. Several observables
    are added up. Maximise it to learn `value`, `contrast` or `average` as fast as one label can.

    Args:
        observable: linear in the field: `value(x)`, `contrast(x, x')` or `average(x, weights)`.

    Raises:
        MissingDependency: BoTorch is not installed.
        InputError: another observable, or no exact posterior.
    """
    if not isinstance(observable, Value):
        raise InputError(
            f"ExpectedSusceptibility got {type(observable).__name__.lower()}; expected value, contrast or average"
        )
    return _classes().ExpectedSusceptibility(to_botorch(posterior), posterior.points(observable.points), observable)


@cache
def library() -> Any:
    """The package botorch. Raises MissingDependency where it is not installed."""
    try:
        import botorch
    except ImportError as error:
        raise MissingDependency(f'this needs botorch ({error}): pip install "gp_response[botorch]"') from None
    return botorch


@cache
def _classes() -> Any:
    library()
    from botorch.acquisition import AcquisitionFunction
    from botorch.models.model import FantasizeMixin, Model
    from botorch.posteriors import GPyTorchPosterior
    from botorch.utils.transforms import t_batch_mode_transform

    class FieldModel(Model, FantasizeMixin):
        """A `Field` and what was added to it: points (..., k, d), labels (..., k) and noise variances (..., k)."""

        source: Any
        field: Any
        new_noise: Any
        added: Any

        def __init__(self, posterior: Posterior, field: Field, added: tuple[Tensor, Tensor, Tensor] | None = None):
            super().__init__()
            # Plain attributes: BoTorch moves the modules it finds to the dtype of its points.
            self.source, self.field, self.added = posterior, field, added
            self.new_noise = float(new_noise(posterior))
            self.likelihood = gpytorch.likelihoods.GaussianLikelihood()

        @property
        def num_outputs(self) -> int:
            return 1

        @property
        def batch_shape(self) -> torch.Size:
            return torch.Size() if self.added is None else self.added[1].shape[:-1]

        @property
        def train_inputs(self) -> tuple[Tensor]:
            return (self.field.x,)

        @property
        def train_targets(self) -> Tensor:
            return self.field.data.train.y.double()

        def posterior(  # type: ignore[override]
            self, X: Tensor, output_indices: Any = None, observation_noise: bool | Tensor = False,
            posterior_transform: Any = None, **kwargs: Any,
        ) -> Any:  # fmt: skip
            mean, cov = self.moments(X.double())
            if isinstance(observation_noise, Tensor):
                cov = cov + torch.diag_embed(observation_noise[..., 0].to(mean).expand_as(mean))
            elif observation_noise:
                cov = cov + self.new_noise * torch.eye(X.shape[-2]).to(cov)
            mvn = gpytorch.distributions.MultivariateNormal(mean.to(X), to_linear_operator(cov.to(X)))
            found = GPyTorchPosterior(mvn)
            return found if posterior_transform is None else posterior_transform(posterior=found, X=X)

        def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
            """Mean (..., q) and covariance (..., q, q) of points (..., q, d)."""
            if self.added is None:
                return self.field.joint(x)
            points, labels, noise = self.added
            batch = torch.broadcast_shapes(points.shape[:-2], x.shape[:-2])
            k = points.shape[-2]
            both = [part.expand(*batch, *part.shape[-2:]) for part in (points, x)]
            mean, cov = self.field.joint(torch.cat(both, dim=-2))
            gain = torch.linalg.solve(cov[..., :k, :k] + torch.diag_embed(noise), cov[..., :k, k:])
            move = ((labels - mean[..., :k])[..., None, :] @ gain)[..., 0, :]
            left = cov[..., k:, k:] - cov[..., k:, :k] @ gain
            left = 0.5 * (left + left.mT)
            return mean[..., k:] + move, left.expand(*move.shape[:-1], *left.shape[-2:])

        def condition_on_observations(self, X: Tensor, Y: Tensor, noise: Tensor | None = None, **kwargs: Any) -> Any:
            points, labels = X.double(), Y.double()[..., 0]
            level = labels.new_full((1,), self.new_noise) if noise is None else noise.to(labels)[..., 0]
            level = level.expand(*level.shape[:-1], labels.shape[-1]) / self.source.beta
            if self.added is not None:
                old_points, old_labels, old_noise = self.added
                batch = torch.broadcast_shapes(old_points.shape[:-2], points.shape[:-2])
                points = torch.cat([p.expand(*batch, *p.shape[-2:]) for p in (old_points, points)], dim=-2)
                labels, level = _joined(old_labels, labels), _joined(old_noise, level)
            return FieldModel(self.source, self.field, (points, labels, level))

    class Expected(AcquisitionFunction):
        """See `ExpectedSusceptibility`."""

        model: Any

        def __init__(self, model: Any, points: Tensor, observable: Observable):
            super().__init__(model)
            field, points = model.field, points.double()
            self.points = points
            self.reads = torch.eye(len(points)).to(points) if observable.weights is None else observable.weights
            self.reads = self.reads.to(points)
            with torch.no_grad():
                self.halves = field.half(points) @ self.reads.T

        @t_batch_mode_transform(expected_q=1)  # type: ignore[arg-type]
        def forward(self, X: Tensor) -> Tensor:
            field: Field = self.model.field
            x = X[..., 0, :].reshape(-1, X.shape[-1]).double()
            half = field.half(x)
            across = self.reads @ field.kernel.matrix(self.points, x) - self.halves.T @ half
            variance = (field.kernel.diagonal(x) - half.square().sum(dim=0)).clamp_min(0.0)
            noise = self.model.new_noise
            gain = across.square() / (variance + noise / self.model.source.beta).square()
            return ((variance + noise) * gain.sum(dim=0)).reshape(X.shape[:-2]).to(X)

    return SimpleNamespace(Model=FieldModel, ExpectedSusceptibility=Expected)


def _joined(old: Tensor, new: Tensor) -> Tensor:
    """Along the last dimension, whatever the batches before it."""
    batch = torch.broadcast_shapes(old.shape[:-1], new.shape[:-1])
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in (old, new)], dim=-1)


Posterior.operations["botorch"] = to_botorch

__all__ = ["ExpectedSusceptibility", "library", "to_botorch"]
