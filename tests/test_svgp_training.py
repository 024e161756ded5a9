"""Minibatch training of SVGP: reaches the collapsed bound, beats base rates, stops by held-out rows, repeats itself."""

import math
from dataclasses import replace

import pytest
import torch

import gp_response as gr
from gp_response.data.dataset import Dataset
from gp_response.heads.fixed_point import step
from gp_response.heads.sites import VARIATIONAL, pull

TRAINING = gr.Training(rows=256, steps=400, progress=False)


@pytest.fixture(scope="module")
def weather() -> Dataset:
    return gr.load("weather", n=1500)


@pytest.fixture(scope="module")
def magic() -> Dataset:
    return gr.load("magic", n=1500)


@pytest.fixture(scope="module")
def classifier(magic):
    head = gr.SVGP(gr.RBF(ard=magic.dim, lengthscale=[2.0] * magic.dim), 40, gr.Bernoulli())
    return head, head.fit(magic, training=TRAINING)


def bound(head, data) -> float:
    """Titsias' bound of a row at an SVGP head's hyperparameters and points."""
    collapsed = gr.SGPR(head.kernel, head.points.detach(), noise=float(head.noise.detach()))
    return float(collapsed.log_evidence(data).detach()) / len(data.train)


def test_minibatches_reach_nearly_the_bound_that_all_rows_reach(weather):
    kernel = [gr.Matern32(ard=weather.dim, lengthscale=[1.5] * weather.dim) for _ in range(2)]
    minibatch = gr.SVGP(kernel[0], 50)
    begun = bound_of_start(minibatch, weather)
    posterior = minibatch.fit(weather, training=replace(TRAINING, steps=900))
    full = gr.SGPR(kernel[1], 50)
    full.fit(weather, training=gr.Training(steps=60, progress=False))
    best = float(full.log_evidence(weather).detach()) / len(weather.train)
    reached = bound(minibatch, weather)
    assert begun < reached
    assert best - reached < 0.05 * (best - begun)
    error = float((posterior.mean(weather.test.x) - weather.test.y).square().mean().sqrt())
    assert error < 1.05 * float((full.condition(weather).mean(weather.test.x) - weather.test.y).square().mean().sqrt())
    assert error < 0.8 * float(weather.test.y.std())


def bound_of_start(head, data) -> float:
    head.place(data)
    return bound(head, data)


def test_the_trace_holds_the_bound_of_the_gaussian_it_ended_with(weather):
    """With all rows a batch the natural gradient has rate one, so that the Gaussian is the fixed point of the step before."""
    head = gr.SVGP(gr.Matern32(ard=weather.dim), 20)
    posterior = head.fit(weather, training=gr.Training(rows=10**6, steps=60, progress=False, learning_rate=1e-9))
    last = posterior.trace.steps[-1]["loss"]
    assert last == pytest.approx(-bound(head, weather), rel=1e-5)


def test_a_classifier_beats_the_base_rate_on_rows_it_has_not_seen(classifier, magic):
    _, posterior = classifier
    share = float(magic.train.y.mean())
    base = -(share * math.log(share) + (1.0 - share) * math.log(1.0 - share))
    mean, variance = posterior.mean(magic.test.x), posterior.variance(magic.test.x)
    density = posterior.likelihood.log_density(mean, variance, magic.test.y)
    assert -float(density.mean()) < 0.8 * base
    p, _ = posterior.likelihood.predictive(mean, variance)
    wrong = float(((p > 0.5) != (magic.test.y > 0.5)).double().mean())
    assert wrong < 0.75 * min(share, 1.0 - share)


def test_what_is_returned_is_the_optimum_for_all_rows(classifier, magic):
    head, posterior = classifier
    problem, fixed = posterior.problem, posterior.fixed
    sites = pull(problem.likelihood, VARIATIONAL, fixed.mean, fixed.variance, problem.y)
    with torch.no_grad():
        weights, _, lower, _ = step(problem, fixed.mean, sites)
        mean, variance = problem.marginals(weights, lower)
    assert float(((mean - fixed.mean).abs() / fixed.variance.sqrt()).max()) < 1e-10
    assert float((variance / fixed.variance - 1.0).abs().max()) < 1e-10
    again = head.condition(magic)
    torch.testing.assert_close(again.mean(magic.test.x), posterior.mean(magic.test.x), rtol=0.0, atol=0.0)
    chi = gr.susceptibility(posterior, gr.value(magic.test.x[:3]), gr.reweight([5, 9]))
    refit = gr.refit_response(head, magic, gr.value(magic.test.x[:3]), gr.reweight([5, 9]))
    assert float((chi.matrix - refit.matrix).abs().max() / refit.matrix.abs().max()) < 1e-6


