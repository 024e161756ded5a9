"""What sparse heads share: inducing points, where they lie, and conditioning through them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gpytorch
import torch
from torch import Tensor, nn

from gp_response.data import Dataset
from gp_response.errors import InputError
from gp_response.heads.basis import Basis
from gp_response.heads.class_posterior import ClassPosterior
from gp_response.heads.exact import Exact
from gp_response.heads.frozen import frozen_copy
from gp_response.heads.handoff import exact_head
from gp_response.heads.inducing import choose_inducing, split_features
from gp_response.heads.prior_mean import as_prior_mean
from gp_response.heads.site_posterior import SitePosterior
from gp_response.heads.sites import VARIATIONAL
from gp_response.heads.start import Start
from gp_response.kernels import Foreign, Kernel
from gp_response.kernels.casting import call_in_dtype_of
from gp_response.likelihoods import Categorical, Gaussian, Likelihood
from gp_response.linalg.transforms import inside_transform


class InducingHead(nn.Module):
    """A kernel seen through inducing points, with a likelihood.

    Args:
        kernel: any `gp_response.kernels.Kernel` or gpytorch kernel. For a deep kernel, `base.on(features)`, the inducing points
            live in the space of the features.
        inducing: their number, or the points themselves (m, d'), in feature space for a deep kernel.
        likelihood: log p(y | f).
        mean: prior mean, a number or a module from points (n, d) to (n,), copied; not trained.
        beta: inverse temperature.
        jitter: added to the diagonal of the inducing points' kernel matrix, in units of its largest entry; None takes the
            smallest power of ten from 1e-13 on at which it factors. What was taken is `posterior.basis.jitter`.
        placement: "pivoted", "greedy", "kmeans" or "random": how a number of points is chosen from the first data seen; see
            `choose_inducing`.
        seed: of that choice.

    Raises:
        InputError: arguments that cannot be.
    """

    points: nn.Parameter | None
    smooth_at_zero_weight = True  # weights enter as precisions: a row may fade in from nothing
    kind = VARIATIONAL

    def __init__(
        self, kernel: Kernel | gpytorch.kernels.Kernel, inducing: int | Tensor, likelihood: Likelihood, *,
        mean: Any = 0.0, beta: float = 1.0, jitter: float | None = None, placement: str = "pivoted", seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if isinstance(kernel, gpytorch.kernels.Kernel) and not isinstance(kernel, Kernel):
            kernel = Foreign(kernel)
        if not isinstance(kernel, Kernel):
            raise InputError(f"{name} got a kernel of type {type(kernel).__name__}; expected a gp_response Kernel")
        if not isinstance(likelihood, Likelihood):
            raise InputError(
                f"{name} got a likelihood of type {type(likelihood).__name__}; expected one such as Gaussian()"
            )
        if not 0.0 < float(beta) < float("inf"):
            raise InputError(f"{name}(beta={beta!r}): expected a positive finite number")
        self.kernel, self.likelihood = kernel, likelihood
        self.prior_mean, self.beta, self.jitter = as_prior_mean(mean), float(beta), jitter
        self.placement, self.seed, self.count = placement, seed, _count(inducing, name)
        points = inducing if isinstance(inducing, Tensor) else None
        self.chosen = points is None  # from the data
        self.register_parameter("points", None if points is None else nn.Parameter(points.detach().double().clone()))
        self.raw_noise_floor = -float("inf")
        self._jitter_used: float | None = None
        self._start: Start | None = None

    @property
    def noise(self) -> Tensor:
        """σ² of a Gaussian likelihood, 0-dim; NaN for others."""
        if isinstance(self.likelihood, Gaussian):
            return self.likelihood.noise
        return torch.full((), float("nan"), dtype=torch.float64)

    @property
    def raw_noise(self) -> Tensor:
        return self.likelihood.raw_noise if isinstance(self.likelihood, Gaussian) else torch.zeros(1)

    def floor_noise(self, value: float) -> None:
        """Keep training from taking the noise variance below `value`."""
        if isinstance(self.likelihood, Gaussian):
            floor = torch.tensor(max(value, 1e-300), dtype=torch.float64)
            self.raw_noise_floor = float(self.likelihood.noise_constraint.inverse_transform(floor))

    def place(self, data: Dataset, *, again: bool = False) -> None:
        """Choose the inducing points from the training rows, unless they are there already.

        Raises:
            InputError: given points are of another dimension than the rows or their features.
        """
        if inside_transform():
            return
        base, features = split_features(self.kernel)
        with torch.no_grad():
            x = data.train.x.double() if self.points is None or again else data.train.x[:1].double()
            z = x if features is None else call_in_dtype_of(x, features, lambda f, p: f(p), x)
            if self.points is not None and not again:
                if self.points.shape[1] != z.shape[1]:
                    raise InputError(
                        f"inducing points of shape {tuple(self.points.shape)}; expected (m, {z.shape[1]}), "
                        + ("as the rows are" if features is None else "as their features are")
                    )
                return
            chosen = choose_inducing(
                base, z, min(self.count, len(z)), method=self.placement, weights=data.train.weights, seed=self.seed
            )
        self.points = nn.Parameter(chosen.double().clone())

    def condition(self, data: Dataset) -> SitePosterior | ClassPosterior:
        """The posterior given the training rows at the present hyperparameters and inducing points. Nothing is trained.

        Inducing points given as a number are chosen by the first call and then stay, so that a change of the data changes
        nothing else.

        Raises:
            InputError: labels the likelihood cannot have made.
            SolverError: the inducing points' matrix does not factor, or the approximation does not settle.
        """
        with _no_grad_outside_transforms():
            if self.points is None and inside_transform():
                raise InputError("the inducing points are not placed yet; call place(data) or condition(data) first")
            self.place(data)
            if isinstance(self.likelihood, Categorical):
                classes = ClassPosterior(
                    self.basis(frozen=True), data, likelihood=self.likelihood, mean=self.prior_mean, beta=self.beta
                )
                self._jitter_used = classes.basis.jitter
                return classes
            posterior = SitePosterior(
                self.basis(frozen=True), data, likelihood=frozen_copy(self.likelihood), kind=self.kind,
                mean=self.prior_mean, beta=self.beta, start=self._start if inside_transform() else None,
            )  # fmt: skip
            if not inside_transform():
                self._jitter_used = posterior.basis.jitter
                self._start = None if posterior.conjugate else Start(posterior)
            return posterior

    def exact(self, solver: Any = None) -> Exact:
        """The exact head at the hyperparameters learnt here: train through inducing points, then solve the whole system.

            head = gr.SGPR(gr.Matern32(ard=data.dim), 1024)
            head.fit(data)
            posterior = head.exact(gr.CG(preconditioner="cholesky")).condition(data)

        Its posterior is that of `gr.Exact` with copies of this head's kernel (features included) and noise, its prior mean
        and beta: training either leaves the other as it is. (Artemev, Burt & van der Wilk 2021 predict so.)

        Args:
            solver: as of `gr.Exact`; None chooses by the number of rows.

        Raises:
            InputError: the likelihood is not Gaussian.
        """
        return exact_head(self, solver)

    def basis(self, *, frozen: bool = False) -> Basis:
        """The inducing features at the present hyperparameters; differentiable in them unless frozen."""
        kernel = frozen_copy(self.kernel) if frozen else self.kernel
        base, features = split_features(kernel)
        assert self.points is not None
        points = self.points.detach() if frozen else self.points
        return Basis(base, features, points, self._jitter_used if inside_transform() else self.jitter)

    def log_prior(self) -> Tensor:
        """Log density of the hyperparameters' gpytorch priors, 0-dim; 0 without priors. `fit` adds it to the bound."""
        terms = [prior.log_prob(value(module)).sum() for _, module, prior, value, _ in self.kernel.named_priors()]
        return torch.stack(terms).sum() if terms else torch.zeros((), dtype=torch.float64)


@contextmanager
def _no_grad_outside_transforms() -> Iterator[None]:
    # Under torch.func no_grad would silently drop the tangents of the data.
    if inside_transform():
        yield
    else:
        with torch.no_grad():
            yield


def _count(inducing: Any, name: str) -> int:
    if isinstance(inducing, Tensor):
        if inducing.ndim != 2 or not len(inducing) or not bool(torch.isfinite(inducing).all()):
            raise InputError(
                f"{name} got inducing points of shape {tuple(inducing.shape)}; expected finite numbers, (m, d)"
            )
        return len(inducing)
    if isinstance(inducing, bool) or not isinstance(inducing, int) or inducing < 1:
        raise InputError(f"{name}(inducing={inducing!r}): expected their number, 1 or more, or the points (m, d)")
    return inducing


__all__ = ["InducingHead"]
