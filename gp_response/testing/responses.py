"""The laws of observables and perturbations: closed form = Monte Carlo, closed form = derivative of the refit."""

from typing import Any

import torch
from torch import Tensor

from gp_response.data import Dataset, row_noise
from gp_response.errors import InputError
from gp_response.heads import Exact
from gp_response.kernels import Matern52
from gp_response.posterior import Posterior
from gp_response.response import (
    LearningCoefficient,
    Marginals,
    Observable,
    Perturbation,
    Whole,
    delete,
    finite_response,
    leave_one_out,
    loss,
    refit_response,
    susceptibility,
    value,
    variance,
)  # fmt: skip
from gp_response.testing.posteriors import example_data, suited
from gp_response.testing.report import assert_close


def example_head(dim: int = 3, *, beta: float = 1.0) -> Exact:
    """A small head that is neither rigid nor interpolating."""
    return Exact(Matern52(lengthscale=[1.5] * dim, outputscale=1.3), noise=0.2, mean=0.1, beta=beta)


def check_observable(
    observable: Observable, *, posterior: Posterior | None = None, samples: int = 200_000, seed: int = 0
) -> None:
    """`expectation` = average of `functional` over draws, `change` = difference of expectations, derivatives = finite differences.

    Args:
        observable: its points must suit the posterior's inputs.
        posterior: None conditions a small Matérn-5/2 head on example rows of the observable's dimension.
    """
    if isinstance(observable, Whole):
        _check_whole(observable, posterior, samples, seed)
        return
    posterior = posterior or example_head(observable.points.shape[1]).condition(
        example_data(dim=observable.points.shape[1])
    )
    probe = posterior.probe(observable.look())
    at = Marginals(probe.mean.value, probe.variance.value, posterior.noise)
    _check_monte_carlo(observable, at, probe.to(probe).value, samples, seed)
    step = Marginals(at.mean + 0.3, at.variance * 1.4, at.noise)
    change = observable.change(at, torch.full_like(at.mean, 0.3)[:, None], 0.4 * at.variance[:, None])
    difference = observable.expectation(step) - observable.expectation(at)
    size = float(observable.collect_error(change.abs()).max())
    assert_close(
        "change = difference of expectations", observable.collect(change)[:, 0], difference, tolerance=1e-9, scale=size
    )
    names = observable.names()
    if len(names) != len(difference) or len(set(names)) != len(names):
        raise AssertionError(f"one distinct name an observable: got {names} for {len(difference)}")


def _check_whole(observable: Any, posterior: Any, samples: int, seed: int) -> None:
    """One name a number; the learning coefficient is the loss above that of the mean, averaged over draws of the field."""
    posterior = posterior or example_head().condition(example_data())
    shown = observable.under(posterior)
    value = shown.of(posterior)
    if len(shown.names()) != len(value) or not bool(torch.isfinite(value).all()):
        raise AssertionError(f"one finite number a name: got {value.tolist()} for {shown.names()}")
    if not isinstance(observable, LearningCoefficient):
        return
    train = posterior.data.train
    cov, mean = posterior.cov(train.x).double(), posterior.mean(train.x).double()
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(0.5 * (cov + cov.T))
    root = vectors * values.clamp_min(0.0).sqrt()
    draws = mean + torch.randn(samples, len(mean), generator=generator, dtype=cov.dtype) @ root.T
    weight = posterior.beta * train.weights.double() / posterior.row_noise
    above = 0.5 * (((draws - train.y) ** 2 - (mean - train.y) ** 2) * weight).sum(dim=1)
    off = float((above.mean() - value[0]).abs() / (above.std() / samples**0.5))
    if not off <= 6.0:
        raise AssertionError(f"learning coefficient = Monte Carlo: {off:.1f} standard errors off")


