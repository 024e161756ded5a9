"""The posterior as a BoTorch model, acquisition by expected response, and what drives a recommendation."""

import subprocess
import sys

import gpytorch
import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.errors import InputError, SolverError

pytest.importorskip("botorch")
from botorch.acquisition import (
    LogExpectedImprovement,
    UpperConfidenceBound,
    qExpectedImprovement,
    qKnowledgeGradient,
    qLogExpectedImprovement,
    qLogNoisyExpectedImprovement,
)
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.models import SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.sampling import SobolQMCNormalSampler

BOUNDS = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def head(noise=0.02, *, beta=1.0, solver=None, kernel=None):
    kernel = kernel or gr.Matern52(lengthscale=[0.4, 0.6], outputscale=1.3)
    return gr.Exact(kernel, noise=noise, mean=0.2, beta=beta, solver=solver)


def rows(n=25, *, known=False):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(n, 2, generator=generator, dtype=torch.float64)
    y = torch.sin(5.0 * x[:, 0]) * torch.cos(3.0 * x[:, 1])
    y = y + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    noise = torch.linspace(0.01, 0.1, n, dtype=torch.float64) if known else None
    return gr.dataset(x, y, noise=noise, standardise=False)


DATA = rows()
POSTERIOR = head().condition(DATA)


def points(*shape, seed=0):
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equivalent():
    """BoTorch's own model with the same hyperparameters."""
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2))
    train = DATA.train
    model = SingleTaskGP(train.x, train.y[:, None], covar_module=kernel, outcome_transform=None).eval()
    kernel.outputscale = 1.3
    kernel.base_kernel.lengthscale = torch.tensor([0.4, 0.6], dtype=torch.float64)
    model.likelihood.noise = 0.02
    model.mean_module.constant = 0.2
    return model.eval()


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.Cholesky(precision="float32"), gr.CG(tolerance=1e-10)])
def test_the_model_is_the_posterior(solver):
    weights = torch.linspace(0.0, 2.0, 25, dtype=torch.float64)
    posterior = head(solver=solver, beta=0.8).condition(DATA.with_train(weights=weights))
    model, x = posterior.to_botorch(), points(3, 4)
    assert model.num_outputs == 1
    got = model.posterior(x)
    assert got.mean.shape == (3, 4, 1)
    for b in range(3):
        assert torch.allclose(got.mean[b, :, 0], posterior.mean(x[b]), atol=1e-8)
        assert torch.allclose(got.distribution.covariance_matrix[b], posterior.cov(x[b]), atol=1e-8)
    noisy = model.posterior(x, observation_noise=True).variance - got.variance
    assert torch.allclose(noisy, torch.full_like(noisy, 0.02))
    double = ScalarizedPosteriorTransform(torch.tensor([2.0], dtype=torch.float64))
    assert torch.allclose(model.posterior(x, posterior_transform=double).mean, 2.0 * got.mean)


def test_gradients_in_the_points_are_those_of_differences():
    model, x = POSTERIOR.to_botorch(), points(2, 3)

    def both(at):
        found = model.posterior(at)
        return found.mean, found.distribution.covariance_matrix

    assert torch.autograd.gradcheck(both, (x.requires_grad_(),), atol=1e-6)


def test_acquisition_values_are_those_of_botorchs_own_model():
    ours, theirs, x = POSTERIOR.to_botorch(), equivalent(), points(5, 3)
    best = DATA.train.y.max()
    sampler = SobolQMCNormalSampler(torch.Size([64]), seed=1)
    for make in (qLogExpectedImprovement, qExpectedImprovement):
        values = [make(model, best_f=best, sampler=sampler)(x) for model in (ours, theirs)]
        assert torch.allclose(*values, atol=1e-6)
        assert float(values[0].detach().std()) > 1e-3
    single = x[:, :1]
    assert torch.allclose(*[LogExpectedImprovement(m, best_f=best)(single) for m in (ours, theirs)], atol=1e-6)
    assert torch.allclose(*[UpperConfidenceBound(m, beta=2.0)(single) for m in (ours, theirs)], atol=1e-6)
    noisy = [
        qLogNoisyExpectedImprovement(
            m, X_baseline=DATA.train.x, sampler=sampler, prune_baseline=False, cache_root=False
        )(x)
        for m in (ours, theirs)
    ]
    assert torch.allclose(*noisy, atol=1e-5)


