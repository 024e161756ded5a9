"""Posteriors known by draws: the truth is the exact posterior they were drawn from."""

import pytest
import torch
from refusals import assert_refused
from scipy.signal import lfilter

import gp_response as gr
from gp_response.heads.sampling import effective_size, sampled_covariance, split_rhat
from gp_response.testing import example_data, example_head

DATA = example_data()
HEAD = example_head()
POSTERIOR = HEAD.condition(DATA)
BOTH = torch.cat([DATA.train.x, DATA.test.x])
NOISE = float(HEAD.noise.detach())


def gaussian_draws(draws=2000, chains=4, seed=0, phi=0.0, x=BOTH, posterior=POSTERIOR):
    """Autoregressive draws of the exact posterior, (chains, draws, p): correlation φ between neighbours."""
    mean, cov = posterior.mean(x), posterior.cov(x)
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp_min(0.0).sqrt()
    z = torch.randn(chains, draws, len(x), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + autoregressive(z, phi) @ root.T


def autoregressive(z, phi):
    z = z.clone()
    z[:, 1:] *= (1 - phi**2) ** 0.5
    return torch.as_tensor(lfilter([1.0], [1.0, -phi], z.numpy(), axis=1))


def post(**kwargs):
    return gr.draws(gaussian_draws(**kwargs), DATA, likelihood=gr.Gaussian(noise=NOISE), beta=HEAD.beta)


OBSERVABLES = {
    "value": gr.value(DATA.test.x),
    "loss": gr.loss(DATA.test.x, DATA.test.y),
    "variance": gr.variance(DATA.test.x),
    "contrast": gr.contrast(DATA.test.x[:3], DATA.train.x[:3]),
    "average": gr.average(DATA.train.x),
    "pointwise": gr.pointwise(DATA.test.x, torch.sin),
}
PERTURBATIONS = {
    "reweight": gr.reweight(),
    "groups": gr.reweight({"a": [0, 1], "b": [5, 7, 9]}),
    "relabel": gr.relabel([3, 5]),
    "delete": gr.delete([[3, 4], [8]]),
    "noise": gr.noise(each=True),
    "insert": gr.insert(DATA.test.x[:2], DATA.test.y[:2], each=True),
}


SAMPLED = post()


@pytest.mark.parametrize("observable", OBSERVABLES)
@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_draws_of_an_exact_posterior_respond_as_it_does_within_their_intervals(observable, perturbation):
    asked, change = OBSERVABLES[observable], PERTURBATIONS[perturbation]
    truth = gr.susceptibility(POSTERIOR, asked, change)
    chi = gr.susceptibility(SAMPLED, asked, change)
    assert chi.columns == truth.columns
    assert chi.rows == truth.rows
    assert chi.unit == truth.unit
    score = (chi.matrix - truth.matrix).abs() / chi.standard_error
    assert float(score.max()) < 5.0
    assert bool((chi.effective > 2000).all())  # of 8000 independent draws; products have heavier tails


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_intervals_cover_the_truth_at_their_rate(phi):
    asked = gr.loss(DATA.test.x, DATA.test.y)
    truth = gr.susceptibility(POSTERIOR, asked, gr.reweight()).matrix
    inside = []
    for seed in range(40):
        chi = gr.susceptibility(post(draws=1500, seed=seed, phi=phi), asked, gr.reweight())
        inside.append(((chi.matrix - truth).abs() <= chi.error).double().mean())
    assert 0.92 < float(torch.stack(inside).mean()) < 0.975


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9, 0.97])
def test_effective_size_of_an_autoregression_is_known(phi):
    z = torch.randn(4, 20_000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 80_000 * (1 - phi) / (1 + phi)
    assert torch.allclose(effective_size(autoregressive(z, phi)).mean() / expected, torch.ones(()).double(), rtol=0.1)


def test_effective_draws_of_a_product_are_those_of_its_own_autocorrelation():
    """The product of two independent AR(1) traces is uncorrelated beyond φ²."""
    phi = 0.9
    z = torch.randn(4, 20_000, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = autoregressive(z, phi)
    found = sampled_covariance(x[..., :3], x[..., 3:])
    expected = 80_000 * (1 - phi**2) / (1 + phi**2)
    assert torch.allclose(found.effective.mean() / expected, torch.ones(()).double(), rtol=0.25)


def test_rhat_sees_chains_that_disagree_in_place_or_in_width_and_chains_that_drift():
    z = torch.randn(4, 1000, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z[0, :, 1] += 1.0
    z[0, :, 2] *= 3.0
    z[:, :, 3] += torch.linspace(-1.0, 1.0, 1000)
    z[..., 4] = z[..., 0] ** 3
    rhat = split_rhat(z)
    assert float(rhat[0]) < 1.01
    assert bool((rhat[1:4] > 1.05).all())
    assert float(rhat[4]) < 1.01
    heavy = torch.tan(torch.pi * (torch.rand(4, 1000, 1, dtype=torch.float64) - 0.5))
    assert float(split_rhat(heavy)) < 1.05  # ranks do not mind a Cauchy's tails


def test_rhat_of_two_half_chains_is_the_textbook_ratio():
    x = torch.randn(2, 40, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    half = torch.cat([x[:, :20], x[:, 20:]])[..., 0]
    order = half.flatten().argsort().argsort().reshape(4, 20) + 1
    z = torch.special.ndtri((order.double() - 0.375) / 80.25)
    within, between = z.var(dim=1).mean(), 20 * z.mean(dim=1).var()
    bulk = ((19 / 20 * within + between / 20) / within).sqrt()
    assert float(split_rhat(x)) >= float(bulk) - 1e-12


def test_results_of_chains_that_disagree_or_are_short_are_flagged():
    values = gaussian_draws()
    fine = gr.susceptibility(SAMPLED, gr.value(DATA.test.x), gr.reweight())
    assert fine.converged
    values[0, :, len(DATA.train.x)] += 5.0 * values[..., len(DATA.train.x)].std()
    off = gr.draws(values, DATA, likelihood=gr.Gaussian(noise=NOISE))
    assert gr.susceptibility(off, gr.value(DATA.test.x), gr.reweight()).flagged == (0,)
    short = gr.susceptibility(post(draws=20), gr.value(DATA.test.x), gr.reweight())
    assert not short.converged
    slow = gr.susceptibility(post(draws=400, phi=0.99), gr.value(DATA.test.x), gr.reweight())
    assert not slow.converged


def test_a_sampled_result_says_that_its_error_is_statistical_and_survives_a_file(tmp_path):
    chi = gr.susceptibility(SAMPLED, gr.loss(DATA.test.x, DATA.test.y), gr.reweight())
    assert "draws" in chi.sign
    assert "statistical" in chi.metadata()["error_is"]
    assert "interval" in repr(chi)
    assert "statistical" in chi.to_xarray().attrs["error_is"]
    back = gr.Susceptibility.load(chi.save(tmp_path / "chi.safetensors"))
    assert torch.equal(back.matrix, chi.matrix)
    assert back.order == "sampled"
    assert torch.equal(chi.to("devinterp").matrix, -chi.matrix / chi.beta)


def test_losses_alone_give_the_same_as_the_field_they_came_from():
    losses = SAMPLED.losses(BOTH, torch.cat([DATA.train.y, DATA.test.y]))
    only = gr.draws(losses, DATA, of="losses", beta=HEAD.beta)
    for change in (gr.reweight(), gr.delete([2, 3])):
        one, two = (gr.susceptibility(p, gr.loss(DATA.test.x, DATA.test.y), change) for p in (SAMPLED, only))
        assert torch.allclose(one.matrix, two.matrix, rtol=1e-12)
        assert torch.allclose(one.error, two.error, rtol=1e-9)
    with pytest.raises(gr.InputError, match="do not tell the field"):
        gr.susceptibility(only, gr.value(DATA.test.x), gr.reweight())


def test_parameters_with_a_callable_know_the_field_anywhere():
    theta = torch.randn(2, 500, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    width = DATA.dim

    def call(t, x):
        return x @ t[:width] if width <= 3 else x[:, :3] @ t

    anywhere = gr.draws(theta, DATA, call=call, likelihood=gr.Gaussian(noise=0.2))
    new = torch.randn(4, DATA.dim, dtype=torch.float64)
    stored = gr.draws(anywhere.field(torch.cat([new, DATA.train.x])), DATA, at=torch.cat([new, DATA.train.x]),
                      likelihood=gr.Gaussian(noise=0.2))  # fmt: skip
    one, two = (gr.susceptibility(p, gr.value(new), gr.reweight()) for p in (anywhere, stored))
    assert torch.equal(one.matrix, two.matrix)


def test_classes_are_read_class_by_class():
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    data = gr.dataset(x, torch.arange(12) % 3, standardise=False)
    values = torch.randn(2, 800, 12, 3, generator=generator, dtype=torch.float64)
    sampled = gr.draws(values, data, likelihood=gr.Categorical(3))
    losses = -torch.log_softmax(values, dim=-1)[:, :, torch.arange(12), torch.arange(12) % 3].flatten(0, 1)
    chi = gr.susceptibility(sampled, gr.value(x[:4]), gr.reweight())
    assert chi.rows[:2] == ("value[0], class 0", "value[0], class 1")
    expected = -torch.cov(torch.cat([values[:, :, :4].flatten(2).flatten(0, 1), losses], dim=1).T)[:12, 12:]
    assert torch.allclose(chi.matrix, expected, atol=1e-12)
    kernel = gr.susceptibility(sampled, gr.loss(x, data.train.y), gr.reweight()).to("kernel").matrix
    assert torch.allclose(kernel, torch.cov(losses.T), atol=1e-12)


def test_moments_are_those_of_the_draws():
    x = DATA.test.x
    flat = gaussian_draws()[:, :, len(DATA.train.x) :].flatten(0, 1)
    assert torch.allclose(SAMPLED.mean(x), flat.mean(dim=0))
    assert torch.allclose(SAMPLED.cov(x), torch.cov(flat.T))
    assert torch.allclose(SAMPLED.variance(x), SAMPLED.cov(x).diagonal())
    assert bool(((SAMPLED.residuals.value - POSTERIOR.residuals.value).abs() <= 3 * SAMPLED.residuals.error).all())


def test_what_draws_cannot_say_is_refused_with_what_to_do():
    gaussian = gr.Gaussian(noise=0.1)
    values = gaussian_draws(draws=20)
    refusals = [
        (lambda: gr.susceptibility(SAMPLED, gr.value(DATA.test.x + 1.0), gr.reweight()), "only where they were read"),
        (lambda: gr.susceptibility(SAMPLED, gr.gradient(DATA.test.x), gr.reweight()), "not read from draws"),
        (lambda: gr.susceptibility(SAMPLED, gr.value(DATA.test.x), gr.shift_inputs(0)), "no response from draws"),
        (lambda: gr.susceptibility(SAMPLED, gr.value(DATA.test.x), gr.noise()), "no response from draws"),
        (lambda: gr.susceptibility(SAMPLED, gr.evidence(), gr.reweight()), "not read from draws"),
        (lambda: gr.susceptibility(SAMPLED, gr.value(DATA.test.x), gr.reweight(), out="x.zarr"), "out="),
        (lambda: gr.finite_response(SAMPLED, gr.value(DATA.test.x), gr.delete([1])), "no solves"),
        (lambda: gr.draws(values, DATA), "need one"),
        (lambda: gr.draws(values[..., :7], DATA, likelihood=gaussian), "expected floating"),
        (lambda: gr.draws(values, DATA, likelihood=gaussian, beta=-1.0), "positive"),
        (lambda: gr.draws(values, DATA, of="loss"), "expected 'values'"),
        (lambda: gr.draws(values * float("nan"), DATA, likelihood=gaussian), "NaN"),
        (lambda: gr.draws(values[:1, :1].expand_as(values), DATA, likelihood=gaussian), "draws are the same"),
        (lambda: gr.draws(values[:, :0], DATA, likelihood=gaussian), "expected floating"),
        (lambda: gr.draws("draws.npy", DATA, likelihood=gaussian), "samples of type str"),
        (lambda: gr.draws(values[None], DATA, likelihood=gaussian, call=lambda theta, x: x[:, 0]), "parameters"),
        (lambda: gr.draws(values, DATA, likelihood=gaussian, call=lambda theta, x: None).mean(DATA.test.x), "a NoneType"),
        (lambda: gr.draws(values, DATA, likelihood=gaussian, at=BOTH[:, :1]), "expected"),
    ]  # fmt: skip
    for action, words in refusals:
        assert_refused(action, words)
