"""The planner's formulas against chains that are run."""

import math

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.heads.sampling import Target, langevin, sampled_covariance

LAMBDA = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)


def chains(plan, *, draws, count, seed=0, start=None, burn_in=None):
    target = Target(lambda theta, rows: theta * LAMBDA, 1.0)
    start = torch.zeros(3, dtype=torch.float64) if start is None else start
    burn_in = plan.burn_in if burn_in is None else burn_in
    return langevin(
        target, start, method=gr.SGLD(plan.step), draws=draws, chains=count, burn_in=burn_in, thin=plan.thin, seed=seed
    )[0]


@pytest.mark.parametrize("bias", [0.05, 0.3, 0.8])
def test_the_stationary_variance_is_biased_as_planned(bias):
    plan = gr.plan_sampling(LAMBDA, bias=bias)
    theta = chains(plan, draws=100, count=4000, burn_in=200)
    assert float(plan.bias.max()) == pytest.approx(bias)
    assert torch.allclose(theta.flatten(0, 1).var(dim=0), plan.variance, rtol=0.02)
    assert torch.allclose(plan.variance, (1 + plan.bias) / LAMBDA)


def test_neighbours_are_correlated_as_planned():
    plan = gr.plan_sampling(LAMBDA, bias=0.1, thin=3)
    theta = chains(plan, draws=50, count=4000)
    apart = theta - theta.mean(dim=(0, 1))
    found = (apart[:, 1:] * apart[:, :-1]).mean(dim=(0, 1)) / apart.square().mean(dim=(0, 1))
    assert torch.allclose(found, plan.retained, atol=0.01)


def test_burn_in_brings_every_variance_within_the_bias():
    plan = gr.plan_sampling(LAMBDA, bias=0.1)
    first = chains(plan, draws=1, count=100_000)[:, 0]
    early = chains(plan, draws=1, count=100_000, burn_in=plan.burn_in // 4)[:, 0]
    assert float((first.var(dim=0) / plan.variance).min()) > 0.9 - 0.02
    assert float((early.var(dim=0) / plan.variance).min()) < 0.7


def test_a_step_at_the_limit_of_stability_diverges_and_one_below_does_not():
    plan = gr.plan_sampling(LAMBDA, step=0.39)
    assert plan.stable_below == pytest.approx(0.4)
    assert torch.isfinite(chains(plan, draws=3000, count=2)).all()
    away = torch.ones(3, dtype=torch.float64)
    target = Target(lambda theta, rows: theta * LAMBDA, 1.0)
    with pytest.raises(gr.InputError, match="diverged"):
        langevin(target, away, method=gr.SGLD(0.41), draws=1, thin=40_000)
    assert_refused(lambda: gr.plan_sampling(LAMBDA, step=0.41), "not stable")


@pytest.mark.parametrize("thin", [1, 4])
def test_planned_standard_errors_are_those_of_repeated_runs(thin):
    plan = gr.plan_sampling(LAMBDA, bias=0.1, error=0.2, chains=2, thin=thin)
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (2, 3))
    theta = chains(plan, draws=plan.draws, count=2 * 400).unflatten(0, (400, 2))
    runs = torch.stack([sampled_covariance(t @ left.T, t @ right.T, length=plan.draws).value for t in theta])
    assert torch.allclose(runs.std(dim=0), plan.standard_error(left, right), rtol=0.15)
    slow = torch.eye(3, dtype=torch.float64)[:1]
    assert float(plan.standard_error(slow, slow)) == pytest.approx(0.2 * float(plan.variance[0]), rel=0.05)


def test_gradients_are_burn_in_and_every_step_between_draws():
    plan = gr.plan_sampling(LAMBDA, chains=3, thin=5)
    assert plan.gradients == 3 * (plan.burn_in + 5 * plan.draws)
    quarter = gr.plan_sampling(LAMBDA, error=0.05, chains=3, thin=5)
    assert quarter.draws == pytest.approx(4 * plan.draws, rel=0.01)
    conditioned = gr.plan_sampling(torch.tensor([1.0, 500.0]), error=0.1, chains=1)
    assert conditioned.draws == pytest.approx(2 / 0.1**2 * 2 * 500 * 1.05 / (4 * 0.05), rel=0.01)  # 2/e² · 2/(ε a)


def test_a_partial_spectrum_needs_the_floor_that_the_rest_has():
    plan = gr.plan_sampling([10.0, 3.0], floor=1.0)
    whole = gr.plan_sampling(LAMBDA)
    assert (plan.step, plan.draws, plan.burn_in) == (whole.step, whole.draws, whole.burn_in)
    assert gr.plan_sampling([10.0, 3.0]).draws < whole.draws


def test_senseless_plans_are_refused():
    assert_refused(lambda: gr.plan_sampling([1.0, 0.0]), "floor=")
    assert_refused(lambda: gr.plan_sampling([1.0, math.nan]), "not positive and finite")
    assert_refused(lambda: gr.plan_sampling(LAMBDA, bias=0.0), "between 0 and 1")
    assert_refused(lambda: gr.plan_sampling(LAMBDA, chains=0), "1 or more")