def _check_monte_carlo(observable: Observable, at: Marginals, cov: Tensor, samples: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, vectors = torch.linalg.eigh(0.5 * (cov + cov.T))
    root = vectors * values.clamp_min(0.0).sqrt()
    draws = at.mean + torch.randn(samples, len(at.mean), generator=generator, dtype=cov.dtype) @ root.T
    functional = observable.functional(draws, at)
    observed = functional if observable.weights is None else functional @ observable.weights.to(functional).T
    mean, error = observed.mean(dim=0), observed.std(dim=0) / samples**0.5
    off = (mean - observable.expectation(at)).abs() / error.clamp_min(1e-12)
    if bool((off > 6.0).any()) or bool(torch.isnan(off).any()):
        worst = int(off.nan_to_num(float("inf")).argmax())
        raise AssertionError(
            f"expectation = Monte Carlo: observable {worst} is {float(off[worst]):.1f} standard errors off "
            f"({float(observable.expectation(at)[worst]):.6g} against {float(mean[worst]):.6g} ± {float(error[worst]):.2g})"
        )


def check_perturbation(
    perturbation: Perturbation,
    *,
    head: Any = None,
    data: Dataset | None = None,
    h: float = 1.0,
    tolerance: float = 1e-7,
) -> dict[str, float]:
    """Closed form = derivative of the refit (automatic and by differences); exact finite answer = refit; h = 0 does nothing.

    Checked for values, losses and variances at the data's test points. Where the likelihood is not Gaussian there is no
    exact finite answer, and asking for one must raise InputError.

    Args:
        perturbation: its rows or points must suit the data.
        head: None takes a small Matérn-5/2 head.
        data: None takes example rows, with labels that the head's likelihood may have made.
        h: amplitude of the finite check.

    Returns:
        the largest relative gap of each law.
    """
    data = suited(example_data(), getattr(head, "likelihood", None)) if data is None else data
    head = example_head(data.dim) if head is None else head
    posterior, x = head.condition(data), data.test.x
    gaps: dict[str, float] = {}
    for observable in (value(x), loss(x, data.test.y), variance(x)):
        name = type(observable).__name__.lower()
        chi = susceptibility(posterior, observable, perturbation)
        refit = refit_response(head, data, observable, perturbation)
        gaps[f"derivative of {name}"] = assert_close(
            f"closed form = derivative of the refit ({name})", chi.matrix, refit.matrix, tolerance=tolerance)  # fmt: skip
        slope = _difference(head, data, observable, perturbation)
        assert_close(f"closed form = finite difference of refits ({name})", chi.matrix, slope, tolerance=1e-5)
        if posterior.conjugate and perturbation.finite:
            finite = finite_response(posterior, observable, perturbation, h=h)
            really = refit_response(head, data, observable, perturbation, h=h)
            gaps[f"finite {name}"] = assert_close(
                f"finite response = refit at h = {h} ({name})", finite.matrix, really.matrix, tolerance=tolerance)  # fmt: skip
        else:
            _check_refusal(posterior, observable, perturbation)
        nothing = refit_response(head, data, observable, perturbation, h=0.0)
        assert_close(
            f"h = 0 changes nothing ({name})",
            nothing.matrix,
            torch.zeros_like(nothing.matrix),
            tolerance=1e-12 if posterior.conjugate else 1e-10,  # another row moves where an iteration ends
            scale=1.0,
        )
    columns = perturbation.columns_of(posterior)
    if len(columns) != chi.shape[1]:
        raise AssertionError(f"one name a column: got {len(columns)} names for {chi.shape[1]} columns")
    return gaps


def _check_refusal(posterior: Posterior, observable: Observable, perturbation: Perturbation) -> None:
    try:
        finite_response(posterior, observable, perturbation)
    except InputError:
        return
    raise AssertionError(
        f"finite_response to {perturbation.kind} under {posterior.likelihood!r} is not exact and must raise InputError"
    )


def check_leave_one_out(
    head: Any = None, *, data: Dataset | None = None, rows: Tensor | None = None, tolerance: float = 1e-9
) -> None:
    """Leave-one-out = refit without the row = exact finite response of its deletion, within the bounds it claims.

    Args:
        head: with `noise`, `beta`, `condition(data)`; None takes a small Matérn-5/2 head.
        data: None takes example rows.
        rows: (k,) rows checked by refits; None takes all of them.
        tolerance: relative, beside the claimed bounds.
    """
    data = example_data() if data is None else data
    head = example_head(data.dim) if head is None else head
    posterior, train = head.condition(data), data.train
    left_out = leave_one_out(posterior)
    rows = torch.arange(len(train), device=train.x.device) if rows is None else rows
    noise = row_noise(data, head.noise.detach().double()).expand(len(train)) / head.beta
    for row in rows.tolist():
        others = torch.arange(len(train), device=train.x.device) != row
        probe = head.condition(data.keep(others)).probe(train.x[row : row + 1])
        y, free = (
            train.y[row].double(),
            noise[row] / (train.weights[row].double() if float(train.weights[row]) > 0 else 1.0),
        )
        truth = _left_out(y, free, *probe.mean, *probe.variance)
        for name, (expected, own) in truth.items():
            got, bound = (getattr(left_out, part)[row : row + 1].double() for part in (name, f"{name}_error"))
            # A refit is no truth beyond its own bound.
            slack = (got - expected).abs() - bound - own
            assert_close(
                f"leave-one-out {name} = refit without row {row}, within their bounds", slack.clamp_min(0.0),
                torch.zeros_like(slack), tolerance=tolerance, scale=float(expected.abs().max().clamp_min(1.0)),
            )  # fmt: skip
    chosen = rows[train.weights[rows] > 0]
    for row in chosen[:5].tolist():
        gone = finite_response(posterior, value(train.x[row : row + 1]), delete([row]))
        before = posterior.mean(train.x[row : row + 1])
        slack = (before + gone.matrix[0] - left_out.mean[row]).abs() - gone.error[0] - left_out.mean_error[row]
        assert_close(
            f"leave-one-out = exact response to deleting row {row}", slack.clamp_min(0.0), torch.zeros_like(slack),
            tolerance=tolerance, scale=float(train.y.abs().max()),
        )  # fmt: skip


def _left_out(
    y: Tensor, noise: Tensor, mean: Tensor, mean_error: Tensor, variance: Tensor, variance_error: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """What a refit says of a row, and what it may be off by."""

    def density(mean: Tensor, variance: Tensor) -> Tensor:
        return torch.distributions.Normal(mean, (variance + noise).sqrt()).log_prob(y)

    ends = [
        density(mean + s * mean_error, (variance + t * variance_error).clamp_min(0.0))
        for s in (-1.0, 1.0)
        for t in (-1.0, 1.0)
    ]
    off = torch.stack([(end - density(mean, variance)).abs() for end in ends]).amax(dim=0)
    return {
        "mean": (mean, mean_error),
        "residual": (y - mean, mean_error),
        "variance": (variance, variance_error),
        "log_density": (density(mean, variance), off),
    }


def _difference(
    head: Any, data: Dataset, observable: Observable, perturbation: Perturbation, step: float = 1e-4
) -> Tensor:
    """Second-order difference of refits; one-sided where negative amplitudes do not exist."""
    other = 2.0 if perturbation.from_zero else -1.0
    one, two = (refit_response(head, data, observable, perturbation, h=s * step).matrix for s in (1.0, other))
    return (4.0 * one - two) / (2.0 * step) if perturbation.from_zero else (one - two) / (2.0 * step)


__all__ = ["check_leave_one_out", "check_observable", "check_perturbation", "example_head"]
