"""Training a sparse regression by its collapsed bound."""

import pytest
import torch

import gp_response as gr

QUIET = gr.Training(steps=12, progress=False)


def bound(head: gr.SGPR, data: gr.Dataset) -> float:
    return float(head.log_evidence(data).detach()) / len(data.train)


def make(data: gr.Dataset, inducing, seed: int = 0) -> gr.SGPR:
    return gr.SGPR(gr.Matern32(ard=data.dim, lengthscale=[4.0] * data.dim), inducing, noise=0.1, seed=seed)


@pytest.fixture(scope="module")
def weather():
    return gr.load("weather", n=2600)


def test_training_starts_from_few_rows_and_ends_above_what_any_placement_gives(weather):
    head = make(weather, 60)
    head.place(weather)
    before, first = bound(head, weather), head.points.detach().clone()
    posterior = make(weather, 60).fit(weather, training=QUIET)
    trained = make(weather, 60)
    trained.fit(weather, training=QUIET)
    assert bound(trained, weather) > before + 0.1
    assert not torch.equal(trained.points.detach(), first)
    assert torch.equal(posterior.basis.points, trained.points.detach())  # the same seed, the same fit
    losses = posterior.trace.to_frame()["loss"]
    assert losses.iloc[-1] == pytest.approx(-bound(trained, weather), abs=0.05)
    assert posterior.trace.train_nll is not None


def test_given_points_are_where_training_begins(weather):
    few = weather.keep(torch.arange(300))
    given = few.train.x[::10].clone()
    head = make(few, given)
    start = bound(head, few)
    head.fit(few, training=QUIET)
    assert bound(head, few) > start
    assert head.points.shape == given.shape
    assert float((head.points.detach() - given).abs().max()) > 0


def test_the_bound_stays_below_the_evidence(weather):
    few = weather.keep(torch.arange(400))
    head = make(few, 40)
    head.fit(few, training=QUIET)
    exact = gr.Exact(head.kernel, noise=float(head.noise.detach()))
    assert bound(head, few) <= float(exact.log_evidence(few)) / len(few.train)
