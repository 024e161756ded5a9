"""The laws of posteriors and heads."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, dataset
from gp_response.errors import InputError
from gp_response.likelihoods import Likelihood
from gp_response.posterior import Posterior
from gp_response.testing.references import dense_reference
from gp_response.testing.report import assert_close


def example_data(
    *, n: int = 40, dim: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64, known_noise: bool = False
) -> Dataset:
    """Rows with unequal weights, a duplicated input and two nearly equal ones: what laws should survive.

    known_noise: also with known variances of the observations, from 0.05 to 1.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    x[1], x[3] = x[0], x[2] + 1e-9
    y = torch.sin(x.sum(dim=1)) + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(n, generator=generator, dtype=torch.float64)
    test = torch.randn(7, dim, generator=generator, dtype=torch.float64)
    return dataset(
        x.to(dtype), y.to(dtype), test_x=test.to(dtype), test_y=torch.sin(test.sum(dim=1)).to(dtype),
        weights=weights.to(dtype), standardise=False,
        noise=torch.logspace(-1.3, 0.0, n, dtype=dtype).flip(0) if known_noise else None,
    )  # fmt: skip


def check_posterior(posterior: Posterior, x: Tensor | None = None, *, tolerance: float = 1e-9) -> None:
    """Symmetric positive semi-definite covariance, variance its diagonal and what is left out, training covariances and
    residuals consistent.

    Args:
        posterior: any posterior.
        x: (p, d) points to look from; None takes up to 50 test rows, or training rows where there are none.
    """
    x = _some_points(posterior.data) if x is None else x
    train = posterior.data.train
    cov = posterior.cov(x)
    scale = float(posterior.prior_cov(x, x).diagonal().max())
    assert_close("S = Sᵀ", cov, cov.T, tolerance=tolerance, scale=scale)
    lowest = float(torch.linalg.eigvalsh(0.5 * (cov + cov.T))[0])
    if lowest < -tolerance * scale * len(x):
        raise AssertionError(
            f"S is positive semi-definite: smallest eigenvalue {lowest:.3e} at prior scale {scale:.3g}"
        )
    left_out, predictive = posterior.left_out(x), posterior.predictive_cov(x)
    if bool((left_out < 0).any()):
        raise AssertionError(f"what is left out is a variance: smallest {float(left_out.min()):.3e}")
    assert_close(
        "variance(x) = diag cov(x) + left_out(x)",
        posterior.variance(x),
        cov.diagonal() + left_out,
        tolerance=tolerance,
        scale=scale,
    )
    assert_close(
        "variance(x) = diag predictive_cov(x)",
        posterior.variance(x),
        predictive.diagonal(),
        tolerance=tolerance,
        scale=scale,
    )
    probe = posterior.probe(x)
    across = posterior.cov(x, train.x)
    assert_close(
        "covariance with training rows by one solve = cov(x, train)",
        probe.to_train().value,
        across,
        tolerance=tolerance,
        scale=scale,
    )
    some = torch.arange(len(train) - 1, -1, -2, device=train.x.device)
    assert_close(
        "the same for chosen rows", probe.to_train(some).value, across[:, some], tolerance=tolerance, scale=scale
    )
    mean = posterior.mean(train.x)
    assert_close(
        "residuals = y - mean(train)",
        posterior.residuals.value,
        train.y - mean,
        tolerance=tolerance,
        scale=float(train.y.abs().max()),
    )
    prior = posterior.prior_cov(x, x)
    if posterior.likelihood is not None and not posterior.likelihood.concave:
        return  # an outlier takes precision away
    if float(torch.linalg.eigvalsh(0.5 * (prior + prior.T - predictive - predictive.T))[0]) < -tolerance * scale * len(
        x
    ):
        raise AssertionError("data never add variance: prior minus posterior covariance is not positive semi-definite")


def check_head(head: Any, *, data: Dataset | None = None, tolerance: float = 1e-9) -> None:
    """A head equals the dense formulas, ignores rows of weight zero, and obeys the posterior's laws.

    Exact and sparse heads, of any likelihood: what responds is compared with the dense posterior of the kernel, or of its
    Nyström approximation, and what is left out with their difference; see `dense_reference`.

    Args:
        head: with `kernel`, `noise`, `beta`, `prior_mean`, `condition(data)`, and `points` where it has inducing points.
        data: None takes a small set with duplicates and unequal weights, of as many columns as the kernel has
            lengthscales (else 3), with labels that the likelihood may have made.
    """
    data = example_data(dim=head.kernel.ard_num_dims or 3) if data is None else data
    data = suited(data, getattr(head, "likelihood", None))
    posterior, train, x = head.condition(data), data.train, _some_points(data)
    mean, cov, left_out = (part.to(train.y) for part in dense_reference(head, data, x, posterior))
    scale = float(head.kernel.diagonal(x).detach().max())
    high = max(1.0, float(train.y.abs().max()))
    assert_close("mean = dense GP mean", posterior.mean(x), mean, tolerance=tolerance, scale=high)
    assert_close("cov = dense GP covariance", posterior.cov(x), cov, tolerance=tolerance, scale=scale)
    assert_close(
        "predictive_cov = cov + k - Q", posterior.predictive_cov(x), cov + left_out, tolerance=tolerance, scale=scale
    )
    check_posterior(posterior, x, tolerance=tolerance)
    weights = train.weights.clone()
    weights[::3] = 0.0
    unseen, gone = (
        head.condition(data.with_train(weights=weights)),
        head.condition(data.with_train(weights=weights).keep(weights > 0)),
    )
    assert_close("a row of weight 0 = no row (mean)", unseen.mean(x), gone.mean(x), tolerance=tolerance)
    assert_close("a row of weight 0 = no row (cov)", unseen.cov(x), gone.cov(x), tolerance=tolerance, scale=scale)
    check_posterior(unseen, x, tolerance=tolerance)
    again = head.condition(data)
    assert_close("conditioning is deterministic", again.mean(x), posterior.mean(x), tolerance=0.0)


def suited(data: Dataset, likelihood: Likelihood | None) -> Dataset:
    """The data with labels that a likelihood may have made: as they are, or their signs as classes, or counts.

    Raises:
        AssertionError: it refuses all of these; give data of its own.
    """
    for change in (lambda y: y, lambda y: (y > 0).to(y), lambda y: (1.5 * y.exp()).round()):
        splits = [replace(split, y=change(split.y)) for split in (data.train, data.test)]
        try:
            if likelihood is not None:
                likelihood.check(torch.cat([split.y for split in splits]))
        except InputError:
            continue
        return replace(data, train=splits[0], test=splits[1])
    raise AssertionError(f"{likelihood!r} refuses real labels, classes 0 and 1, and counts; give data=")


def _some_points(data: Dataset) -> Tensor:
    return (data.test.x if len(data.test) else data.train.x)[:50]


__all__ = ["check_head", "check_posterior", "example_data", "suited"]
