"""Responses of sparse heads and other likelihoods: against refits, their derivatives and Monte Carlo."""

import pytest
import torch
from sparse_cases import DATA, LIKELIHOODS, X, Y, matern, observables, perturbations, relative

import gp_response as gr
from gp_response.testing import example_data
from gp_response.testing.posteriors import suited

SMALL = example_data(n=24)
CASES = [
    *((kind, likelihood) for kind in ("laplace", "variational") for likelihood in LIKELIHOODS),
    *(("exact", likelihood) for likelihood in LIKELIHOODS[1:]),
]


@pytest.mark.parametrize(("kind", "likelihood"), CASES, ids=str)
def test_responses_are_derivatives_of_refits_within_their_bounds(kind, likelihood):
    data = suited(SMALL, likelihood)
    if kind == "exact":
        head = gr.Exact(matern(), likelihood=likelihood, mean=0.1, beta=1.2)
    else:
        head = gr.SVGP(matern(), 8, likelihood, mean=0.1, beta=1.2, approximation=kind)
    posterior = head.condition(data)
    asked = observables(data)
    for perturbation in perturbations(data, discrete=likelihood.discrete):
        for observable in asked[1:3] if kind == "variational" else asked:  # means and variances enter the loss
            chi = gr.susceptibility(posterior, observable, perturbation)
            refit = gr.refit_response(head, data, observable, perturbation).matrix
            if float(refit.abs().max()) == 0.0:  # labels do not move variances under Gaussian noise
                assert float(chi.matrix.abs().max()) == 0.0
                continue
            assert bool(chi.converged)
            assert relative(chi.matrix, refit) < 1e-9
            # Derivatives of an iteration converge as it does, and no bound is known of that.
            assert bool(((chi.matrix - refit).abs() <= chi.error + 1e-10 * refit.abs().max()).all())
            assert float(chi.error.max() / refit.abs().max()) < 1e-3


@pytest.mark.parametrize(("kind", "likelihood"), CASES, ids=str)
def test_responses_are_differences_of_whole_refits(kind, likelihood):
    data = suited(SMALL, likelihood)
    if kind == "exact":
        head = gr.Exact(matern(), likelihood=likelihood, beta=1.2)
    else:
        head = gr.SVGP(matern(), 8, likelihood, beta=1.2, approximation=kind)
    posterior, step = head.condition(data), 1e-4
    for perturbation in perturbations(data, discrete=likelihood.discrete):
        for observable in (gr.loss(data.test.x, data.test.y), gr.pointwise(data.test.x, torch.sigmoid)):
            chi = gr.susceptibility(posterior, observable, perturbation).matrix
            ahead, other = (
                gr.refit_response(head, data, observable, perturbation, h=h).matrix
                for h in (step, 2.0 * step if perturbation.from_zero else -step)
            )
            slope = (4.0 * ahead - other) / (2.0 * step) if perturbation.from_zero else (ahead - other) / (2.0 * step)
            assert relative(chi, slope) < 1e-6


# Fluctuations ------------------------------------------------------------------------------------------------------------


def test_the_gap_between_response_and_fluctuation_closes_with_inducing_points():
    gaps = []
    for m in (4, 10, 25):
        head = gr.SGPR(matern(), DATA.train.x[4 : 4 + m].clone(), noise=0.2)
        gaps.append(gr.fdt_gap(head, DATA, gr.value(X), gr.reweight()))
    assert gaps[0] > gaps[1] > gaps[2] > 0.05
    assert gr.fdt_gap(gr.SGPR(matern(), DATA.train.x.clone(), noise=0.2), DATA, gr.value(X), gr.reweight()) < 1e-8
    assert gr.fdt_gap(gr.Exact(matern(), noise=0.2), DATA, gr.loss(X, Y), gr.reweight()) < 1e-11


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_fluctuations_are_monte_carlo_covariances(likelihood):
    data = suited(DATA, likelihood)
    posterior = gr.SVGP(matern(), 10, likelihood, beta=1.2).condition(data)
    new, label = data.test.x[5:6] + 0.1, data.test.y[5:6]
    at, row = data.test.x[:4], data.train.x[3:4]
    points = torch.cat([at, row, new])
    with torch.no_grad():
        lower = torch.linalg.cholesky(posterior.predictive_cov(points))
        draws = torch.randn(400_000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        field = posterior.mean(points) + draws @ lower.T
        energies = -likelihood.log_prob(field[:, 4:], torch.cat([data.train.y[3:4], label]))
    for observable, seen in (
        (gr.value(at), field[:, :4]),
        (gr.pointwise(at, torch.sigmoid), torch.sigmoid(field[:, :4])),
    ):
        for perturbation, energy in ((gr.reweight([3]), energies[:, 0]), (gr.insert(new, label), energies[:, 1])):
            product = (seen - seen.mean(dim=0)) * (energy - energy.mean())[:, None]
            expected, error = -1.2 * product.mean(dim=0), 1.2 * product.std(dim=0) / len(seen) ** 0.5
            got = gr.fluctuation(posterior, observable, perturbation).matrix[:, 0]
            assert bool(((got - expected).abs() < 5.0 * error).all())


@pytest.mark.parametrize("count", [50.0, 5000.0])
def test_large_counts_and_outliers_are_fitted(count):
    counts = DATA.with_train(y=(count * (0.7 * DATA.train.y).exp()).round())
    y = DATA.train.y.clone()
    y[3], y[9] = y[3] + 10.0, y[9] - 30.0
    outliers = DATA.with_train(y=y)
    for likelihood, data in ((gr.Poisson(), counts), (gr.StudentT(0.01, 3.0), outliers)):
        for head in (
            gr.Exact(matern(), likelihood=likelihood),
            gr.SVGP(matern(), 15, likelihood),
            gr.SVGP(matern(), 15, likelihood, approximation="laplace"),
        ):
            posterior = head.condition(data)
            assert posterior.fixed.change < 1e-8
            pulled = posterior.rows.gather(posterior.problem.weight * posterior.fixed.pull.force)
            assert relative(posterior.fixed.weights, pulled) < 1e-8
            if posterior.kind == "variational" and count > 100.0:  # hundreds of steps to differentiate
                continue
            chi = gr.susceptibility(posterior, gr.value(X), gr.reweight([3, 9])).matrix
            assert relative(chi, gr.refit_response(head, data, gr.value(X), gr.reweight([3, 9])).matrix) < 1e-6