def test_the_trace_has_scores_of_train_and_held_out_rows(classifier):
    trace = classifier[1].trace
    assert trace.train_nll is not None
    assert 0.0 < trace.train_nll < 0.65
    assert trace.held_out_nll is None  # nothing is held out where there are no features to overfit
    assert trace.seconds > 0.0
    assert "minibatches of 256 rows" in trace.objective
    losses = [entry["loss"] for entry in trace.steps]
    assert losses[-1] < losses[0]


def test_training_repeats_itself_and_leaves_the_global_generator_alone(magic):
    state = torch.random.get_rng_state()
    ended = []
    for seed in (0, 0, 1):
        head = gr.SVGP(gr.RBF(lengthscale=2.0), 15, gr.Bernoulli())
        head.fit(magic, training=gr.Training(rows=128, steps=30, seed=seed, progress=False))
        ended.append(torch.cat([p.detach().flatten() for p in head.parameters()]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(ended[0], ended[1])
    assert not torch.equal(ended[0], ended[2])


def test_held_out_rows_stop_the_training_of_features(weather):
    torch.manual_seed(0)
    head = gr.SVGP(gr.Matern32(ard=2).on(gr.MLP(weather.dim, [16, 2])), 30)
    training = gr.Training(rows=128, steps=3000, pretrain_steps=150, patience=2, learning_rate=0.2, progress=False)
    posterior = head.fit(weather, training=training)
    trace = posterior.trace
    scores = [entry["held_out"] for entry in trace.steps if "held_out" in entry]
    assert trace.held_out_nll is not None
    assert trace.train_nll is not None
    if trace.converged:
        assert "held-out score did not improve" in trace.message
        assert len(trace.steps) < 3000 // 50
    assert min(scores) < scores[0]
    assert head.points.shape[1] == 2
    assert len(posterior.data.train) == len(weather.train)  # conditioned on all rows again
    error = float((posterior.mean(weather.test.x) - weather.test.y).square().mean().sqrt())
    assert error < 0.8 * float(weather.test.y.std())


@pytest.mark.parametrize("likelihood", [gr.Poisson(), gr.StudentT(0.1)], ids=str)
def test_other_likelihoods_train(weather, likelihood):
    y = weather.train.y
    data = weather.with_train(y=y.exp().round()) if isinstance(likelihood, gr.Poisson) else weather
    head = gr.SVGP(gr.Matern32(ard=weather.dim), 20, likelihood)
    before = {name: p.detach().clone() for name, p in head.named_parameters() if p is not None}
    posterior = head.fit(data, training=gr.Training(rows=256, steps=100, progress=False))
    assert posterior.trace.steps[-1]["loss"] < posterior.trace.steps[0]["loss"]
    assert posterior.fixed.change < 1e-8
    for name, parameter in head.named_parameters():
        assert name not in before or not torch.equal(before[name], parameter), name


def test_noise_stays_above_its_floor(weather):
    clean = weather.with_train(y=weather.train.x[:, 0])
    head = gr.SVGP(gr.Matern32(ard=weather.dim), 20, gr.Gaussian(1e-3))
    head.fit(clean, training=gr.Training(rows=256, steps=150, least_noise=1e-3, learning_rate=0.3, progress=False))
    assert float(head.noise.detach()) >= 0.999e-3 * float(clean.train.y.var())


def test_float32_rows_train():
    data = gr.load("weather", n=600, dtype=torch.float32)
    posterior = gr.SVGP(gr.Matern32(ard=data.dim), 15).fit(
        data, training=gr.Training(rows=128, steps=60, progress=False)
    )
    assert posterior.mean(data.test.x).dtype == torch.float32
    assert bool(torch.isfinite(posterior.variance(data.test.x)).all())
