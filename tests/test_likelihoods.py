"""Likelihoods: against automatic differentiation, adaptive integrals, and sums over what can be observed."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from refusals import assert_refused
from scipy import integrate, stats
from torch.func import grad, vmap

import gp_response as gr
from gp_response.likelihoods import RowGaussian
from gp_response.likelihoods.quadrature import nodes

CASES = [
    (gr.Gaussian(0.2), [-0.7, 1.4]),
    (gr.Bernoulli(), [0.0, 1.0]),
    (gr.Poisson(), [0.0, 3.0, 40.0]),
    (gr.StudentT(0.1, 4.0), [0.3, -2.0]),
    (gr.StudentT(0.3, 1.0), [0.5]),
]
PAIRS = [(likelihood, y) for likelihood, labels in CASES for y in labels]
MEANS = [-2.0, 3.0]


class Cauchit(gr.Likelihood):
    """Two classes through the Cauchy distribution function: gives nothing but `log_prob` and `moments`."""

    concave = False
    discrete = True

    def log_prob(self, f, y):
        p = 0.5 + torch.atan(f) / math.pi
        return torch.where(y > 0.5, p, 1.0 - p).log()

    def moments(self, f):
        p = 0.5 + torch.atan(f) / math.pi
        return p, p * (1.0 - p)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def under_normal(function, mean, variance, *, around=()):
    """∫ function(f) N(f; mean, variance) df by adaptive quadrature, cut where either factor changes."""
    low, high = mean - 38.0 * variance**0.5, mean + 38.0 * variance**0.5
    cuts = [mean + k * variance**0.5 for k in (-8, -3, 0, 3, 8)] + [p for p in around if low < p < high]
    edges = sorted({low, high, *cuts})
    return sum(
        integrate.quad(
            lambda f: function(f) * math.exp(normal_log_pdf(f, mean, variance)),
            a,
            b,
            epsabs=0.0,
            epsrel=1e-10,
            limit=100,
        )[0]
        for a, b in pairwise(edges)
    )


def normal_log_pdf(f, mean, variance):
    return -0.5 * (math.log(2.0 * math.pi * variance) + (f - mean) ** 2 / variance)


def scalar_log_prob(likelihood, y):
    """log p(y | f) of one number f."""
    if isinstance(likelihood, gr.Gaussian):
        return lambda f: normal_log_pdf(y, f, 0.2)
    if isinstance(likelihood, gr.Bernoulli):
        return lambda f: -np.logaddexp(0.0, -f if y else f)
    if isinstance(likelihood, gr.Poisson):
        return lambda f: y * f - math.exp(f) - math.lgamma(y + 1.0) if f < 700.0 else -math.inf
    scale, nu = float(likelihood.scale.detach()) ** 0.5, likelihood.degrees
    start = stats.t.logpdf(0.0, nu) - math.log(scale)
    return lambda f: start - 0.5 * (nu + 1.0) * math.log1p(((y - f) / scale) ** 2 / nu)


def scipy_log_prob(likelihood, y, f):
    if isinstance(likelihood, gr.Gaussian):
        return stats.norm.logpdf(y, f, math.sqrt(0.2))
    if isinstance(likelihood, gr.Bernoulli):
        return stats.bernoulli.logpmf(int(y), 1.0 / (1.0 + np.exp(-f)))
    if isinstance(likelihood, gr.Poisson):
        return stats.poisson.logpmf(y, np.exp(f))
    scale = float(likelihood.scale.detach()) ** 0.5
    return stats.t.logpdf((y - f) / scale, likelihood.degrees) - math.log(scale)


@pytest.mark.parametrize(("likelihood", "y"), PAIRS, ids=str)
def test_log_prob_is_scipys(likelihood, y):
    f = torch.linspace(-3.0, 4.0, 15, dtype=torch.float64)
    got = likelihood.log_prob(f, tensor(y)).detach().numpy()
    np.testing.assert_allclose(got, scipy_log_prob(likelihood, y, f.numpy()), rtol=1e-12)
    np.testing.assert_allclose(got, [scalar_log_prob(likelihood, y)(value) for value in f.tolist()], rtol=1e-12)


@pytest.mark.parametrize(("likelihood", "y"), [*PAIRS, (Cauchit(), 1.0)], ids=str)
def test_slopes_are_derivatives_of_log_prob(likelihood, y):
    f = torch.linspace(-3.0, 4.0, 15, dtype=torch.float64)
    order = lambda at: likelihood.log_prob(at, tensor(y)[0])  # noqa: E731
    for slope in likelihood.slopes(f, tensor(y)):
        order = grad(order)
        expected = vmap(order)(f)
        assert slope.shape == f.shape
        torch.testing.assert_close(slope, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("likelihood", "y"), PAIRS, ids=str)
def test_claims_of_concavity_and_safe_curvature_hold(likelihood, y):
    f = torch.linspace(-6.0, 6.0, 400, dtype=torch.float64)
    second = likelihood.slopes(f, tensor(y)).second
    assert bool((second <= 0).all()) == likelihood.concave
    safe = likelihood.safe_curvature(f, tensor(y))
    assert bool((safe >= 0).all())
    if not likelihood.concave:  # a quadratic with this curvature and slope lies below log p everywhere
        at, away = f[::40, None], f[None]
        here = likelihood.slopes(at, tensor(y))
        model = (
            likelihood.log_prob(at, tensor(y)) + here.first * (away - at) - 0.5 * safe[::40, None] * (away - at) ** 2
        )
        assert bool((model <= likelihood.log_prob(away, tensor(y)) + 1e-12).all())


@pytest.mark.parametrize("variance", [1e-6, 0.1, 1.0, 9.0, 100.0])
@pytest.mark.parametrize(("likelihood", "y"), PAIRS, ids=str)
def test_log_predictive_densities_are_integrals(likelihood, y, variance):
    exact = scalar_log_prob(likelihood, y)
    peaks = [y] if not likelihood.discrete else [math.log(max(y, 0.3))]
    around = [p + w for p in peaks for w in (-3.0, -1.0, -0.3, 0.0, 0.3, 1.0, 3.0)]
    got = likelihood.log_density(tensor(*MEANS), torch.full((2,), variance, dtype=torch.float64), tensor(y))
    for mean, value in zip(MEANS, got.tolist(), strict=True):
        grid = np.linspace(mean - 9.0 * variance**0.5, mean + 9.0 * variance**0.5, 2001).tolist()
        top = max(exact(f) + normal_log_pdf(f, mean, variance) for f in grid) - normal_log_pdf(0.0, 0.0, variance)
        integral = under_normal(lambda f, shift=top: math.exp(exact(f) - shift), mean, variance, around=around)
        expected = math.log(integral) + top
        assert value == pytest.approx(expected, abs=1e-8, rel=1e-10)


def test_log_predictive_densities_at_no_variance_are_log_prob_and_blocks_change_nothing():
    mean = torch.linspace(-2.0, 2.0, 4200, dtype=torch.float64)
    for likelihood, labels in CASES:
        y = tensor(labels[0])
        sharp = likelihood.log_density(mean, torch.zeros_like(mean), y)
        torch.testing.assert_close(sharp, likelihood.log_prob(mean, y), rtol=1e-9, atol=1e-9)
        whole = likelihood.log_density(mean, 0.5 + mean**2, y)
        few = likelihood.log_density(mean[::600], 0.5 + mean[::600] ** 2, y)
        torch.testing.assert_close(whole[::600], few, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("variance", [1e-6, 0.05, 0.4])
@pytest.mark.parametrize(("likelihood", "y"), PAIRS, ids=str)
def test_expected_losses_are_integrals(likelihood, y, variance):
    exact = scalar_log_prob(likelihood, y)
    got = likelihood.expected_loss(tensor(*MEANS), torch.full((2,), variance, dtype=torch.float64), tensor(y))
    for mean, value in zip(MEANS, got.tolist(), strict=True):
        expected = -under_normal(lambda f: exact(f), mean, variance, around=[y])
        # Sixty-four points see the branch point of log(1 + r²/νs²) where the field is wider than the scale.
        assert value == pytest.approx(expected, rel=1e-6 if isinstance(likelihood, gr.StudentT) else 1e-9)


def mean_of_likelihood(likelihood, f):
    if isinstance(likelihood, gr.Bernoulli):
        return 1.0 / (1.0 + math.exp(-f))
    return math.exp(f) if isinstance(likelihood, gr.Poisson) else f


@pytest.mark.parametrize("variance", [1e-6, 0.3, 4.0])
@pytest.mark.parametrize("likelihood", [case[0] for case in CASES[:4]], ids=str)
def test_predictive_means_and_variances_are_integrals(likelihood, variance):
    mean, spread = likelihood.predictive(tensor(*MEANS), torch.full((2,), variance, dtype=torch.float64))
    for k, centre in enumerate(MEANS):
        first = under_normal(lambda f: mean_of_likelihood(likelihood, f), centre, variance)
        second = under_normal(lambda f: mean_of_likelihood(likelihood, f) ** 2, centre, variance)
        within = {
            "Gaussian": 0.2,
            "Bernoulli": first - second,
            "Poisson": first,
            "StudentT": 0.1 * 4.0 / 2.0,
        }[type(likelihood).__name__]
        assert float(mean[k]) == pytest.approx(first, rel=1e-9)
        assert float(spread[k].detach()) == pytest.approx(within + second - first**2, rel=1e-8)


def test_predictive_variance_is_infinite_where_the_noise_has_none():
    assert bool(gr.StudentT(0.3, 1.5).predictive(tensor(0.0), tensor(1.0))[1].isinf().all())


def test_bernoulli_probabilities_stay_right_where_the_field_is_wide():
    p, _ = gr.Bernoulli().predictive(tensor(3.0), tensor(400.0))
    exact = under_normal(lambda f: 0.5 + 0.5 * math.tanh(0.5 * f), 3.0, 400.0, around=(-5.0, -1.0, 1.0, 5.0))
    assert float(p) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("variance", [0.01, 1.0, 6.0])
def test_predictive_densities_sum_to_one(variance):
    mean, spread = tensor(0.4), tensor(variance)
    both = gr.Bernoulli().log_density(mean, spread, tensor(0.0, 1.0)).exp().sum()
    assert float(both) == pytest.approx(1.0, abs=1e-12)
    if variance <= 1.0:
        counts = gr.Poisson().log_density(mean, spread, torch.arange(3000, dtype=torch.float64)).exp()
        assert float(counts.sum()) == pytest.approx(1.0, abs=1e-8)
    for likelihood in (gr.Gaussian(0.3), gr.StudentT(0.2, 5.0)):
        total = integrate.quad(
            lambda y, p=likelihood: float(p.log_density(mean, spread, tensor(y)).detach().exp()), -np.inf, np.inf
        )
        assert total[0] == pytest.approx(1.0, abs=1e-7)


def test_quadrature_is_exact_for_polynomials():
    at, weights = nodes(tensor(0.0))
    for power, moment in ((0, 1.0), (1, 0.0), (2, 1.0), (4, 3.0), (6, 15.0), (8, 105.0)):
        assert float((weights * at**power).sum()) == pytest.approx(moment, abs=1e-9)


@pytest.mark.parametrize("f", [-3.0, 0.2, 2.0])
@pytest.mark.parametrize(
    "likelihood",
    [gr.Gaussian(0.2), gr.Bernoulli(), gr.Probit(), gr.Poisson(), gr.StudentT(0.3, 4.0), gr.StudentT(0.1, 1.0)],
    ids=repr,
)
def test_information_is_the_mean_square_of_the_slope(likelihood, f):
    def square(y):
        at = tensor(f)
        slope = likelihood.slopes(at, tensor(y)).first
        return float((likelihood.log_prob(at, tensor(y)).exp() * slope**2).detach())

    if likelihood.discrete:
        expected = sum(square(float(y)) for y in range(2 if not isinstance(likelihood, gr.Poisson) else 80))
    else:
        expected = integrate.quad(
            lambda z: square(f + math.sinh(z)) * math.cosh(z), -20.0, 20.0, epsrel=1e-11, limit=400
        )[0]
    assert float(likelihood.information(tensor(f)).detach()) == pytest.approx(expected, rel=1e-8)


def test_information_that_a_likelihood_has_not_said_is_refused():
    assert_refused(lambda: Cauchit().information(tensor(0.0)), "Cauchit has no Fisher information")


def test_row_noise_is_per_row():
    noise = tensor(0.1, 0.5)
    got = RowGaussian(noise).log_prob(tensor(0.0, 1.0), tensor(1.0, -1.0))
    torch.testing.assert_close(
        got, torch.distributions.Normal(tensor(0.0, 1.0), noise.sqrt()).log_prob(tensor(1.0, -1.0))
    )


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: gr.Bernoulli().check(tensor(0.0, 1.0, -1.0)), "the label -1 in row 2; expected 0 or 1"),
        (lambda: gr.Bernoulli().check(tensor(0.3)), "standardise='x'"),
        (lambda: gr.Poisson().check(tensor(2.0, -1.0)), "the label -1 in row 1; expected a count"),
        (lambda: gr.Poisson().check(tensor(0.0, 1.5)), "the label 1.5 in row 1; expected a count"),
        (lambda: gr.Gaussian(0.0), "expected a positive finite variance"),
        (lambda: gr.Gaussian(float("nan")), "expected a positive finite variance"),
        (lambda: gr.StudentT(-1.0), "StudentT(scale=-1.0)"),
        (lambda: gr.StudentT(1.0, 0.0), "StudentT(degrees=0.0)"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(action, said):
    assert_refused(action, said, error=gr.InputError)


def test_labels_that_can_be_are_let_through():
    gr.Bernoulli().check(tensor(0.0, 1.0))
    gr.Poisson().check(tensor(0.0, 7.0))
    gr.StudentT().check(tensor(-0.5))


def test_names_tell_parameters():
    assert repr(gr.Gaussian(0.25)) == "Gaussian(noise=0.25)"
    assert repr(gr.StudentT(0.5, 3.5)) == "StudentT(scale=0.5, degrees=3.5)"
    assert repr(gr.Bernoulli()) == "Bernoulli()"
    assert repr(gr.Poisson()) == "Poisson()"