@pytest.mark.parametrize("q", [1, 2])
def test_acquisition_functions_are_optimised(q):
    options = {"q": q, "num_restarts": 2, "raw_samples": 16, "options": {"maxiter": 20}}
    best = DATA.train.y.max()
    model = POSTERIOR.to_botorch()
    improvement = qLogExpectedImprovement(model, best_f=best)
    candidate, value = optimize_acqf(improvement, bounds=BOUNDS, **options)
    assert candidate.shape == (q, 2)
    assert float(value) >= float(improvement(points(50, q)).max()) - 1e-6
    if q == 1:
        gradient = qKnowledgeGradient(model, num_fantasies=4)
        candidate, value = optimize_acqf(gradient, bounds=BOUNDS, **options)
        assert torch.isfinite(value)


@pytest.mark.parametrize("known", [False, True])
def test_fantasies_are_posteriors_with_the_rows_inserted(known):
    data = rows(known=known)
    posterior = head(beta=0.9).condition(data)
    model, new, at = posterior.to_botorch(), points(2, 3, seed=5), points(2, 4, seed=6)
    fantasy = model.fantasize(new, SobolQMCNormalSampler(torch.Size([3]), seed=0))
    assert fantasy.batch_shape == (3, 2)
    labels = fantasy.added[1]
    got = fantasy.posterior(at)
    assert got.mean.shape == (3, 2, 4, 1)
    for f, b in ((0, 0), (2, 1)):
        grown = gr.insert(new[b], labels[f, b]).apply(data, 1.0)
        truth = head(beta=0.9).condition(grown)
        assert torch.allclose(got.mean[f, b, :, 0], truth.mean(at[b]), atol=1e-9)
        assert torch.allclose(got.distribution.covariance_matrix[f, b], truth.cov(at[b]), atol=1e-9)
    # Twice one row is once two rows; labels need not be drawn.
    y = torch.tensor([[0.3], [-0.4], [0.1]], dtype=torch.float64)
    once = model.condition_on_observations(new[0], y)
    twice = model.condition_on_observations(new[0, :1], y[:1]).condition_on_observations(new[0, 1:], y[1:])
    for one, other in zip(once.moments(at[0]), twice.moments(at[0]), strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_known_noise_of_new_rows_is_taken():
    model, x, y = POSTERIOR.to_botorch(), points(2), torch.tensor([[0.5], [0.1]], dtype=torch.float64)
    noise = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    got = model.condition_on_observations(x, y, noise=noise).moments(points(4, seed=1))[0]
    train = DATA.train
    own = torch.cat([torch.full((25,), 0.02, dtype=torch.float64), noise[:, 0]])
    grown = gr.dataset(torch.cat([train.x, x]), torch.cat([train.y, y[:, 0]]), noise=own, standardise=False)
    assert torch.allclose(got, head(0.0).condition(grown).mean(points(4, seed=1)), atol=1e-9)
    alone = head(0.0).condition(rows(known=True)).to_botorch()
    assert alone.new_noise == pytest.approx(float(rows(known=True).train.noise.mean()))


def test_moving_an_acquisition_function_leaves_the_posterior_alone():
    model = POSTERIOR.to_botorch()
    before = POSTERIOR.mean(points(3))
    improvement = LogExpectedImprovement(model, best_f=0.5)
    assert improvement(points(3, 1).float()).dtype == torch.float32
    assert torch.equal(POSTERIOR.mean(points(3)), before)


# Expected response ----------------------------------------------------------------------------------------------------

OBSERVABLES = {
    "value": gr.value(points(3, seed=8)),
    "contrast": gr.contrast(points(2, seed=8), points(2, seed=9)),
    "average": gr.average(points(20, seed=10)),
}


@pytest.mark.parametrize("beta", [1.0, 0.7])
@pytest.mark.parametrize("name", OBSERVABLES)
def test_expected_susceptibility_is_the_average_over_labels_of_refits(name, beta):
    observable, x = OBSERVABLES[name], points(2, 1, seed=11)
    posterior = head(beta=beta).condition(DATA)
    got = gr.acquisition.ExpectedSusceptibility(posterior, observable)(x).detach()
    draws = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The response is linear in the label, so that equally likely values at ±1 have the exact second moment.
    for b in range(2):
        spread = (posterior.variance(x[b]) + posterior.noise).sqrt()

        def moved(label, at=x[b]):
            changed = gr.refit_response(
                head(beta=beta), DATA, observable, gr.insert(at, posterior.mean(at) + label), h=1.0
            ).matrix
            return float(changed.square().sum())

        exact = 0.5 * (moved(spread) + moved(-spread))
        assert float(got[b]) == pytest.approx(exact, rel=1e-8)
        if b == 0 and beta == 1.0:
            sampled = torch.tensor([moved(spread * draw) for draw in draws])
            assert abs(float(sampled.mean()) - float(got[b])) < 4.0 * float(sampled.std()) / 300**0.5


def test_at_beta_one_it_is_the_variance_the_label_takes_away():
    observable = OBSERVABLES["average"]
    got = gr.acquisition.ExpectedSusceptibility(POSTERIOR, observable)(points(4, 1)).detach()

    def variance(posterior):
        return float(observable.weights @ posterior.cov(observable.points) @ observable.weights.T)

    for b in range(4):
        grown = gr.insert(points(4, 1)[b], torch.zeros(1, dtype=torch.float64)).apply(DATA, 1.0)
        assert float(got[b]) == pytest.approx(variance(POSTERIOR) - variance(head().condition(grown)), rel=1e-7)


def test_expected_susceptibility_is_optimised_and_differentiable():
    acquisition = gr.acquisition.ExpectedSusceptibility(POSTERIOR, OBSERVABLES["average"])
    assert torch.autograd.gradcheck(acquisition, (points(3, 1).requires_grad_(),), atol=1e-7)
    options = {"maxiter": 50}
    _, best = optimize_acqf(acquisition, bounds=BOUNDS, q=1, num_restarts=4, raw_samples=32, options=options)
    assert float(best) >= float(acquisition(points(200, 1)).max())


# Drivers --------------------------------------------------------------------------------------------------------------


def best_point(data, maximise, start):
    return gr.acquisition.drivers(head().condition(data), BOUNDS, x=start, maximise=maximise)


@pytest.mark.parametrize(("maximise", "labels"), [(True, False), (False, False), (True, True)])
def test_drivers_are_derivatives_of_the_maximiser_found_again(maximise, labels):
    found = gr.acquisition.drivers(POSTERIOR, BOUNDS, maximise=maximise, labels=labels)
    everywhere = POSTERIOR.mean(points(2000))
    assert found.mean >= float(everywhere.max()) - 1e-9 if maximise else found.mean <= float(everywhere.min()) + 1e-9
    for row in (0, 7, 20):
        ends = []
        for h in (1e-4, -1e-4):
            step = torch.zeros(25, dtype=torch.float64)
            step[row] = h
            train = DATA.train
            changed = DATA.with_train(y=train.y + step) if labels else DATA.with_train(weights=train.weights + step)
            ends.append(best_point(changed, maximise, found.x))
        slope = (ends[0].x - ends[1].x) / 2e-4
        assert torch.allclose(found.place[:, row], slope, rtol=1e-4, atol=1e-7)
        assert float(found.value.matrix[0, row]) == pytest.approx(
            (ends[0].mean - ends[1].mean) / 2e-4, rel=1e-4, abs=1e-8
        )


def test_a_column_at_its_bound_stays_there():
    x = torch.linspace(0.0, 1.0, 12, dtype=torch.float64)
    data = gr.dataset(torch.stack([x, x.flip(0) ** 2], dim=1), 3.0 * x, standardise=False)
    found = gr.acquisition.drivers(head(kernel=gr.RBF(lengthscale=2.0)).condition(data), BOUNDS)
    held = ~found.free
    assert bool(held.any())
    assert bool((found.place[held] == 0).all())


def test_drivers_are_told_by_name():
    found = gr.acquisition.drivers(POSTERIOR, BOUNDS)
    frame = found.top(3)
    assert list(frame.columns) == ["observation", "value", "place x0", "place x1", "distance"]
    assert float(frame["distance"][0]) == pytest.approx(float(found.place.norm(dim=0).max()))
    assert found.value.columns[0] == "0"
    assert len(found.to_frame()) == 25


def test_what_cannot_be_is_refused():
    sparse = gr.SGPR(gr.RBF(), 5).condition(DATA)
    assert_refused(sparse.to_botorch, "expected an exact posterior", error=InputError)
    expected = gr.acquisition.ExpectedSusceptibility
    assert_refused(lambda: expected(POSTERIOR, gr.variance(points(2))), "got variance", error=InputError)
    assert_refused(lambda: gr.acquisition.drivers(POSTERIOR, BOUNDS.flip(0)), "lowest before highest")
    assert_refused(lambda: gr.acquisition.drivers(POSTERIOR, BOUNDS, x=[2.0, 0.0]), "outside the bounds")
    found = gr.acquisition.drivers(POSTERIOR, BOUNDS)
    assert_refused(lambda: found.top(by="x"), "by='x'")
    for kernel in (gr.Constant(), gr.RBF(lengthscale=0.3, active_dims=[0])):
        flat = head(kernel=kernel).condition(DATA)
        assert_refused(
            lambda flat=flat: gr.acquisition.drivers(flat, BOUNDS), "flat at its maximiser", error=SolverError
        )


def test_the_package_is_imported_without_botorch():
    code = "import sys, gp_response; sys.exit('botorch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
