"""Functions of the field: derivatives that are those of the expectation however steep the function, or a refusal."""

import math

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.response.expectations import RULES, settled, smoothed

DATA = gr.load("wine")
POSTERIOR = gr.Exact(gr.Matern32(lengthscale=2.0, outputscale=2.0), noise=0.3).condition(DATA)
X = DATA.test.x[:5]
ROWS = [0, 1, 30]


def expected(steep: float) -> torch.Tensor:
    """By a Riemann sum of 400,001 terms, (5, 3)."""
    at = torch.linspace(-10.0, 10.0, 400_001, dtype=torch.float64)
    weights = (-0.5 * at.square()).exp()
    weights = weights / weights.sum()
    mean, spread = POSTERIOR.mean(X), POSTERIOR.variance(X).sqrt()
    value = torch.sigmoid(steep * (mean[:, None] + spread[:, None] * at))
    slope = steep * value * (1.0 - value)
    by_mean, by_variance = slope @ weights, (slope * at) @ weights / (2.0 * spread)
    moved = [gr.susceptibility(POSTERIOR, ask(X), gr.reweight(ROWS)).matrix for ask in (gr.value, gr.variance)]
    return by_mean[:, None] * moved[0] + by_variance[:, None] * moved[1]


@pytest.mark.parametrize("steep", [1.0, 5.0, 20.0])
def test_a_steep_function_responds_within_its_bound(steep):
    asked = gr.pointwise(X, lambda f: torch.sigmoid(steep * f))
    chi = gr.susceptibility(POSTERIOR, asked, gr.reweight(ROWS))
    assert bool(((chi.matrix - expected(steep)).abs() <= chi.error + 1e-10 * expected(steep).abs().max()).all())


@pytest.mark.parametrize("steep", [1.0, 5.0, 20.0])
def test_a_finite_change_of_a_steep_function_is_that_of_a_refit(steep):
    asked = gr.pointwise(X, lambda f: torch.sigmoid(steep * f))
    exact = gr.finite_response(POSTERIOR, asked, gr.delete(ROWS))
    after = gr.Exact(gr.Matern32(lengthscale=2.0, outputscale=2.0), noise=0.3).condition(
        DATA.with_train(weights=DATA.train.weights.index_fill(0, torch.tensor(ROWS), 0.0))
    )
    at = torch.linspace(-10.0, 10.0, 400_001, dtype=torch.float64)
    weights = (-0.5 * at.square()).exp()
    means = [
        torch.sigmoid(steep * (p.mean(X)[:, None] + p.variance(X).sqrt()[:, None] * at)) @ (weights / weights.sum())
        for p in (POSTERIOR, after)
    ]
    assert torch.allclose(exact[:, 0], means[1] - means[0], atol=1e-11)


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, torch.abs, torch.sign, lambda f: (f > 0.1).double(), lambda f: torch.sigmoid(f.detach()),
        lambda f: torch.sigmoid(500.0 * f),
    ],
    ids=["kink", "cusp", "step", "indicator", "detached", "too steep"],
)  # fmt: skip
@pytest.mark.parametrize("respond", [gr.susceptibility, gr.finite_response, gr.second_response])
def test_a_function_whose_slope_says_nothing_of_its_expectation_is_refused(function, respond):
    asked = gr.pointwise(POSTERIOR.data.test.x, function)
    assert_refused(lambda: respond(POSTERIOR, asked, gr.reweight([0, 1])), "give a smooth one", error=gr.InputError)


@pytest.mark.parametrize("count", RULES)
def test_a_rule_that_counts_as_settled_is_exact(count):
    """E exp(f) = exp(m + v/2); E f³ = m³ + 3 m v."""
    mean, variance = torch.tensor([0.3, -2.0]).double(), torch.tensor([0.01, 4.0]).double()
    assert settled(torch.exp, mean, variance) <= count
    assert torch.allclose(smoothed(torch.exp, mean, variance, count), (mean + 0.5 * variance).exp(), rtol=1e-12)
    cube = smoothed(lambda f: f**3, mean, variance, count)
    assert torch.allclose(cube, mean**3 + 3.0 * mean * variance, rtol=1e-12)


def test_an_affine_function_and_a_constant_are_smooth():
    chi = gr.susceptibility(POSTERIOR, gr.pointwise(X, lambda f: 3.0 * f + 1e3), gr.reweight(ROWS))
    plain = gr.susceptibility(POSTERIOR, gr.value(X), gr.reweight(ROWS))
    assert torch.allclose(chi.matrix, 3.0 * plain.matrix, rtol=1e-11, atol=1e-13)
    still = gr.susceptibility(POSTERIOR, gr.pointwise(X, lambda f: torch.ones_like(f) * math.pi), gr.reweight(ROWS))
    assert not bool(still.matrix.any())
