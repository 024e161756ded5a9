"""The response to redrawn labels is the spread of refits with redrawn labels, and never more than the posterior's own."""

import pytest
import torch
from refusals import assert_refused

import gp_response as gr
from gp_response.errors import InputError


def wavy(n, *, seed=0, dtype=torch.float64, noise=None, duplicates=0, extra=None):
    """n rows of a smooth function of three columns; the last `duplicates` nearly repeat the first."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, generator=generator, dtype=torch.float64) * 4 - 2
    if duplicates:
        x[-duplicates:] = x[:duplicates] + 1e-9
    y = (x * torch.tensor([1.0, 0.7, 0.2])).sum(dim=1).sin() + 0.2 * torch.randn(
        n, generator=generator, dtype=torch.float64
    )
    known = None if noise is None else torch.rand(n, generator=generator, dtype=torch.float64) * noise
    return gr.dataset(x.to(dtype), y.to(dtype), noise=known, standardise=False)


def head(noise=0.05, **options):
    return gr.Exact(gr.Matern52(ard=3, lengthscale=[1.0, 1.5, 4.0]), noise=noise, **options)


AT = torch.tensor([[0.1, -0.3, 0.5], [1.9, 1.9, -1.9], [2.6, 0.0, 0.0], [9.0, 9.0, 9.0]], dtype=torch.float64)


def refits(model, data, observable, deviation):
    """Change of the expectation when one label after the other moves by its own deviation, (n, m): whole refits."""
    start = gr.response.expectation(model.condition(data), observable)
    moved = []
    for i, step in enumerate(deviation):
        y = data.train.y.clone()
        y[i] += step
        moved.append(gr.response.expectation(model.condition(data.with_train(y=y)), observable) - start)
    return torch.stack(moved)


@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("known", [None, 0.3])
def test_it_is_what_refits_with_one_label_after_the_other_moved_add_up_to(noise, known):
    data, model = wavy(50, noise=known, duplicates=3), head(noise)
    posterior = model.condition(data)
    found = gr.noise_response(posterior, gr.value(AT))
    moved = refits(model, data, gr.value(AT), posterior.row_noise.sqrt().expand(len(data.train)))
    assert bool(found.converged)
    assert found.deviation.tolist() == pytest.approx(moved.norm(dim=0).tolist(), rel=1e-6, abs=1e-9)


def test_it_is_the_empirical_spread_of_refits_with_redrawn_labels():
    data, model, draws = wavy(40), head(0.04), 600
    posterior = model.condition(data)
    found = gr.noise_response(posterior, gr.value(AT[:3])).deviation
    generator = torch.Generator().manual_seed(3)
    noise = 0.2 * torch.randn(draws, 40, generator=generator, dtype=torch.float64)
    means = torch.stack([model.condition(data.with_train(y=data.train.y + e)).mean(AT[:3]) for e in noise])
    # The relative deviation of a standard deviation of R normal draws is 1/√(2R): four of them.
    assert means.std(dim=0).tolist() == pytest.approx(found.tolist(), rel=4.0 / (2.0 * draws) ** 0.5)
    assert (means.mean(dim=0) - posterior.mean(AT[:3])).abs().max() < 5.0 * found.max() / draws**0.5


@pytest.mark.parametrize("solver", [gr.Cholesky(), gr.CG(tolerance=1e-8)])
@pytest.mark.parametrize(("dtype", "noise"), [(torch.float64, 1e-1), (torch.float64, 1e-5), (torch.float32, 1e-2)])
def test_the_bound_holds_beyond_800_rows_against_a_dense_solve(solver, dtype, noise):
    data = wavy(900, dtype=dtype, duplicates=20)
    model = head(noise, solver=solver)
    found = gr.noise_response(model.condition(data), gr.value(AT.to(dtype)))
    x = data.train.x.double()
    with torch.no_grad():
        system = model.kernel.matrix(x) + noise * torch.eye(900, dtype=torch.float64)
        dense = noise**0.5 * torch.linalg.solve(system, model.kernel.matrix(x, AT.to(dtype).double())).norm(dim=0)
    assert found.deviation.dtype == dtype
    assert bool(found.converged)
    # A dense solve has errors of its own, of the order of the condition number.
    assert bool(((found.deviation.double() - dense).abs() <= found.error.double() + 1e-9 * dense.max() + 1e-14).all())
    assert bool((found.error[:3] < 1e-3 * found.deviation[:3]).all())


def test_posterior_variance_is_label_noise_and_the_squared_bias_that_the_prior_expects():
    data, noise = wavy(60), 0.03
    posterior = head(noise).condition(data)
    found = gr.noise_response(posterior, gr.value(AT)).deviation
    variance, x = posterior.variance(AT), data.train.x
    assert bool((found.square() <= variance).all())
    assert found[3] < 1e-3 * variance[3].sqrt()  # far away nothing responds, and the variance is the prior's
    prior, cross = posterior.prior_cov(x, x), posterior.prior_cov(x, AT)
    weights = torch.linalg.solve(prior + noise * torch.eye(60, dtype=torch.float64), cross)
    own = posterior.prior_cov(AT, AT).diagonal()
    bias = own - 2.0 * (weights * cross).sum(dim=0) + (weights * (prior @ weights)).sum(dim=0)
    assert torch.allclose(variance - found.square(), bias, atol=1e-12)


def test_weights_temperature_and_other_observables_are_those_of_refits():
    data = wavy(30)
    data = data.with_train(weights=torch.linspace(0.0, 2.0, 30, dtype=torch.float64))
    model = head(0.05, beta=2.0)
    posterior = model.condition(data)
    variances = torch.linspace(0.01, 0.5, 30, dtype=torch.float64)
    for observable in (gr.value(AT), gr.contrast(AT[:1], AT[1:2]), gr.variance(AT)):
        found = gr.noise_response(posterior, observable, noise=variances)
        moved = refits(model, data, observable, variances.sqrt())
        assert found.deviation.tolist() == pytest.approx(moved.norm(dim=0).tolist(), rel=1e-8, abs=1e-12)
    y = torch.ones(len(AT), dtype=torch.float64)
    found = gr.noise_response(posterior, gr.loss(AT, y), noise=1e-12)  # first order: labels must move by little
    moved = refits(model, data, gr.loss(AT, y), torch.full((30,), 1e-6, dtype=torch.float64))
    assert found.deviation.tolist() == pytest.approx(moved.norm(dim=0).tolist(), rel=1e-3, abs=1e-15)


def test_of_a_sparse_head_it_is_that_of_the_sparse_refit():
    data = wavy(80)
    model = gr.SGPR(gr.Matern52(lengthscale=1.5), 12, 0.05)
    found = gr.noise_response(model.condition(data), gr.value(AT))
    moved = refits(model, data, gr.value(AT), torch.full((80,), 0.05**0.5, dtype=torch.float64))
    assert found.deviation.tolist() == pytest.approx(moved.norm(dim=0).tolist(), rel=1e-7, abs=1e-10)


def test_a_student_t_posterior_answers_where_the_noise_is_given():
    data = wavy(40)
    model = gr.Exact(gr.Matern52(lengthscale=1.5), likelihood=gr.likelihoods.StudentT(scale=0.2, degrees=4.0))
    posterior = model.condition(data)
    found = gr.noise_response(posterior, gr.value(AT[:3]), noise=1e-10)
    moved = refits(model, data, gr.value(AT[:3]), torch.full((40,), 1e-5, dtype=torch.float64))
    assert found.deviation.tolist() == pytest.approx(moved.norm(dim=0).tolist(), rel=1e-3)
    assert_refused(lambda: gr.noise_response(posterior, gr.value(AT)), "no noise variance", error=InputError)


def test_bad_input_is_refused():
    posterior = head().condition(wavy(20))
    for noise in (-1.0, float("nan"), torch.ones(19), torch.ones(20, 1)):
        assert_refused(
            lambda noise=noise: gr.noise_response(posterior, gr.value(AT), noise=noise),
            "expected finite variances", error=InputError,
        )  # fmt: skip
    classes = wavy(30)
    classes = classes.with_train(y=(classes.train.y > 0).double())
    bernoulli = gr.Exact(gr.RBF(), likelihood=gr.Bernoulli()).condition(classes)
    assert_refused(lambda: gr.noise_response(bernoulli, gr.value(AT), noise=0.1), "delete and insert", error=InputError)
